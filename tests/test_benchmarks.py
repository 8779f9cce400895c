"""What the benchmarks make of what they measured."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from benchmarks import contract, large, profile, relay, soak
from benchmarks.planted import SAID, Fuses
from swapper_proxy.app import running
from swapper_proxy.config import Settings
from swapper_proxy.config.keys import hashed
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving

KEPT = {
    "ratios": {scenario: {figure: 2.0} for scenario, figure in contract.RATIOS},
    "limits": {scenario: {figure: 0.5} for scenario, figure in contract.LIMITS},
}
JSON = "JSON answer, 1 connection"


def measured(ratio: float = 2.0, proxy: float = 0.5) -> dict[str, Any]:
    """A run in which all figures have these values."""
    run: dict[str, Any] = {scenario: {"ratio": {figure: ratio}, "proxy": {}} for scenario, figure in contract.RATIOS}
    for scenario, figure in contract.LIMITS:
        run.setdefault(scenario, {})["proxy"] = {figure: proxy}
    return run


@pytest.mark.parametrize("run", [measured(), measured(2.5), measured(1.0, 0.1)])
def test_noise_and_better_figures_are_borne(run: dict[str, Any]) -> None:
    assert contract.worse(run, KEPT) == []


def test_a_ratio_may_not_be_a_quarter_worse() -> None:
    run = measured()
    run[JSON]["ratio"]["cpu_us"] = 2.6
    assert contract.worse(run, KEPT) == [f"{JSON}: cpu_us is 2.6, 30% above the ratio to nginx of 2 in the file"]


def test_a_limit_may_not_be_passed_at_all() -> None:
    run = measured()
    run["start"]["proxy"]["start_s"] = 0.55
    assert contract.worse(run, KEPT) == ["start: start_s is 0.55, 10% above the limit of 0.5 in the file"]


@pytest.mark.parametrize(("scenario", "figure"), [*contract.RATIOS, *contract.LIMITS])
def test_what_is_missing_in_the_run_is_told(scenario: str, figure: str) -> None:
    run = measured()
    del run[scenario]
    assert f"{scenario}: {figure} was not measured" in contract.worse(run, KEPT)


def test_what_is_missing_in_the_file_is_told() -> None:
    found = contract.worse(measured(), {})
    assert f"{JSON}: cpu_us: no ratio to nginx in the file" in found
    assert len(found) == len(contract.RATIOS) + len(contract.LIMITS)


def test_keeping_leaves_the_limits(tmp_path: Path) -> None:
    file = tmp_path / "ratios.json"
    file.write_text(json.dumps(KEPT))
    contract.keep(measured(1.5), {"cpus": 2}, file)
    kept = json.loads(file.read_text())
    assert kept["limits"] == KEPT["limits"]
    assert kept["ratios"][JSON] == {"cpu_us": 1.5}


def test_all_that_is_compared_is_in_the_file_and_measured() -> None:
    file = Path(contract.__file__).with_name("ratios.json")
    kept = json.loads(file.read_text())
    for part, wanted in (("ratios", contract.RATIOS), ("limits", contract.LIMITS)):
        assert {(scenario, figure) for scenario in kept[part] for figure in kept[part][scenario]} == set(wanted)
        assert {scenario for scenario, _ in wanted} <= set(relay.SCENARIOS)


def test_ratios_are_medians_of_rounds() -> None:
    rounds = {
        "direct": [{"p50_ms": 1.0}, {"p50_ms": 2.0}, {"p50_ms": 1.0}],
        "nginx": [{"p50_ms": 2.0}, {"p50_ms": 4.0}, {"p50_ms": 1.0}],
        "proxy": [{"p50_ms": 6.0}, {"p50_ms": 8.0}, {"p50_ms": 9.0}],
    }
    result = relay.summary(rounds)
    assert result["ratio"] == {"p50_ms": 3.0}
    assert result["proxy"] == {"p50_ms": 8.0, "added_p50_ms": 6.0}


LOOP = "<module> (swapper_proxy/__main__.py:6);run (uvloop/__init__.py:92);Loop__run (loop.c:20313)"
HANDLE = f"{LOOP};RequestHandler.start (aiohttp/web_protocol.py:577);Front.handle (swapper_proxy/web/front.py:9)"
RAW = [
    f"{LOOP} 1",
    f"{LOOP};epoll_pwait (libc.so.6) 40",
    f"{HANDLE} 2",
    f"{HANDLE};Connection.ask (swapper_proxy/ollama/connection.py:134);writev (libc.so.6) 60",
    "_write_all (swapper_proxy/storage/history.py:220);PyThread_acquire_lock_timed (python.so);0x7f (libc) 50",
    f"{HANDLE};Ledger.count (swapper_proxy/runtime/ledger.py:83);Counter.inc (prometheus_client/metrics.py:340) 3",
    f"{HANDLE};Ledger.count (swapper_proxy/runtime/ledger.py:84);gc_collect_main (gc.c:1);traverse (x.c:2) 4",
]


def test_each_sample_counts_for_its_innermost_part() -> None:
    shares = profile.parts(RAW, kernel=0.2)
    assert {part: round(share, 2) for part, share in shares.items() if share} == {
        "system calls": 0.2,
        "event loop": 0.08,
        "relaying": 0.16,
        "metrics and counting": 0.24,
        "garbage collection": 0.32,
    }
    assert set(shares) == set(profile.PARTS)


def test_functions_have_what_they_call_in_c() -> None:
    shares = profile.functions(RAW, kernel=0.2)
    assert {name: round(share, 2) for name, share in shares.items()} == {
        "Ledger.count (swapper_proxy/runtime/ledger.py)": 0.32,
        "Counter.inc (prometheus_client/metrics.py)": 0.24,
        "Front.handle (swapper_proxy/web/front.py)": 0.16,
        "run (uvloop/__init__.py)": 0.08,
    }


@pytest.mark.parametrize("more", [(), ("--real", "--minutes", "0.05")])
def test_a_short_soak(more: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--requests", "500", "--clients", "8", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all is well\n")


def test_recovery_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.recovery", "--rounds", "1", "--only", "one load fails", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())["faults"]["one load fails"]
    assert figures["worst_s"] > 0.9  # the model is given a second
    assert figures["median_s"] == figures["worst_s"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("wrong", ["1/1-1: no answer"]),
        ("waiting", 1),
        ("connections", 2),
        ("exit_code", None),
        ("in_the_log", ["x"]),
        ("files_flat", False),
        ("memory_peak_kb", 600_000),
        ("memory_end_kb", 200_000),
    ],
)
def test_a_soak_with_one_thing_wrong_is_not_well(field: str, value: object) -> None:
    zeros = ("refused_when_all_was_well_again", "in_flight", "waiting", "connections", "exit_code")
    well = dict.fromkeys(zeros, 0) | {"wrong": [], "in_the_log": [], "memory_flat": True, "files_flat": True}
    well |= {"upstream": {"twice": []}} | dict.fromkeys(("memory_start_kb", "memory_peak_kb", "memory_end_kb"), 50_000)
    assert soak.problems(well) == []
    assert len(soak.problems(well | {field: value})) == 1


def test_the_log_of_a_soak_may_tell_of_what_was_planted_only() -> None:
    planted = f"2026-11-30 10:00:00,000 ERROR   x\nTraceback (most recent call last):\nRuntimeError: {SAID}\n"
    other = "2026-11-30 10:00:01,000 INFO    x\nTraceback (most recent call last):\nKeyError: 1\n"
    assert soak.suspicious(planted) == []
    assert soak.suspicious(planted + other + planted) == ["Traceback (most recent call last):"]


async def test_large_bodies_get_what_they_should() -> None:
    names = ["m0", "m1", "m2"]
    models = [SimulatedModel(name, load_s=0, tokens_per_second=0) for name in names]
    models.append(SimulatedModel(large.BROKEN, load_s=0, broken=True))
    async with serving(Simulator(models)) as url:
        wanted = large.config("embedder") | {"upstream": {"url": url}}
        wanted["server"]["port"] = 0
        chosen = msgspec.convert(wanted, Settings)
        chosen = msgspec.structs.replace(chosen, keys=hashed(chosen.keys, {}))
        async with running(chosen) as proxy, aiohttp.ClientSession() as session:
            ends = {name: await large.ask(session, proxy.url, kind) for name, kind in large.kinds(names).items()}
    assert [(name, end) for name, end in ends.items() if end.startswith("WRONG")] == []
    assert ends["zstd bomb"] == ends["gzip bomb"] == "got 413"
    assert ends["a model of others"] == "got 403"


def test_what_is_planted_raises_again_and_again_until_it_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 1.0, 21.0, 21.0, 22.0, 90.0, 90.0, 91.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    fuses = Fuses(1)
    planted = fuses.plant("part", lambda value: value)
    assert planted(1) == 1
    for _ in range(2):
        with pytest.raises(RuntimeError, match=SAID):
            planted(1)
        assert planted(2) == 2
    assert fuses.blown == {"part": 2}
    fuses.mend()
    assert planted(3) == 3  # without a look at the clock
