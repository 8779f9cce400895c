"""`swapper-proxy simulate` as a person and as a program use it."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner, Result

from swapper_proxy.cli import main
from swapper_proxy.replay.audit import Audit

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
