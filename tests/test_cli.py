"""The command line as a person uses it: real processes, a proxy on its simulated Ollama."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from swapper_proxy import app
from swapper_proxy.cli import main
from swapper_proxy.config import ConfigError, Settings
from swapper_proxy.observe import logs
from tests.real.server import OllamaServer, free_port
from tests.waiting import LIMIT_S

CONFIG = """
models:
  chat: {path: "ollama:llama3", size_gb: 2}
  embed: {path: "ollama:nomic", type: embedding}
"""


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "swapper_proxy", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
        env=os.environ | environ,
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("cli")
    (folder / "c.yaml").write_text(CONFIG)
    served = ["serve", "--port", "0", "--config", str(folder / "c.yaml"), "--simulate-if-unreachable"]
    nobody = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "swapper_proxy", *served, "--upstream", nobody],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    note, line = process.stdout.readline(), process.stdout.readline()
    assert "simulated Ollama" in note
    assert "single-active" in line
    assert str(folder / "c.yaml") in line
    yield line.split(" on ")[1].split()[0]
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0
    process.stdout.close()


def test_a_chat_through_a_swap(served: str) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "stream": False}
    with urllib.request.urlopen(f"{served}/api/chat", json.dumps(body).encode()) as answer:
        assert json.load(answer)["message"]["content"]
    with urllib.request.urlopen(f"{served}/health") as answer:
        assert "simulated" in json.load(answer)["note"]
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{served}/history/requests")
    with caught.value as refused:
        assert json.load(refused)["error"]["code"] == "history_off"  # it would count among what happened


def test_load_status_models_unload(served: str) -> None:
    assert command("load", "chat", "--url", served).stdout == "Model chat loaded\n"
    status = json.loads(command("status", "--url", served, "--json").stdout)
    assert status["loaded_models"] == ["chat"]
    assert "in memory: chat" in command("status", "--url", served).stdout
    assert "llama3" in command("models", "--url", served).stdout
    assert len(json.loads(command("models", "--url", served, "--json").stdout)["models"]) == 2
    assert json.loads(command("unload", "chat", "--url", served, "--json").stdout)["status"] == "success"
    assert command("reload", "--url", served).stdout == "Configuration read again\n"


def test_exit_codes(served: str, tmp_path: Path) -> None:
    refused = command("load", "nope", "--url", served)
    assert (refused.returncode, refused.stderr) == (1, "swapper-proxy: no model is called 'nope'\n")
    assert command("status", "--url", f"http://127.0.0.1:{free_port()}").returncode == 3
    (tmp_path / "bad.yaml").write_text("swapper: {mode: x}")
    for name in ("check-config", "serve"):
        broken = command(name, "--config", str(tmp_path / "bad.yaml"))
        assert broken.returncode == 2
        assert broken.stderr.startswith(f"swapper-proxy: {tmp_path}/bad.yaml: swapper.mode:")
        assert broken.stderr.count("\n") == 1
    taken = command("serve", "--port", served.rpartition(":")[2])
    assert taken.returncode == 2
    assert "cannot listen on" in taken.stderr


PINNED_OPTIONS = "models: {a: {path: 'ollama:x', runner_options: {policy: pin, num_ctx: 8192}}}"


def test_serve_warns_at_its_start(served: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(PINNED_OPTIONS)
    taken = command("serve", "--config", str(tmp_path / "c.yaml"), "--port", served.rpartition(":")[2])
    assert "models.a.runner_options: /v1 clients cannot send options" in taken.stderr


def test_check_config_warns_and_is_content(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(PINNED_OPTIONS)
    lines = command("check-config", "--config", str(file)).stdout.splitlines()
    assert lines[0] == f"{file}: ok, 1 models, single-active"
    assert lines[1].startswith(f"{file}: warning: models.a.runner_options: /v1 clients cannot send options")
    answer = command("check-config", "--config", str(file), "--json")
    assert (answer.returncode, len(json.loads(answer.stdout)["warnings"])) == (0, 1)


ROUTES = f"""{CONFIG}
routes:
  auto: [{{has_tools: true, model: [other, chat]}}, {{longer_than: 10, model: chat}}]
