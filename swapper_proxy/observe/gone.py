"""When models that are gone leave the metrics."""

from collections.abc import Set

# Long enough for the last figures to be scraped.
GONE_S = 60.0
# Names can be made up faster than that: of more models those that have been gone for longest leave at once.
MOST_GONE = 20


class Gone:
    """Remembers since when models are gone, on the monotonic clock."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def look(self, gone: Set[str], now: float) -> set[str]:
        """Take note of all models that are gone now.  Return those that are to be dropped."""
        known = [name for name in self._since if name in gone]  # in the order in which they went
        self._since = {name: self._since[name] for name in known} | {
            name: now for name in sorted(gone) if name not in self._since
        }
        surplus = list(self._since)[: max(0, len(self._since) - MOST_GONE)]
        dropped = {name for name, since in self._since.items() if now - since >= GONE_S}.union(surplus)
        for name in dropped:
            del self._since[name]
        return dropped
