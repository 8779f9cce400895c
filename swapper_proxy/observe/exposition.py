"""What there is of every model, in Prometheus' text format: costs little to fill, and little to write.

The client library takes locks for each number that it is told, and some microseconds for each line that it writes: a
quarter of a second for 200 models, in which nothing else is served.  Here one thread does all, and the text of a
histogram is written once, with room for the labels and the numbers.  The tests compare it with the library's.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import lru_cache
from itertools import accumulate

LABELS = b"\0"  # where a template has room for them


@lru_cache(maxsize=10_000)
def labelled(names: tuple[str, ...], values: tuple[str, ...]) -> bytes:
    """The labels as they stand behind the name of a metric, in braces and in their order; nothing if there are none."""
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(zip(names, values, strict=True)))
    return f"{{{pairs}}}".encode() if pairs else b""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def head(name: str, kind: str, text: str) -> bytes:
    """What stands above the samples of a metric."""
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode()


def samples(name: str, values: Iterable[tuple[bytes, float]]) -> bytes:
    """One line for each of the labels."""
    encoded = name.encode()
    return b"".join([b"%b%b %r\n" % (encoded, labels, float(value)) for labels, value in values])


class Histogram:
    """How many values were at most as large as each of the bounds, and above the last; and the sum of all.

    `text` is how it was last shown, empty if it has changed.
    """

    __slots__ = ("_bounds", "_counts", "_sum", "text")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self.text = b""

    def observe(self, value: float) -> None:
        self.text = b""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def numbers(self) -> tuple[float, ...]:
        """As they are shown: each count with those below it, the count of all, the sum."""
        counts = tuple(accumulate(self._counts))
        return (*counts, counts[-1], self._sum)


class Histograms:
    """Those of one name, by model."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name, self._text, self._bounds = name, text, bounds
        self._template = _template(name, bounds)
        self._of: dict[str, Histogram] = {}
        self._labels: dict[str, bytes] = {}

    def of(self, model: str) -> Histogram:
        """Made when it is first asked for."""
        found = self._of.get(model)
        if found is None:
            self._labels[model] = labelled(("model",), (model,))
            found = self._of[model] = Histogram(self._bounds)
        return found

    @property
    def models(self) -> Set[str]:
        """All models that have one."""
        return self._of.keys()

    def forget(self, models: Set[str]) -> None:
        """Show nothing of these models any more."""
        for model in self._of.keys() & models:
            del self._of[model], self._labels[model]

    def exposition(self) -> Iterator[bytes]:
        """The text in pieces: all together it is megabytes, which are put together once."""
        yield head(self._name, "histogram", self._text)
        for labels, histogram in zip(self._labels.values(), self._of.values(), strict=True):
            histogram.text = histogram.text or (self._template % histogram.numbers()).replace(LABELS, labels[1:])
            yield histogram.text


def _template(name: str, bounds: Sequence[float]) -> bytes:
    """All lines of one histogram: room for the labels without their opening brace, and for the numbers."""
    upper = [*(str(float(bound)) for bound in bounds), "+Inf"]
    buckets = [f'{name}_bucket{{le="{bound}",\0 %d.0\n' for bound in upper]
    return "".join([*buckets, f"{name}_count{{\0 %d.0\n", f"{name}_sum{{\0 %r\n"]).encode()
