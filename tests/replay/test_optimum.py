"""The clairvoyant optimum that the benchmark compares with, and the benchmark itself."""

import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import clairvoyant, workloads
from benchmarks.clairvoyant import Point, Trace
from swapper_proxy.replay import host
from swapper_proxy.replay.simulation import Policy, simulate
from swapper_proxy.replay.workload import Model, Workload

MODELS = {"a": Model(load_s=10.0, unload_s=1.0), "b": Model(load_s=5.0, unload_s=0.5), "c": Model(load_s=0.0)}


def test_a_model_is_loaded_before_its_request_comes() -> None:
    assert clairvoyant.optimum(Trace({"a": [(20.0, 1.0)]}, MODELS)) == 0.0
    assert clairvoyant.optimum(Trace({"a": [(4.0, 1.0)]}, MODELS)) == 6.0


def test_to_wait_idle_may_be_best() -> None:
    """a at 10, idle from 11 to 12, a again, and b from 34: waits of 10, 0 and 33.  Any other order takes 71 or more."""
    requests = {"a": [(0.0, 1.0), (12.0, 1.0)], "b": [(1.0, 1.0)]}
    assert clairvoyant.optimum(Trace(requests, {**MODELS, "b": Model(load_s=20.0, unload_s=0.5)})) == 43.0


def test_without_requests() -> None:
    assert clairvoyant.optimum(Trace({}, MODELS)) == clairvoyant.brute_force(Trace({}, MODELS)) == 0.0


def test_what_is_beaten_is_forgotten() -> None:
    points = [Point(3.0, 1.0), Point(1.0, 3.0), Point(2.0, 3.0), Point(1.0, 4.0), Point(3.0, 1.0), Point(4.0, 0.0)]
    assert clairvoyant.unbeaten(points) == [Point(1.0, 3.0), Point(3.0, 1.0), Point(4.0, 0.0)]


times = st.sampled_from((0.0, 0.5, 1.0, 3.0, 8.0, 20.0))
queues = st.lists(st.tuples(times, times), max_size=3).map(sorted)


def test_a_model_is_loaded_on_demand() -> None:
    assert clairvoyant.optimum(Trace({"a": [(20.0, 1.0)]}, MODELS, ahead=False)) == 10.0


@given(st.fixed_dictionaries({"a": queues, "b": queues, "c": queues}), st.booleans())
def test_it_is_the_best_of_all_orders(requests: dict[str, list[tuple[float, float]]], ahead: bool) -> None:
    trace = Trace(requests, MODELS, ahead)
    assert clairvoyant.optimum(trace) == pytest.approx(clairvoyant.brute_force(trace))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("policy", Policy)
def test_no_policy_beats_it(seed: int, policy: Policy) -> None:
    workload = workloads.small(Random(seed))
    result = simulate(workload, host.of(workload), policy)
    best = clairvoyant.optimum(clairvoyant.trace(workload))
    assert result.wait_s.mean * workload.requests >= best - 1e-6


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_the_same_seed_gives_the_same_workload(name: str) -> None:
    def made(seed: int) -> Workload:
        return workloads.WORKLOADS[name](Random(seed))

    assert made(1) == made(1) != made(2)
    assert made(1).requests > 100


def test_the_benchmark_runs() -> None:
    command = [sys.executable, "-m", "benchmarks.scheduling", "--seeds", "1", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "Targets (bounded-wait)" in done.stdout
    assert "one who knows the future" in done.stdout
