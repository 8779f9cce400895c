"""The distributions, and a proxy started from wherever it was installed."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.real.server import free_port
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Distributions:
    """The two files that are published."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The source distribution, and the wheel that is built from it and not from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Distributions(sdist, wheel)


@dataclass
class Proxy:
    """A proxy that runs."""

    url: str
    process: subprocess.Popen[str]

    def ask(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self.url + path, data, timeout=LIMIT_S) as answer:
            return json.load(answer)


@contextmanager
def started(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[Proxy]:
    """Run `command`, which serves on a simulated Ollama, until the end of the block; then it must stop by SIGTERM."""
    nobody = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [*command, "--upstream", nobody, "--simulate-if-unreachable"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**environment, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    with process, process.stdout as printed:
        said = []
        for line in printed:
            said.append(line)
            if line.startswith("swapper-proxy ") and " on " in line:
                break
        else:
            pytest.fail(f"it did not start: {''.join(said)}")
        try:
            yield Proxy(line.split(" on ")[1].split()[0], process)
            process.terminate()
            assert process.wait(LIMIT_S) == 0
        finally:
            process.kill()


def bare_environment() -> dict[str, str]:
    """This one without what would let the checkout or another environment show through."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV", "SWAPPER_", "OLLAMA_", "COV_"))
    }
