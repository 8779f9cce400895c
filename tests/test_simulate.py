"""`swapper-proxy simulate` as a person and as a program use it."""

import json
import tracemalloc
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner, Result

from swapper_proxy.cli import main
from swapper_proxy.config import Model, Settings, Swapper
from swapper_proxy.replay import recorded
from swapper_proxy.replay.audit import Audit
from swapper_proxy.replay.host import of
from swapper_proxy.replay.simulation import Policy, simulate
from swapper_proxy.runtime.ports import RequestRecord, SwapRecord, Usage
from swapper_proxy.storage.excerpt import Excerpt
from swapper_proxy.storage.schema import STEPS, opened
from swapper_proxy.storage.writing import write

WORKLOAD = {
    "models": {"a": {"load_s": 10.0, "unload_s": 1.0}, "b": {"load_s": 5.0}},
    "clients": [[{"model": "a", "service_s": 2.0}], [{"model": "b", "service_s": 1.0, "after_s": 3.0}]],
}


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "w.json").write_text(json.dumps(WORKLOAD))
    return str(tmp_path / "w.json")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["simulate", *arguments])


def test_json_is_the_result(file: str) -> None:
    answer = json.loads(run(file, "--json", "--policy", "exhaustive").stdout)
    assert set(answer) == {
        *("policy", "loads", "unloads", "load_time_s", "makespan_s", "requests", "rejected"),
        *("throughput_per_min", "wait_s", "per_model", "violations"),
    }
    assert set(answer["wait_s"]) == {"mean", "p50", "p95", "p99", "max"}
    assert (answer["loads"], answer["unloads"], answer["makespan_s"]) == (2, 1, 19.0)
    assert answer["wait_s"]["max"] == 15.0


def test_several_policies_are_compared(file: str) -> None:
    named = ("--policy", "fifo", "--policy", "bounded-wait", "--policy", "fifo")
    assert [answer["policy"] for answer in json.loads(run(file, "--json", *named).stdout)] == ["fifo", "bounded-wait"]
    done = run(file, *named)
    assert done.exit_code == 0
    assert done.stdout.split()[:2] == ["fifo", "bounded-wait"]
    assert "wait, s: mean" in done.stdout
    assert done.stderr == ""


def test_a_malformed_workload_is_one_line(file: str) -> None:
    Path(file).write_text('{"models": {},\n "clients": [[{"model": "x", "service_s": 1}]]}')
    done = run(file)
    assert done.exit_code == 2
    assert done.stderr == f'swapper-proxy: {file}:2: clients[0][0].model: expected one of the models, got "x"\n'
    assert run(file + ".none").exit_code == 2


def test_violations_are_shown(file: str) -> None:
    with patch.object(Audit, "violations", ["1.000 s: something"]):
        done = run(file)
    assert done.exit_code == 1
    assert "VIOLATION (bounded-wait): 1.000 s: something" in done.stdout


