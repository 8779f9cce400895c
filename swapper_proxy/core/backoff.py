"""How long Ollama is left alone after a load or an unload that failed."""

from collections.abc import Iterable

# After a failure Ollama is left alone for 1 s, then 2 s, 4 s ... up to a minute.
BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 60.0


class Backoff:
    """After each failure the pause is twice as long, until a success or until it was long ago."""

    __slots__ = ("_failures", "until")

    def __init__(self) -> None:
        self._failures = 0
        self.until = 0.0

    def failed(self, now: float) -> None:
        if self.forgotten(now):
            self._failures = 0
        self.until = now + min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2.0 ** min(self._failures, 6))
        self._failures += 1

    def clear(self) -> None:
        self._failures, self.until = 0, 0.0

    def forgotten(self, now: float) -> bool:
        """Return True if so much time has passed that the next failure counts as a first one."""
        return now >= self.until + BACKOFF_MOST_S or not self._failures


class LoadBackoffs:
    """The pauses of one key: of each variant that Ollama refused to load, and one that holds for all of them.

    A variant is a model over the same weights; what is wrong with its parameters does not concern the others.
    """

    __slots__ = ("_of_all", "_of_variant")

    def __init__(self) -> None:
        self._of_all = Backoff()
        self._of_variant: dict[str, Backoff] = {}

    def failed(self, variant: str | None, now: float) -> float:
        """Note that a load failed, with None for a reason that concerns all variants; return the pause in seconds."""
        if variant is None:
            backoff = self._of_all
        else:
            self._forget(now)
            backoff = self._of_variant.setdefault(variant, Backoff())
        backoff.failed(now)
        return backoff.until - now

    def until(self, variant: str) -> float:
        """Return when this variant may be loaded again."""
        own = self._of_variant.get(variant)
        return self._of_all.until if own is None else max(own.until, self._of_all.until)

    def earliest(self, variants: Iterable[str]) -> float:
        """Return when the first of these variants may be loaded again."""
        return min(map(self.until, variants)) if self._of_variant else self._of_all.until

    def clear(self, variant: str, now: float) -> None:
        """This variant may be loaded at once: it was loaded, or the operator says so."""
        self._of_all.clear()
        self._of_variant.pop(variant, None)
        self._forget(now)

    def clear_all(self) -> None:
        self._of_all.clear()
        self._of_variant.clear()

    def forgotten(self, now: float) -> bool:
        """Return True if the next failure of any variant counts as a first one."""
        return all(b.forgotten(now) for b in (self._of_all, *self._of_variant.values()))

    def _forget(self, now: float) -> None:
        self._of_variant = {name: b for name, b in self._of_variant.items() if not b.forgotten(now)}
