"""What a workload file may say, and the one line that says what is wrong with it."""

import json
from pathlib import Path

import pytest
from msgspec import UNSET

from swapper_proxy.core.types import Priority
from swapper_proxy.replay import workload
from swapper_proxy.replay.workload import WorkloadError

FULL = b"""{"models": {"a": {"load_s": 12.0, "unload_s": 0.5, "size_gb": 8, "priority": "medium", "parallel": 1}},
 "mode": "single-active", "memory_budget_gb": null, "max_concurrent_models": 1, "until_s": null,
 "clients": [[{"after_s": 0.0, "model": "a", "service_s": 3.1, "priority": "high"},
              {"model": "a", "service_s": 1}], []]}"""


def refusal(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(WorkloadError) as caught:
        workload.parse(data, "w.json")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_step(step: str) -> str:
    return '{"models": {"a": {"load_s": 1}},\n "clients": [\n [],\n [{"model": "a", "service_s": 1},\n' + step + "]]}"


def with_model(model: str) -> str:
    return '{"clients": [],\n "models": {"ok": {"load_s": 1},\n "llama:8b": ' + model + "}}"


def test_everything_said() -> None:
    read = workload.parse(FULL, "w.json")
    assert read.models["a"].priority is Priority.MEDIUM
    assert read.clients[0][0].priority is Priority.HIGH
    assert (read.clients[0][1].after_s, read.clients[0][1].priority) == (0.0, None)
    assert (read.memory_budget_gb, read.max_concurrent_models, read.requests) == (None, 1, 2)


def test_what_is_left_out_is_known_to_be() -> None:
    read = workload.parse(b'{"models": {}, "clients": []}', "w.json")
    assert (read.mode, read.memory_budget_gb, read.max_concurrent_models, read.until_s) == (None, UNSET, None, None)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (
            '{"model": "a", "service_s": -1}',
            "w.json:5: clients[1][1].service_s: expected number >= 0, got -1",
        ),
        ('{"model": "a", "service_s": "x"}', 'w.json:5: clients[1][1].service_s: expected number, got "x"'),
        ('{"model": "a",\n"service_s": true}', "w.json:6: clients[1][1].service_s: expected number, got true"),
        ('{"model": "a"}', "w.json:5: clients[1][1].service_s: is required"),
        ('{"model": "a", "service_s": 1, "size": 2}', "w.json:5: clients[1][1].size: unknown key"),
        (
            '{"model": "b", "service_s": 1}',
            'w.json:5: clients[1][1].model: expected one of the models, got "b"',
        ),
        (
            '{"model": "a", "service_s": 1, "priority": "urgent"}',
            'w.json:5: clients[1][1].priority: expected high, medium or low, got "urgent"',
        ),
        ('{"model": 7, "service_s": 1}', "w.json:5: clients[1][1].model: expected str, got 7"),
        ("7", "w.json:5: clients[1][1]: expected object, got 7"),
        (
            '{"model": "a", "service_s": 1e13}',
            "w.json:5: clients[1][1].service_s: expected number <= 1000000000000, got 1e13",
        ),
        ('{"model": "a", "service_s": 1e999}', "w.json:5: clients[1][1].service_s: number out of range, got 1e999"),
    ],
)
def test_a_step_is_refused(step: str, said: str) -> None:
    assert refusal(with_step(step)) == said


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{}", "w.json:3: models.llama:8b.load_s: is required"),
        ('{"load_s": null}', "w.json:3: models.llama:8b.load_s: expected number, got null"),
        ('{"load_s": 1, "parallel": 0}', "w.json:3: models.llama:8b.parallel: expected int >= 1, got 0"),
        ('{"load_s": 1,\n"loads": []}', "w.json:4: models.llama:8b.loads: unknown key"),
        ('{"load_s": 1, "size_gb": [1, 2]}', "w.json:3: models.llama:8b.size_gb: expected number | null, got [1, 2]"),
        ("[]", "w.json:3: models.llama:8b: expected object, got []"),
    ],
)
def test_a_model_is_refused(model: str, said: str) -> None:
    assert refusal(with_model(model)) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "w.json:1: the document: expected object, got []"),
        ('{"models": {},\n"clients": {}}', "w.json:2: clients: expected array, got {}"),
        ('{"models": {}}', "w.json:1: clients: is required"),
        ('{"models": {}, "clients": [], "modus": 1}', "w.json:1: modus: unknown key"),
        (
            '{"models": {}, "clients": [], "mode": "x"}',
            'w.json:1: mode: expected single-active or multi-active, got "x"',
        ),
        ('{"models": {}, "clients": [],\n"until_s": -1}', "w.json:2: until_s: expected number >= 0, got -1"),
        (
            '{"models": {}, "clients": [],\n"max_concurrent_models": 0}',
            "w.json:2: max_concurrent_models: expected int >= 1, got 0",
        ),
    ],
)
def test_a_document_is_refused(text: str, said: str) -> None:
    assert refusal(text) == said


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (b"", "w.json:1:1: not valid JSON: input data was truncated"),
        (b'{"models": {},\n "clients": [}', "w.json:2:14: not valid JSON: invalid character"),
        (b'{"models": {},\n "clients": [[{"service_s": NaN}]]}', "w.json:2:29: not valid JSON: invalid character"),
        (b'{"models": {},\n "clients": []}\nx', "w.json:3:2: not valid JSON: trailing characters"),
        (b'{"models": {},\n "\xff": []}', "w.json:2:3: not valid JSON: not UTF-8"),
        (b'{"clients":' + b"[" * 10_000, "w.json: not valid JSON: maximum recursion"),
        (
            b'{"models": {},\n"clients": {"x',
            "w.json: not valid JSON: Unterminated string starting at: line 2 column 13",
        ),
        (b'{"models": [', "w.json: not valid JSON: Expecting value: line 1"),
    ],
)
def test_what_is_not_json_is_refused_with_line_and_column(text: bytes, where: str) -> None:
    assert refusal(text).startswith(where)


def test_a_key_given_twice_does_not_confuse_the_reader() -> None:
    assert refusal('{"models": {}, "clients": [],\n"clients": [[{"x": 1}]]}').startswith("w.json:")


def test_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_bytes(FULL)
    assert workload.read(tmp_path / "w.json").requests == 2
    with pytest.raises(WorkloadError, match=r"none\.json: cannot be read: No such file"):
        workload.read(tmp_path / "none.json")


def test_the_last_of_many_steps_is_found() -> None:
    steps = [{"model": "a", "service_s": 1.0}] * 20_000
    document = json.dumps({"models": {"a": {"load_s": 1}}, "clients": [steps]}, indent=0)
    assert refusal(document.removesuffix("1.0\n}\n]\n]\n}") + "-1}]]}").startswith("w.json:80007: clients[0][19999].")
