"""Policies side by side on workloads made from seeds, and against the optimum of one who knows the future.

    python -m benchmarks.scheduling [--seeds N] [--first-seed K] [--quick]

Every figure is an average over the seeds; ratios are of averages.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from statistics import fmean

from benchmarks import clairvoyant, workloads
from swapper_proxy.replay import host
from swapper_proxy.replay.report import Result
from swapper_proxy.replay.simulation import Policy, simulate
from swapper_proxy.replay.workload import Workload

Runs = Mapping[Policy, Sequence[Result]]  # by seed
Measure = Callable[[Result], float]


def requests(result: Result) -> float:
    return result.requests


def mean_wait(result: Result) -> float:
    return result.wait_s.mean


def max_wait(result: Result) -> float:
    return result.wait_s.max


def loads(result: Result) -> float:
    return result.loads


def throughput(result: Result) -> float:
    return result.throughput_per_min


def wait_of(model: str) -> Measure:
    return lambda result: result.per_model[model].wait_s.mean


@dataclass(frozen=True, slots=True)
class Target:
    """What bounded-wait shall reach: a measure, or its ratio to exhaustive, at most (or at least) so much."""

    workload: str
    what: str
    measure: Measure
    goal: float
    at_least: bool = False
    ratio: bool = True

    def line(self, runs: Runs) -> str:
        value = average(runs[Policy.BOUNDED_WAIT], self.measure)
        if self.ratio:
            value /= average(runs[Policy.EXHAUSTIVE], self.measure)
        met = value >= self.goal if self.at_least else value <= self.goal
        sign = ">=" if self.at_least else "<="
        unit = "of exhaustive" if self.ratio else "s"
        text = f"{self.workload}: {self.what}"
        return f"  {'met   ' if met else 'MISSED'} {text:40} {value:8.2f} {unit:13} ({sign} {self.goal:g})"


TARGETS = (
    Target("two-open", "mean wait", mean_wait, 1.05),
    Target("two-open", "loads", loads, 1.05),
    Target("zipf-8", "mean wait", mean_wait, 1.05),
    Target("zipf-8", "loads", loads, 1.05),
    Target("agents", "requests a minute", throughput, 1.75, at_least=True),
    Target("agents", "loads", loads, 0.5),
    Target("agents-parallel", "requests a minute", throughput, 1.75, at_least=True),
    Target("agents-parallel", "loads", loads, 0.5),
    Target("starve", "max wait", max_wait, 0.8),
    Target("starve", "mean wait", mean_wait, 1.6),
    Target("rare-and-short", "mean wait of the rare model", wait_of("rare"), 10.0, ratio=False),
    Target("behind-a-queue", "wait of the urgent request", wait_of("urgent"), 90.0, ratio=False),
)
OPTIMUM_RATIO = 1.5


def main() -> None:
    options = _options()
    seeds = range(options.first_seed, options.first_seed + (2 if options.quick else options.seeds))
    runs = {name: _run(make, seeds) for name, make in workloads.WORKLOADS.items()}
    print(f"seeds {seeds.start} to {seeds.stop - 1}; requests, mean and max wait in s, loads, requests a minute;")
    print("in brackets: mean wait, loads, requests a minute as ratios to exhaustive\n")
    for name, by_policy in runs.items():
        print("\n".join(_comparison(name, by_policy)))
    print("\nTargets (bounded-wait)")
    for target in TARGETS:
        print(target.line(runs[target.workload]))
    print(f"\nWhere bounded-wait loses to exhaustive: {_losses(runs) or 'nowhere here'}")
    _against_the_optimum(seeds, 20 if options.quick else 100)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="how many seeds [default: 10]")
    parser.add_argument("--first-seed", type=int, default=1, metavar="K", help="the first of them [default: 1]")
    parser.add_argument("--quick", action="store_true", help="two seeds and few small traces")
    return parser.parse_args()


def average(results: Iterable[Result], measure: Measure) -> float:
    return fmean(map(measure, results))


def _run(make: Callable[[Random], Workload], seeds: Iterable[int]) -> Runs:
    made = [make(Random(seed)) for seed in seeds]
    return {policy: [_result(workload, policy) for workload in made] for policy in Policy}


def _result(workload: Workload, policy: Policy) -> Result:
    result = simulate(workload, host.of(workload), policy)
    if result.violations:
        print(f"VIOLATION ({policy}): {result.violations[0]} (one of {len(result.violations)})")
    return result


def _comparison(name: str, runs: Runs) -> Iterable[str]:
    yield name
    for policy, results in runs.items():
        asked, mean, most, swaps, rate = (average(results, m) for m in _SHOWN)
        ratios = (average(results, m) / average(runs[Policy.EXHAUSTIVE], m) for m in (mean_wait, loads, throughput))
        relative = " ".join(f"{ratio:5.2f}" for ratio in ratios)
        yield (
            f"  {policy:12} requests {asked:6.1f}  mean {mean:7.1f}  max {most:7.1f}  "
            f"loads {swaps:6.1f}  a minute {rate:5.2f}  [{relative}]"
        )


_SHOWN = (requests, mean_wait, max_wait, loads, throughput)


def _losses(runs: Mapping[str, Runs]) -> str:
    """By more than a percent, in mean wait or in throughput."""
    lost = []
    for name, by_policy in runs.items():
        wait, rate = (
            average(by_policy[Policy.BOUNDED_WAIT], m) / average(by_policy[Policy.EXHAUSTIVE], m)
            for m in (mean_wait, throughput)
        )
        if wait > 1.01 or rate < 0.99:
            lost.append(f"\n  {name}: mean wait {wait:.2f}, requests a minute {rate:.2f} of exhaustive")
    return "".join(lost)


def _against_the_optimum(seeds: range, traces: int) -> None:
    """Small traces, numbered from the first seed; the optimum with and without loads ahead of the requests."""
    small = [workloads.small(Random(seeds.start * 1000 + number)) for number in range(traces)]
    _check_the_optimum(seeds)
    waits = {policy: fmean(mean_wait(_result(workload, policy)) for workload in small) for policy in Policy}
    for ahead, who in ((True, "knows the future and loads ahead"), (False, "knows the future and loads on demand")):
        best = fmean(clairvoyant.optimum(clairvoyant.trace(w, ahead=ahead)) / w.requests for w in small)
        print(f"\nMean wait on {traces} small traces, against the optimum of one who {who} ({best:.1f} s)")
        for policy, wait in waits.items():
            goal = f"  {'met' if wait / best <= OPTIMUM_RATIO else 'MISSED'} (<= {OPTIMUM_RATIO})"
            print(f"  {policy:12} {wait / best:.2f} times{goal if policy is Policy.BOUNDED_WAIT else ''}")


def _check_the_optimum(seeds: range) -> None:
    """The program and every possible order must agree on tiny traces."""
    for seed in seeds:
        random = Random(seed)
        times = accumulate(random.expovariate(0.2) for _ in range(7))
        clients = [workloads.request(random, random.choice("abc"), time) for time in times]
        ahead = bool(seed % 2)
        tiny = clairvoyant.trace(workloads.work(workloads.slow(random, "abc"), clients), ahead=ahead)
        best, tried = clairvoyant.optimum(tiny), clairvoyant.brute_force(tiny)
        if abs(best - tried) > 1e-9:
            raise SystemExit(f"the optimum is wrong for seed {seed}: {best} instead of {tried}")


if __name__ == "__main__":
    main()
