"""Why there is no room for a key, however long it waits: told with names, sizes and the limit."""

from collections.abc import Callable
from dataclasses import dataclass

from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.types import Key

OWN = " with its own options"


@dataclass(frozen=True, slots=True)
class Shortage:
    """As long as pins and limits are as they are, `key` cannot be loaded.

    `size_gb` is what it takes, `pinned` what stays in memory, with the GB of each.  `most` is how many runners fit
    whose type has the `slot`; it is None if not their number is in the way, but the memory.
    """

    key: Key
    size_gb: float
    pinned: tuple[tuple[Key, float], ...]
    slot: str
    most: int | None
    memory_gb: float | None

    @property
    def reason(self) -> Rejection:
        return Rejection.PINNED_OUT if self.pinned else Rejection.TOO_LARGE

    def text(self, name: str, name_of: Callable[[Key], str]) -> str:
        """Say it to people, who call the key by this name, and the others as `name_of` says."""
        if not self.pinned:
            context = self._context
            less = f"raise it{', or ask for a smaller num_ctx' if context else ''}"
            return f"{name} takes {_gb(self.size_gb)}{context}, and memory_budget_gb is {self.memory_gb:g}; {less}"
        for key, _ in self.pinned:
            if key.runner == self.key.runner:
                return (
                    f"{name_of(key)} is pinned{_with(key) or OWN}, and cannot be loaded{_with(self.key) or OWN} beside "
                    "that; ask for it as it is pinned, or lift the pin"
                )
        if self.most is not None:
            stay = ", ".join(name_of(key) for key, _ in self.pinned)
            limit, cure = f"{self._number} in memory at a time", "lift a pin or allow more"
        else:
            name = f"{name}, which takes {_gb(self.size_gb)}{self._context}"
            stay = ", ".join(f"{name_of(key)} ({_gb(size_gb)})" for key, size_gb in self.pinned)
            limit, cure = f"memory_budget_gb is {self.memory_gb:g}", "lift a pin or raise the budget"
        verb = "is" if len(self.pinned) == 1 else "are"
        return f"there is no room for {name}: {stay} {verb} pinned, and {limit}; {cure}"

    @property
    def _context(self) -> str:
        """Say with which context, if it was chosen: of all options it is the one that takes memory."""
        return next((f" with num_ctx {value}" for name, value in self.key.options if name == "num_ctx"), "")

    @property
    def _number(self) -> str:
        which = f" of type {self.slot}" if self.slot else ""
        key = f"swapper.slots.{self.slot}" if self.slot else "mode, max_concurrent_models"
        return f"at most {self.most} model{'s' if self.most != 1 else ''}{which} ({key}) may be"


def _gb(size_gb: float) -> str:
    return f"{round(size_gb, 2):g} GB"


def _with(key: Key) -> str:
    """Say with which runner options; empty if with none but its own."""
    options = ", ".join(f"{name} {value}" for name, value in key.options)
    return f" with {options}" if options else ""
