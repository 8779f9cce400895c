"""What came of a simulation: tallied while it runs, then a result for programs and a table for people."""

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain


@dataclass(frozen=True, slots=True)
class Waits:
    """How long requests waited from release until granted, in seconds.  Percentiles are nearest-rank."""

    mean: float
    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class ModelResult:
    """The share of one model.  `service_s` is the sum over its requests."""

    requests: int
    rejected: int
    loads: int
    load_time_s: float
    service_s: float
    wait_s: Waits


@dataclass(frozen=True, slots=True)
class Result:
    """One workload under one policy.

    `requests` counts those released, `rejected` those of them turned away; `throughput_per_min` is of those served.
    `load_time_s` is the sum of all loads, `makespan_s` the time of the last answer.
    """

    policy: str
    loads: int
    unloads: int
    load_time_s: float
    makespan_s: float
    requests: int
    rejected: int
    throughput_per_min: float
    wait_s: Waits
    per_model: dict[str, ModelResult]
    violations: list[str]


@dataclass(slots=True)
class Tally:
    """What is counted of one model while the simulation runs."""

    waits: "array[float]" = field(default_factory=lambda: array("d"))
    requests: int = 0
    rejected: int = 0
    loads: int = 0
    unloads: int = 0
    load_time_s: float = 0.0
    service_s: float = 0.0

    @property
    def result(self) -> ModelResult:
        return ModelResult(
            self.requests, self.rejected, self.loads, self.load_time_s, self.service_s, summary(self.waits)
        )


def result(policy: str, tallies: dict[str, Tally], makespan_s: float, violations: list[str]) -> Result:
    """All models together."""
    served = sum(len(tally.waits) for tally in tallies.values())
    return Result(
        policy=policy,
        loads=sum(tally.loads for tally in tallies.values()),
        unloads=sum(tally.unloads for tally in tallies.values()),
        load_time_s=math.fsum(tally.load_time_s for tally in tallies.values()),
        makespan_s=makespan_s,
        requests=sum(tally.requests for tally in tallies.values()),
        rejected=sum(tally.rejected for tally in tallies.values()),
        throughput_per_min=60.0 * served / makespan_s if makespan_s else 0.0,
        wait_s=summary(chain.from_iterable(tally.waits for tally in tallies.values())),
        per_model={name: tally.result for name, tally in tallies.items()},
        violations=violations,
    )


def summary(waits: Iterable[float]) -> Waits:
    """Mean, percentiles and maximum; all 0 if nobody waited."""
    ordered = sorted(waits)
    if not ordered:
        return Waits(0.0, 0.0, 0.0, 0.0, 0.0)
    mean = math.fsum(ordered) / len(ordered)
    p50, p95, p99 = (nearest_rank(ordered, percent) for percent in (50, 95, 99))
    return Waits(mean, p50, p95, p99, ordered[-1])


def nearest_rank(ordered: Sequence[float], percent: int) -> float:
    """The smallest value that at least `percent` of 100 of the values do not exceed."""
    return ordered[-(-len(ordered) * percent // 100) - 1]


def table(results: Sequence[Result]) -> str:
    """The results side by side, then model by model, then what must not be."""
    parts = [grid([["", *(r.policy for r in results)], *([name, *map(cell, results)] for name, cell in _TOTALS)])]
    parts.append(grid([_MODEL_COLUMNS, *(row for result in results for row in _model_rows(result))], names=2))
    parts += [f"VIOLATION ({r.policy}): {violation}" for r in results for violation in r.violations]
    return "\n\n".join(parts)


_TOTALS: Sequence[tuple[str, Callable[[Result], str]]] = (
    ("requests", lambda r: str(r.requests)),
    ("rejected", lambda r: str(r.rejected)),
    ("loads", lambda r: str(r.loads)),
    ("unloads", lambda r: str(r.unloads)),
    ("loading, s", lambda r: f"{r.load_time_s:.1f}"),
    ("makespan, s", lambda r: f"{r.makespan_s:.1f}"),
    ("requests a minute", lambda r: f"{r.throughput_per_min:.2f}"),
    ("wait, s: mean", lambda r: f"{r.wait_s.mean:.2f}"),
    ("p50", lambda r: f"{r.wait_s.p50:.2f}"),
    ("p95", lambda r: f"{r.wait_s.p95:.2f}"),
    ("p99", lambda r: f"{r.wait_s.p99:.2f}"),
    ("max", lambda r: f"{r.wait_s.max:.2f}"),
)
_MODEL_COLUMNS = ["model", "policy", "requests", "loads", "service, s", "wait, s: mean", "p50", "p95", "p99", "max"]


def _model_rows(result: Result) -> list[list[str]]:
    return [
        [name, result.policy, str(model.requests), str(model.loads), f"{model.service_s:.1f}", *_cells(model.wait_s)]
        for name, model in result.per_model.items()
    ]


def _cells(waits: Waits) -> list[str]:
    return [f"{value:.2f}" for value in (waits.mean, waits.p50, waits.p95, waits.p99, waits.max)]


def grid(rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """Columns of one width each: so many of names to the left, then numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:names], widths, strict=False)]
        cells += [cell.rjust(width) for cell, width in zip(row[names:], widths[names:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
