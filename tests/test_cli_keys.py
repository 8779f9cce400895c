"""The command line with keys."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from swapper_proxy.cli import main
from swapper_proxy.config import digest

KEY = "sk-0123456789abcdef"


def run(*arguments: str, given: str = "") -> Result:
    return CliRunner().invoke(main, arguments, input=given)


@pytest.mark.parametrize("given", [KEY, f"{KEY}\n", f"{KEY}\r\n"])
def test_the_digest_of_a_key(given: str) -> None:
    assert run("hash-key", given=given).output == f"key_sha256: {digest(KEY)}\n"
    assert json.loads(run("hash-key", "--json", given=given).output) == {"key_sha256": digest(KEY)}


def test_a_new_key() -> None:
    first, second = (json.loads(run("hash-key", "--random", "--json").output) for _ in range(2))
    assert first["key_sha256"] == digest(first["key"])
    assert first["key"] != second["key"]
    assert re.fullmatch(r"key: sk-[\w-]{43}\nkey_sha256: [0-9a-f]{64}\n", run("hash-key", "--random").output)


@pytest.mark.parametrize("given", ["", "\n", "a key", "schlüssel"])
def test_what_is_no_key(given: str) -> None:
    result = run("hash-key", given=given)
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = run("status", "--key-file", str(tmp_path / "none"))
    assert (result.exit_code, result.stderr) == (2, f"swapper-proxy: {tmp_path / 'none'}: No such file or directory\n")


def test_keys_are_checked_but_not_needed_by_those_who_only_explain(tmp_path: Path) -> None:
    file, request = tmp_path / "c.yaml", tmp_path / "r.json"
    file.write_text("keys: {clients: {a: {key_env: NOT_SET}}}\nmodels: {m: {path: 'ollama:x'}}")
    request.write_text('{"model": "m", "prompt": "x"}')
    checked = run("check-config", "--config", str(file))
    expected = f"swapper-proxy: {file}: keys.clients.a.key_env: NOT_SET: there is no key\n"
    assert (checked.exit_code, checked.stderr) == (2, expected)
    assert run("explain", str(request), "--config", str(file)).exit_code == 0
