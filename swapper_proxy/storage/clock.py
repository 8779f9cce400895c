"""What time it may be: the wall clock alone must not decide what is too old."""

import time


class Clock:
    """Knows two times between which the present lies, although the wall clock may be wrong, or be set right under way.

    `last` is when something was recorded last, in seconds since the epoch, None if nothing ever was.  Since the start
    the steady clock tells how much time has passed; before it, how long the proxy was away is not known.
    """

    def __init__(self, last: float | None) -> None:
        self._began = steady_s()
        self._last = time.time() if last is None else last

    def bounds(self) -> tuple[float, float]:
        """The present is not before the first and not after the second, as far as both clocks can tell."""
        wall, counted = time.time(), self._last + steady_s() - self._began
        return min(wall, counted), max(wall, counted)


def steady_s() -> float:
    """Seconds on a clock that nobody sets; where the system has such a one, it goes on while the machine sleeps."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
