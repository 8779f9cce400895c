"""What the scheduler learns: how long a runner takes to load and unload, and how soon a key's clients come back."""

from collections.abc import Iterable
from dataclasses import dataclass

# Exponential weights of the averages: quick enough to follow a page cache that has warmed, slow enough for one outlier.
OLD, NEW = 0.7, 0.3
# Before anything was measured: a process start, and reading a GB from a good SSD.
LOAD_S = 2.0
LOAD_PER_GB_S = 0.5
LOAD_UNKNOWN_S = 10.0
# An unload takes milliseconds, and about 1.5 s where GPU memory has to come back.
UNLOAD_S = 1.0
# A hold without any experience costs those who wait at most so much of a swap together.  It is for the first calls of
# an agent: in simulation agents waited longer with none at all, and short traces of everybody with twice as much.
BLIND_HOLD = 0.05
# A hold is a little longer than the gap it aims at, so that jitter does not waste it.
HOLD_MARGIN, HOLD_MARGIN_S = 1.25, 0.05
# A reload behind the scheduler's back takes about as long as a load was measured to; what is shorter is looking up.
RELOAD_LEAST_S, RELOAD_PART = 0.1, 0.5
# What an answer is taken to last until one was measured.
SERVICE_S = 5.0


@dataclass(slots=True)
class Speed:
    """Average seconds to load and unload one runner, and of its answers; guesses until measured.

    No decision depends on how long answers last: only forecasts do.
    """

    load_s: float = LOAD_UNKNOWN_S
    unload_s: float = UNLOAD_S
    swap_s: float = LOAD_UNKNOWN_S + UNLOAD_S  # U + L: what it costs to have gone and to come back
    service_s: float = SERVICE_S
    loads: int = 0
    unloads: int = 0
    services: int = 0

    def is_load(self, seconds: float) -> bool:
        """Whether Ollama loaded if it says that loading took so long; for a loaded model it says milliseconds."""
        return seconds >= RELOAD_LEAST_S and (not self.loads or seconds >= RELOAD_PART * self.load_s)

    def sized(self, gb: float | None) -> None:
        """The size is known, nothing was measured."""
        if not self.loads and gb is not None:
            self.load_s = LOAD_S + LOAD_PER_GB_S * gb
            self.swap_s = self.unload_s + self.load_s

    def loaded(self, seconds: float) -> None:
        self.load_s = _average(self.load_s, seconds, self.loads)
        self.swap_s = self.unload_s + self.load_s
        self.loads += 1

    def unloaded(self, seconds: float) -> None:
        self.unload_s = _average(self.unload_s, seconds, self.unloads)
        self.swap_s = self.unload_s + self.load_s
        self.unloads += 1

    def served(self, seconds: float) -> None:
        self.service_s = _average(self.service_s, seconds, self.services)
        self.services += 1


def _average(average: float, sample: float, samples: int) -> float:
    """Exponentially weighted; the first sample replaces the guess."""
    return OLD * average + NEW * sample if samples else sample


def hold_s(gaps: Iterable[float], swap_s: float, waiting: int, theta: float) -> float:
    """How long to keep an idle resident, in seconds from the start of its idleness, while `waiting` others wait.

    `gaps` are past times from idle to the next request; one more, without end, stands for "never".  Keeping it for
    `h` saves half of a swap with the probability that the next gap is not longer, and costs everybody who waits the
    time until then: the `h` among the gaps is taken for which that pays best (anticipatory scheduling, Iyer and
    Druschel 2001), never longer than `theta` swaps (as in ski rental: then the swap is cheaper).  0: it never pays.
    """
    longest = theta * swap_s
    ordered = sorted(gaps)
    if not ordered:
        return min(longest, BLIND_HOLD * swap_s / waiting)
    samples = len(ordered) + 1
    best_s, best_gain, waited = 0.0, 0.0, 0.0
    for count, h in enumerate(ordered, 1):
        if h > longest:
            break
        waited += h
        gain = count * swap_s / 2 - waiting * (waited + (samples - count) * h)
        if gain > best_gain:
            best_s, best_gain = h, gain
    return min(longest, HOLD_MARGIN * best_s + HOLD_MARGIN_S) if best_gain else 0.0
