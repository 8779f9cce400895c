"""What tests lean on when the machine is busy: their clocks, their ports, and Ollama's lost ones."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import ports
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parent.parent
AGAIN = """
from pathlib import Path

import pytest

from tests.lost_ports import LOST
from tests.real.server import OllamaServer

log = Path(__file__).with_name("serve.log")
log.touch()
OllamaServer.logs.add(log)

@pytest.mark.parametrize("said", [LOST, b"something else"])
def test_one_that_works_the_second_time(said):
    is_first = said not in log.read_bytes()
    with log.open("ab") as written:
        written.write(said)
    assert not is_first
"""


@pytest.mark.usefixtures("own_time")
async def test_no_time_passes_while_something_is_done() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    time.sleep(0.01)
    assert loop.time() == began
    await asyncio.sleep(5)
    assert loop.time() == pytest.approx(began + 5)


async def test_time_passes_at_once(passes: Callable[[float], None]) -> None:
    waiting = asyncio.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)
    passes(3600)
    await asyncio.wait_for(waiting, LIMIT_S)


def test_any_port_is_one_of_ours() -> None:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        found = {each.getsockname()[1] for each in (one, other)}
    assert len(found) == 2
    assert all(ports.FIRST <= port < ports.FIRST + ports.NUMBER for port in found)


def test_only_what_lost_a_port_is_run_again(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.lost_ports import pytest_runtest_protocol\n")
    (tmp_path / "test_again.py").write_text(AGAIN)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "FAILED test_again.py::test_one_that_works_the_second_time[something else]" in done.stdout
