"""A workload made of what was recorded, and the recorded figures beside the simulated ones.

Each request is a client of its own that asks once, when it really came: it does not wait for an earlier one to be
answered.  Its service is what was left of it without the queue.  Loads and unloads take what they took on average.
There may be millions of requests: they are gone through in order of arrival, and none is kept.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import fsum
from typing import Protocol

from swapper_proxy.config import Settings
from swapper_proxy.replay.report import Result, grid
from swapper_proxy.replay.workload import Model, Step, Workload, WorkloadError
from swapper_proxy.runtime.ports import RequestRecord, SwapRecord


class Requests(Protocol):
    """In order of arrival; they can be gone through more than once."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[RequestRecord]: ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """What happened; times are seconds."""

    requests: int
    loads: int
    load_time_s: float
    wait_mean_s: float
    wait_max_s: float


def summary(requests: Requests, swaps: Iterable[SwapRecord]) -> Recorded:
    """The figures that a simulation is compared with."""
    number, most_s = len(requests), 0.0
    loads = [swap.load_s for swap in swaps if not swap.failed]

    def waits() -> Iterator[float]:
        nonlocal most_s
        for request in requests:
            most_s = max(most_s, request.wait_s)
            yield request.wait_s

    mean_s = fsum(waits()) / number if number else 0.0
    return Recorded(number, len(loads), fsum(loads), mean_s, most_s)


def workload(requests: Requests, swaps: Iterable[SwapRecord], settings: Settings) -> Workload:
    """The same requests at the same times.  Raises WorkloadError if there are none."""
    first = next(iter(requests), None)
    if first is None:
        raise WorkloadError("the history holds no requests, or none since then")
    loads, unloads = _swap_times(swaps)
    usual = _mean(loads.values())  # of models that were in memory before the history begins
    models = {
        name: Model(
            load_s=loads.get(name, usual),
            unload_s=unloads.get(name, 0.0),
            parallel=_parallel(name, most, settings),
        )
        for name, most in _most_at_once(requests).items()
    }
    return Workload(models=models, arrivals=_Arrivals(requests, _arrival(first)))


@dataclass(frozen=True, slots=True)
class _Arrivals:
    """The requests as steps; `start` is when the first one came."""

    requests: Requests
    start: float

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Step]:
        for r in self.requests:
            yield Step(model=r.model, after_s=max(0.0, _arrival(r) - self.start), service_s=_service(r))


def _arrival(request: RequestRecord) -> float:
    return request.time - request.duration_s


def _service(request: RequestRecord) -> float:
    return max(0.0, request.duration_s - request.wait_s)


def _swap_times(swaps: Iterable[SwapRecord]) -> tuple[dict[str, float], dict[str, float]]:
    """How long loads and unloads of each model took on average."""
    loads, unloads = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for swap in swaps:
        if not swap.failed:
            loads[swap.to_model].append(swap.load_s)
        if swap.from_model:
            unloads[swap.from_model].append(swap.unload_s)
    return _means(loads), _means(unloads)


def _means(of: dict[str, list[float]]) -> dict[str, float]:
    return {name: _mean(all_of_them) for name, all_of_them in of.items()}


def _mean(values: Iterable[float]) -> float:
    them = list(values)
    return fsum(them) / len(them) if them else 0.0


def _parallel(name: str, most_at_once: int, settings: Settings) -> int | None:
    """None where the settings say it; else Ollama's own setting, or as many as it was seen to serve at once."""
    configured = settings.models.get(name)
    if settings.swapper.parallel or (configured and configured.parallel):
        return None
    return settings.ollama_num_parallel or most_at_once


def _most_at_once(requests: Requests) -> dict[str, int]:
    """Of each model."""
    seen = defaultdict[str, _AtOnce](_AtOnce)
    for r in requests:
        seen[r.model].arrived(_arrival(r), r.time - _service(r), r.time)
    return {name: one.most() for name, one in seen.items()}


@dataclass(slots=True)
class _AtOnce:
    """Counts how many requests are served at once; told of them as they arrive, it keeps only those under way.

    What begins before the last arrival can be counted: whatever arrives later begins later.
    """

    _begins: list[tuple[float, float]] = field(default_factory=list)  # and ends; not counted yet
    _ends: list[float] = field(default_factory=list)
    _most: int = 1

    def arrived(self, at: float, begin: float, end: float) -> None:
        self._count(at)
        heappush(self._begins, (begin, end))

    def most(self) -> int:
        self._count(math.inf)
        return self._most

    def _count(self, before: float) -> None:
        while self._begins and self._begins[0][0] < before:
            begin, end = heappop(self._begins)
            while self._ends and self._ends[0] <= begin:
                heappop(self._ends)
            heappush(self._ends, end)
            self._most = max(self._most, len(self._ends))


def table(recorded: Recorded, results: Sequence[Result]) -> str:
    """What would have changed: a column for what was, one for each policy."""
    return grid([["", "recorded", *(result.policy for result in results)], *_rows(recorded, results)])


def _rows(recorded: Recorded, results: Sequence[Result]) -> Iterator[list[str]]:
    yield ["requests", str(recorded.requests), *(str(result.requests) for result in results)]
    yield ["loads", str(recorded.loads), *(_against(result.loads, recorded.loads, "d") for result in results)]
    for name, was, figures in (
        ("loading, s", recorded.load_time_s, [result.load_time_s for result in results]),
        ("wait, s: mean", recorded.wait_mean_s, [result.wait_s.mean for result in results]),
        ("max", recorded.wait_max_s, [result.wait_s.max for result in results]),
    ):
        yield [name, f"{was:.2f}", *(_against(figure, was, ".2f") for figure in figures)]


def _against(figure: float, was: float, form: str) -> str:
    """`3 (-2)`."""
    return f"{figure:{form}} ({figure - was:+{form}})"
