"""A workload made of what was recorded, and the recorded figures beside the simulated ones.

Each request is a client of its own that asks once, when it really came: it does not wait for an earlier one to be
answered.  Its service is what was left of it without the queue.  Loads and unloads take what they took on average.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import fsum

from swapper_proxy.config import Settings
from swapper_proxy.replay.report import Result, grid
from swapper_proxy.replay.workload import Model, Step, Workload, WorkloadError
from swapper_proxy.runtime.ports import RequestRecord, SwapRecord


@dataclass(frozen=True, slots=True)
class Recorded:
    """What happened; times are seconds."""

    requests: int
    loads: int
    load_time_s: float
    wait_mean_s: float
    wait_max_s: float


def summary(requests: Sequence[RequestRecord], swaps: Sequence[SwapRecord]) -> Recorded:
    """The figures that a simulation is compared with."""
    waits = [request.wait_s for request in requests]
    loads = [swap.load_s for swap in swaps if not swap.failed]
    return Recorded(len(requests), len(loads), fsum(loads), _mean(waits), max(waits, default=0.0))


def workload(requests: Sequence[RequestRecord], swaps: Sequence[SwapRecord], settings: Settings) -> Workload:
    """The same requests at the same times.  Raises WorkloadError if there are none."""
    if not requests:
        raise WorkloadError("the history holds no requests")
    start = min(map(_arrival, requests))
    loads, unloads = _load_times(swaps), _unload_times(swaps)
    usual = _mean(loads.values())  # of models that were in memory before the history begins
    models = {
        name: Model(
            load_s=loads.get(name, usual),
            unload_s=unloads.get(name, 0.0),
            parallel=_parallel(name, of, settings),
        )
        for name, of in _by_model(requests).items()
    }
    steps = sorted((_arrival(r) - start, r.model, _service(r)) for r in requests)
    return Workload(models=models, clients=[[Step(model=m, after_s=at, service_s=s)] for at, m, s in steps])


def _arrival(request: RequestRecord) -> float:
    return request.time - request.duration_s


def _service(request: RequestRecord) -> float:
    return max(0.0, request.duration_s - request.wait_s)


def _by_model(requests: Iterable[RequestRecord]) -> Mapping[str, list[RequestRecord]]:
    by_model = defaultdict[str, list[RequestRecord]](list)
    for request in requests:
        by_model[request.model].append(request)
    return by_model


def _load_times(swaps: Iterable[SwapRecord]) -> dict[str, float]:
    return _means((swap.to_model, swap.load_s) for swap in swaps if not swap.failed)


def _unload_times(swaps: Iterable[SwapRecord]) -> dict[str, float]:
    return _means((swap.from_model, swap.unload_s) for swap in swaps if swap.from_model)


def _means(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    of = defaultdict[str, list[float]](list)
    for name, seconds in pairs:
        of[name].append(seconds)
    return {name: _mean(all_of_them) for name, all_of_them in of.items()}


def _mean(values: Iterable[float]) -> float:
    them = list(values)
    return fsum(them) / len(them) if them else 0.0


def _parallel(name: str, requests: Iterable[RequestRecord], settings: Settings) -> int | None:
    """None where the settings say it; else Ollama's own setting, or as many as it was seen to serve at once."""
    configured = settings.models.get(name)
    if settings.swapper.parallel or (configured and configured.parallel):
        return None
    return settings.ollama_num_parallel or _most_at_once(requests)


def _most_at_once(requests: Iterable[RequestRecord]) -> int:
    ends: list[float] = []
    most = 1
    for begin, end in sorted((r.time - _service(r), r.time) for r in requests):
        while ends and ends[0] <= begin:
            heappop(ends)
        heappush(ends, end)
        most = max(most, len(ends))
    return most


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