def test_the_configuration_says_what_the_workload_leaves_out(file: str, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("swapper: {mode: multi-active, max_concurrent_models: 2}")
    assert json.loads(run(file, "--json", "--config", str(config)).stdout)["unloads"] == 0
    config.write_text("swapper: {mode: x}")
    assert run(file, "--config", str(config)).exit_code == 2


# From the history


def asked(at: float, model: str, wait_s: float = 0.0, service_s: float = 2.0) -> RequestRecord:
    """A request that came at this time."""
    end = 1_764_000_000.0 + at + wait_s + service_s
    return RequestRecord(end, model, "chat", 200, wait_s, None, wait_s + service_s, Usage())


def swapped(gone: str, come: str, load_s: float, failed: bool = False) -> SwapRecord:
    return SwapRecord(1_764_000_000.0, gone, come, "idle", 0.0, 1.0, load_s, failed)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Two models by turns, each request loading its model anew."""
    file = tmp_path / "h.sqlite"
    with closing(opened(file)) as db:
        requests = [asked(0, "a", 10), asked(1, "b", 16), asked(2, "a", 28), asked(50, "b", 6)]
        swaps = [swapped("", "a", 10), swapped("a", "b", 5), swapped("b", "a", 10), swapped("a", "b", 5)]
        write(db, [*requests, *swaps, swapped("", "b", 100, failed=True)])
    return file


def configured(tmp_path: Path, text: str) -> tuple[str, str]:
    (tmp_path / "c.yaml").write_text(text)
    return "--config", str(tmp_path / "c.yaml")


def test_the_history_under_other_settings(history: Path, tmp_path: Path) -> None:
    both = configured(tmp_path, "swapper: {mode: multi-active, max_concurrent_models: 2}")
    done = run("--from-history", str(history), "--json", *both)
    assert done.exit_code == 0
    answer = json.loads(done.stdout)
    assert answer["recorded"] == {
        **{"requests": 4, "loads": 4, "load_time_s": 30.0},
        **{"wait_mean_s": 15.0, "wait_max_s": 28.0},
    }
    (simulated,) = answer["simulated"]
    assert (simulated["requests"], simulated["loads"], simulated["load_time_s"]) == (4, 2, 15.0)
    assert simulated["wait_s"] == {"mean": 8.5, "p50": 10.0, "p95": 14.0, "p99": 14.0, "max": 14.0}
    assert simulated["makespan_s"] == 52.0


def test_what_would_have_changed_is_said(history: Path, tmp_path: Path) -> None:
    both = configured(
        tmp_path, f"swapper: {{mode: multi-active, max_concurrent_models: 2}}\nhistory: {{path: {history}}}"
    )
    done = run("--policy", "fifo", "--policy", "bounded-wait", *both, "--from-history")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[:3] == [
        ["recorded", "fifo", "bounded-wait"],
        ["requests", "4", "4", "4"],
        ["loads", "4", "2", "(-2)", "2", "(-2)"],
    ]
    assert rows[5][0:3] == ["max", "28.00", "14.00"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "give either WORKLOAD.json or --from-history"),
        (("w.json", "--from-history", "h.sqlite"), "give either WORKLOAD.json or --from-history"),
        (("--from-history", "none.sqlite"), "none.sqlite: unable to open database file"),
        (("--from-history", "text"), "text: file is not a database"),
        (("--from-history", "empty"), "empty: no such table: requests"),
        (("--from-history", "unused.sqlite"), "the history holds no requests"),
        (("--from-history", "newer.sqlite"), "newer.sqlite was written by a newer version"),
        (("--config", "off.yaml", "--from-history"), "history is off"),
    ],
)
def test_what_is_no_history_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("nonsense " * 1000)
    Path("empty").touch()
    Path("off.yaml").write_text("history: off")
    opened(tmp_path / "unused.sqlite").close()
    opened(tmp_path / "newer.sqlite", (*STEPS, "CREATE TABLE more (x)")).close()
    done = run(*arguments)
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert not Path("none.sqlite").exists()


NOW = 1_764_000_000.0


@pytest.mark.parametrize(
    ("since", "requests", "loads"),
    [
        ("0", 4, 4),
        ("2025-11-24T16:00:40", 1, 0),
        (str(int(NOW) + 29), 2, 0),
        ("30s", 2, 0),
        ("1m", 4, 4),
        ("1d", 4, 4),
    ],
)
def test_of_the_history_only_what_is_later(
    history: Path, monkeypatch: pytest.MonkeyPatch, since: str, requests: int, loads: int
) -> None:
    monkeypatch.setattr("swapper_proxy.cli.time.time", lambda: NOW + 58)
    was = json.loads(run("--from-history", str(history), "--since", since, "--json").stdout)["recorded"]
    assert (was["requests"], was["loads"]) == (requests, loads)


@pytest.mark.parametrize("since", ["yesterday", "-1d", "5 d", "1w", "", "\u0665d"])
def test_what_is_no_time_is_refused(history: Path, since: str) -> None:
    done = run("--from-history", str(history), "--since", since)
    assert done.exit_code == 2
    assert f"or an age like 24h, got {since!r}" in done.stderr


def test_a_workload_has_no_since(file: str) -> None:
    done = run(file, "--since", "1d")
    assert done.exit_code == 2
    assert "give either WORKLOAD.json or --from-history, with --since if you like" in done.stderr


def test_millions_of_requests_take_no_more_memory_than_thousands(tmp_path: Path) -> None:
    """Beside the waits, of which the figures are made: each a number."""

    def peak_bytes(number: int) -> int:
        file = tmp_path / f"{number}.sqlite"
        with closing(opened(file)) as db:
            write(db, [asked(at * 3.0, "a") for at in range(number)])
        tracemalloc.start()
        with Excerpt(file) as chosen:
            work = recorded.workload(chosen.requests, chosen.swaps, Settings())
            recorded.summary(chosen.requests, chosen.swaps)
            simulate(work, of(work, Settings()), Policy.BOUNDED_WAIT)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(100)  # what is made once
    assert peak_bytes(4000) - peak_bytes(1000) < 100 * 3000


@pytest.mark.parametrize(
    ("settings", "parallel"),
    [
        (Settings(), 2),  # as many as were seen
        (Settings(ollama_num_parallel=4), 4),
        (Settings(swapper=Swapper(parallel=3)), None),  # the settings say it
        (Settings(models={"a": Model(path="ollama:a", parallel=1)}), None),
    ],
)
def test_how_many_at_once(settings: Settings, parallel: int | None) -> None:
    requests = [asked(0, "a", 5), asked(6, "a"), asked(7, "a", 0, 0), asked(8, "a")]
    assert recorded.workload(requests, [], settings).models["a"].parallel == parallel


def test_a_model_whose_load_was_not_seen_takes_as_long_as_the_others() -> None:
    work = recorded.workload([asked(0, "a"), asked(0, "c")], [swapped("", "a", 10), swapped("", "b", 5)], Settings())
    assert {name: model.load_s for name, model in work.models.items()} == {"a": 10.0, "c": 7.5}
