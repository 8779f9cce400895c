"""Watches what a scheduler has done, on records of its own, and says what must never happen.

Each model is absent, loading, loaded or unloading; a request waits, is in flight or answered.  Checked are: one load
or unload at a time, the limits, no unload with work in flight, grants only to loaded models and at most `parallel`
at once, every request granted or rejected once, and a grant for every load unless all who waited for it left.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from swapper_proxy.core.types import Profile, State
from swapper_proxy.replay.host import Host

# More are counted, but not described.
DESCRIBED = 100


@dataclass(slots=True)
class _Watched:
    """A model.  `asked` is the last request there was when its load began."""

    profile: Profile
    state: State = State.ABSENT
    waiting: set[int] = field(default_factory=set)
    in_flight: int = 0
    grants: int = 0
    stayed: int = 0
    asked: int = -1


class Audit:
    """The violations of one simulation; every method is told the time, in seconds."""

    def __init__(self, host: Host) -> None:
        self._limits = host.limits
        self._models = {name: _Watched(profile) for name, profile in host.profiles.items()}
        self._under_way = 0
        self._last = -1
        self._described: list[str] = []
        self._found = 0

    @property
    def violations(self) -> list[str]:
        more = self._found - len(self._described)
        return [*self._described, f"and {more} more"] if more else list(self._described)

    def arrived(self, request: int, model: str) -> None:
        self._models[model].waiting.add(request)
        self._last = request

    def granted(self, now: float, request: int, model: str) -> bool:
        """Whether the request was waiting for it."""
        watched = self._models[model]
        if request not in watched.waiting:
            self.note(now, f"request {request} for {model} is granted twice")
            return False
        if watched.state is not State.RESIDENT:
            self.note(now, f"request {request} is granted while {model} is {watched.state}")
        watched.waiting.remove(request)
        watched.in_flight += 1
        watched.grants += 1
        if watched.in_flight > watched.profile.parallel:
            self.note(now, f"{watched.in_flight} requests in flight for {model}, at most {watched.profile.parallel}")
        return True

    def rejected(self, now: float, request: int, model: str) -> bool:
        """Whether the request was waiting."""
        watched = self._models[model]
        if request not in watched.waiting:
            self.note(now, f"request {request} for {model} is rejected after it was granted")
            return False
        watched.waiting.remove(request)
        watched.stayed -= request <= watched.asked
        return True

    def finished(self, model: str) -> None:
        self._models[model].in_flight -= 1

    def load_started(self, now: float, model: str) -> None:
        watched = self._models[model]
        self._begin(now, f"load of {model}")
        if watched.state is not State.ABSENT:
            self.note(now, f"load of {model}, which is {watched.state}")
        watched.state = State.LOADING
        watched.grants, watched.stayed, watched.asked = 0, len(watched.waiting), self._last
        if not watched.waiting:
            self.note(now, f"load of {model}, for which nobody waits")
        for exceeded in self._exceeded():
            self.note(now, f"load of {model}: {exceeded}")

    def loaded(self, model: str) -> None:
        self._under_way -= 1
        self._models[model].state = State.RESIDENT

    def unload_started(self, now: float, model: str) -> None:
        watched = self._models[model]
        self._begin(now, f"unload of {model}")
        if watched.state is not State.RESIDENT:
            self.note(now, f"unload of {model}, which is {watched.state}")
        if watched.in_flight:
            self.note(now, f"unload of {model} with {watched.in_flight} requests in flight")
        self._end_residency(now, model, watched)
        watched.state = State.UNLOADING

    def unloaded(self, model: str) -> None:
        self._under_way -= 1
        self._models[model].state = State.ABSENT

    def closed(self, now: float) -> None:
        """Nothing will happen any more."""
        for model, watched in self._models.items():
            if watched.state is State.RESIDENT:
                self._end_residency(now, model, watched)
            for request in sorted(watched.waiting):
                self.note(now, f"request {request} for {model} is lost: never granted nor rejected")

    def note(self, now: float, text: str) -> None:
        self._found += 1
        if self._found <= DESCRIBED:
            self._described.append(f"{now:.3f} s: {text}")

    def _begin(self, now: float, what: str) -> None:
        if self._under_way:
            self.note(now, f"{what} while another load or unload is under way")
        self._under_way += 1

    def _end_residency(self, now: float, model: str, watched: _Watched) -> None:
        if not watched.grants and watched.stayed > 0:
            self.note(now, f"{model} was loaded without any grant, and {watched.stayed} who waited had not left")

    def _exceeded(self) -> Iterator[str]:
        limits, present = self._limits, [w.profile for w in self._models.values() if w.state is not State.ABSENT]
        resident = sum(profile.slot not in limits.slots for profile in present)
        if resident > limits.max_resident:
            yield f"{resident} models, at most {limits.max_resident}"
        for slot, most in limits.slots.items():
            if (filled := sum(profile.slot == slot for profile in present)) > most:
                yield f"{filled} models of type {slot}, at most {most}"
        memory_gb = sum(profile.size_gb or 0.0 for profile in present)
        if limits.memory_gb is not None and memory_gb > limits.memory_gb * (1 + 1e-9):
            yield f"{memory_gb:g} GB, at most {limits.memory_gb:g}"
