"""A real Ollama process on a free loopback port, with its own models and nothing of the user's."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Self

from tests.real.install import Binary
from tests.real.models import MODELS, Model, Weights, write_gguf
from tests.waiting import LIMIT_S


class OllamaServer:
    """Start, stop, kill and restart one real Ollama; `url` stays the same over restarts.

    Models that chat use so many threads; 0: as many as Ollama likes.  With two, which wait for each other after each
    layer, a long answer takes a hundred times as long where others use the machine, too.  `logs` is of all servers.
    """

    logs: ClassVar[set[Path]] = set()

    def __init__(self, binary: Binary, folder: Path, threads: int = 1, **environment: str) -> None:
        self._threads = threads
        self._binary = binary
        self._folder = folder
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "serve.log"
        self.logs.add(self.log)
        self.models = folder / "models"

    @contextmanager
    def holding(self, names: Iterable[str] = tuple(MODELS)) -> Iterator[Self]:
        """Up, with these models, until the end of the block."""
        self.start()
        try:
            self.create(names)
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binary.path), "serve"],
                cwd=self._binary.cwd,
                env=self._env(),
                stdout=log,
                stderr=log,
                start_new_session=True,  # its runners too get the signals below
            )
        self._wait_until_up()

    def stop(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """As a crash: no goodbye, runners included."""
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Until `thaw`: it does nothing at all, and its port still takes connections."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    @contextmanager
    def held(self) -> Iterator[None]:
        """No answer goes on in the block: what holds models is stopped.  Ollama itself is not."""
        if not self.signal_runners(signal.SIGSTOP):
            raise RuntimeError("no model is in memory")
        try:
            yield
        finally:
            self.signal_runners(signal.SIGCONT)

    def loads(self) -> int:
        """How often it has loaded a model so far, as its log tells."""
        return self.log.read_bytes().count(b"starting llama server")

    def signal_runners(self, number: int) -> int:
        """Only to the processes that hold models; to how many."""
        assert self._process is not None
        runners = _runners(self._process.pid)
        for runner in runners:
            os.kill(runner, number)
        return len(runners)

    def create(self, names: Iterable[str] = tuple(MODELS)) -> None:
        """Write the weights of these models and register them."""
        for name in names:
            self.create_model(name, MODELS[name])

    def create_model(self, name: str, model: Model) -> None:
        """Write its weights and register it."""
        modelfile = self._folder / f"{name}.Modelfile"
        chats = self._threads and not model.weights.embedding_only
        threads = f"PARAMETER num_thread {self._threads}\n" if chats else ""
        modelfile.write_text(f"FROM {self.weights(model.weights)}\n{model.modelfile}{threads}")
        self.command("create", name, "-f", str(modelfile))

    def command(self, *arguments: str) -> str:
        """Run Ollama's own command line against this server; what it printed.  Raises RuntimeError if it fails."""
        done = self.run(*arguments)
        if done.returncode:
            raise RuntimeError(f"ollama {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def run(self, *arguments: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run Ollama's own command line against this server, or against what is at `url`."""
        return subprocess.run(
            [str(self._binary.path), *arguments],
            cwd=self._binary.cwd,
            env=self._env() | ({"OLLAMA_HOST": url} if url else {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
            stdin=subprocess.DEVNULL,
        )

    def weights(self, weights: Weights) -> Path:
        """The GGUF file of these, written if need be."""
        path = self._folder / f"{weights.seed}.gguf"
        if not path.exists():
            write_gguf(path, weights)
        return path

    def _env(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self._folder),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(self.models),
            **self._binary.environment(),
            **self._environment,
        }

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{self.url}/api/version", timeout=LIMIT_S).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"Ollama did not start:\n{self.log.read_text()[-2000:]}")

    def _signal(self, number: int) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, number)
            os.killpg(self._process.pid, signal.SIGCONT)  # a frozen one would not see it
            self._process.wait()
            self._process = None


def _runners(process: int) -> list[int]:
    """The runners that this Ollama has started, at once where Linux tells them.

    None that is only about to become one: until then Ollama could neither go on nor end it.
    """
    if not Path(f"/proc/{process}/task/{process}/children").exists():
        command = ["pgrep", "-P", str(process), "-f", " runner "]
        return [int(pid) for pid in subprocess.run(command, capture_output=True, check=False).stdout.split()]
    found = []
    for thread in Path(f"/proc/{process}/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            for child in (thread / "children").read_text().split():
                if b"\0runner\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))  # noqa: PERF401
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
