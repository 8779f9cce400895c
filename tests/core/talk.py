"""Conversations with the scheduler: events in, commands out, the clock is the test's.

`Changed`, `Held` and `WakeAt` have tests of their own; the others leave them out.
"""

from dataclasses import replace
from typing import Any

from swapper_proxy.core.commands import Changed, Command, Held, Reject, Reloaded, WakeAt
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.events import Event
from swapper_proxy.core.scheduler import Scheduler
from swapper_proxy.core.types import Cause, Key, Limits, Priority, Profile, Rules, State

A, B, C, D = Key("a"), Key("b"), Key("c"), Key("d")
A_LONG = Key("a", (("num_ctx", 8192),))
A_GPU = Key("a", (("num_gpu", 5),))
WIDE = Profile(parallel=8)
HIGH, LOW = Priority.HIGH, Priority.LOW

# The arithmetic in these conversations stays as it is when the constants are tuned.
RULES = Rules(kappa=2.0)

# When to come back is exact after a failed load; else it is a guess, and not what these conversations are about.
EXACT = (Rejection.LOAD_FAILED, Rejection.BACKING_OFF)


class Talk:
    """A scheduler and what it says."""

    def __init__(self, **limits: Any) -> None:
        self.scheduler = Scheduler(Limits(**{"rules": RULES, **limits}))
        self.everything: list[Command] = []

    def __call__(self, now: float, *events: Event) -> list[Command]:
        self.everything = self.scheduler.handle(events, now)
        return [without_guess(c) for c in self.everything if not isinstance(c, Changed | Held | Reloaded | WakeAt)]

    @property
    def wake(self) -> list[float]:
        return [command.time for command in self.everything if isinstance(command, WakeAt)]

    @property
    def changes(self) -> list[tuple[Key, State, Cause]]:
        return [(c.key, c.state, c.cause) for c in self.everything if isinstance(c, Changed)]

    @property
    def holds(self) -> list[tuple[Key, float, bool]]:
        return [(c.key, c.seconds, c.paid) for c in self.everything if isinstance(c, Held)]

    @property
    def states(self) -> dict[Key, State]:
        """Of all that is in memory."""
        return {record.key: record.state for record in self.scheduler.residencies() if record.occupies}


def without_guess(command: Command) -> Command:
    exact = not isinstance(command, Reject) or command.reason in EXACT
    return command if exact else replace(command, retry_after_s=None)