"""
TOOLS = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function"}]}


def explained(tmp_path: Path, body: object, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "c.yaml").write_text(ROUTES)
    (tmp_path / "r.json").write_text(json.dumps(body))
    return command("explain", str(tmp_path / "r.json"), "--config", str(tmp_path / "c.yaml"), *arguments)


def test_explain(tmp_path: Path) -> None:
    said = explained(tmp_path, TOOLS, "--path", "/v1/messages", "--resident", "embed", "--resident", "Llama3:latest")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.splitlines() == [
        "chat (in Ollama llama3)",
        "why: model is auto; rule 1 of auto: has tools; chat is in memory",
        "request: /v1/messages, no images, has tools, no embedding, 2 characters",
    ]


def test_explain_what_cannot_be(tmp_path: Path) -> None:
    refused = explained(tmp_path, {"model": "auto", "prompt": "hi"})
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert refused.stderr.startswith("swapper-proxy: no rule of auto takes this request (no images,")
    misused = explained(tmp_path, [])
    assert (misused.returncode, misused.stdout, misused.stderr.count("\n")) == (2, "", 1)
    assert misused.stderr.startswith(f"swapper-proxy: {tmp_path}/r.json: not a JSON object: ")
    missing = command("explain", str(tmp_path / "no.json"))
    assert (missing.returncode, missing.stderr) == (
        2,
        f"swapper-proxy: {tmp_path}/no.json: No such file or directory\n",
    )


def test_explain_asks_a_running_proxy(served: str, tmp_path: Path) -> None:
    assert command("load", "chat", "--url", served).returncode == 0
    answer = json.loads(explained(tmp_path, TOOLS, "--url", served, "--json").stdout)
    assert (answer["model"], answer["ollama_name"], answer["rule"]) == ("chat", "llama3", 1)
    assert answer["traits"] == {"has_images": False, "has_tools": True, "is_embedding": False, "characters": 2}
    assert command("unload", "chat", "--url", served).returncode == 0
    assert json.loads(explained(tmp_path, TOOLS, "--url", served, "--json").stdout)["model"] == "other"
    assert explained(tmp_path, TOOLS, "--url", f"http://127.0.0.1:{free_port()}").returncode == 3


def test_explain_reads_standard_input() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "swapper_proxy", "explain", "-"],
        input='{"model": "a", "prompt": "x"}',
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
    )
    assert said.stdout.startswith("a (in Ollama a)\n")


def test_check_config_and_help() -> None:
    assert command("check-config", "--config", "config/swapper_config.yaml").stdout.endswith(
        "8 models, single-active\n"
    )
    text = command("--help").stdout
    for name in ("serve", "check-config", "status", "models", "load", "unload", "explain"):
        assert name in text


def test_a_file_that_is_gone_does_not_mean_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They know no keys: who reloads while the file is being replaced would open the door."""
    file = tmp_path / "config" / "swapper_config.yaml"
    file.parent.mkdir()
    file.write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWAPPER_CONFIG_PATH", raising=False)
    reads = []

    async def serve(_: object, *, read: Callable[[], Settings], **__: object) -> None:
        reads.append(read().source)
        file.unlink()
        with pytest.raises(ConfigError, match="no such file"):
            read()

    monkeypatch.setattr(app, "serve", serve)
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # of the tests
    assert CliRunner().invoke(main, ["serve"], catch_exceptions=False).exit_code == 0
    assert reads == ["config/swapper_config.yaml"]


def test_check_config_asks_the_ollama_behind_it(tmp_path: Path, ollama_server: OllamaServer) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("models: {chat: {path: 'ollama:alpha'}, big: {path: 'ollama:never-pulled'}}")
    probe = ("check-config", "--probe", "--config", str(file))
    done = command(*probe, OLLAMA_BASE_URL=ollama_server.url)
    assert (done.returncode, done.stderr) == (0, "")
    _, answers, missing = done.stdout.splitlines()
    assert answers.startswith(f"{ollama_server.url}: Ollama 0.")
    assert missing == f"{file}: warning: models.big: Ollama does not have it; get it with: ollama pull never-pulled"
    found = json.loads(command(*probe, "--json", OLLAMA_BASE_URL=ollama_server.url).stdout)["ollama"]
    assert (found["version"].startswith("0."), len(found["missing"])) == (True, 1)


def test_check_config_says_why_ollama_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("{}")
    url = f"http://127.0.0.1:{free_port()}"
    user_too = url.replace("//", "//ann:s3cret@")
    done = command("check-config", "--probe", "--config", str(tmp_path / "c.yaml"), OLLAMA_BASE_URL=user_too)
    assert (done.returncode, done.stdout, "s3cret" in done.stderr) == (1, "", False)
    told = f"swapper-proxy: {url}: Ollama is not reachable: nothing listens at {url[7:]} (connection refused); start "
    assert done.stderr.startswith(told)
