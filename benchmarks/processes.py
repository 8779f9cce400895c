"""The processes that the relay benchmark compares, and what they use."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real.server import free_port

START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0
NGINX = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log warn;
worker_rlimit_nofile 65536;
events {{ worker_connections 32768; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_max_body_size 0; client_body_buffer_size 128k;
  keepalive_requests 1000000000;
  upstream ollama {{ server 127.0.0.1:{upstream}; keepalive 8192; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=8192;
    location / {{
      proxy_pass http://ollama; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_request_buffering off; proxy_read_timeout 1h;
    }}
  }}
}}
"""


class NotStarted(Exception):
    """What was to be measured does not run."""


@dataclass(frozen=True)
class Apart:
    """A network of the proxy's own: its address there, that of Ollama, and what connects it, given the proxy's pid."""

    host: str
    upstream: str
    plug: Callable[[int], None]


class Process:
    """One that serves on a port since `start_s` after its start; `pid` is the one that does the work."""

    def __init__(self, port: int, pid: int, start_s: float, host: str = "127.0.0.1") -> None:
        self.port = port
        self.url = f"http://{host}:{port}"
        self.pid = pid
        self.start_s = start_s
        self.exit_code: int | None = None  # once it has ended

    @property
    def cpu_s(self) -> float:
        """CPU time used so far by all its threads, in seconds."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += int((task / "schedstat").read_text().split()[0])
        return total * 1e-9

    @property
    def ticks(self) -> tuple[int, int]:
        """CPU time used so far by the program and by the kernel for it; only their ratio is meant."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(after_name[11]), int(after_name[12])

    @property
    def files(self) -> int:
        """How many are open, connections included."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def memory_kb(self, field: str = "VmRSS") -> int:
        """A line of /proc/PID/status."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))


@contextmanager
def upstream() -> Iterator[Process]:
    """The fast simulated Ollama."""
    port = free_port()
    with _started([sys.executable, "-m", "benchmarks.upstream", str(port)], port) as process:
        yield process


@contextmanager
def troubled(seed: int, report: Path, host: str = "127.0.0.1") -> Iterator[Process]:
    """A simulated Ollama with which things go wrong (see benchmarks.troubled)."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.troubled", str(seed), host, str(port), str(report)]
    with _started(command, port, host=host) as process:
        yield process


@contextmanager
def nginx(behind: int, folder: Path) -> Iterator[Process]:
    """One worker, no buffering, kept connections to what is behind it."""
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if binary is None:
        raise NotStarted("nginx is missing; on Debian: apt-get install nginx-light")
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, upstream=behind))
    with _started([binary, "-c", str(config), "-e", str(folder / "error.log")], port) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield Process(port, int(children[0]), process.start_s)


@contextmanager
def proxy(
    behind: int,
    config: dict[str, Any],
    folder: Path,
    code: Path | None = None,
    log: Path | None = None,
    module: Sequence[str] = ("swapper_proxy",),
    apart: Apart | None = None,
) -> Iterator[Process]:
    """The proxy as it ships, with the default settings but for those given; `code` is another checkout to run.

    `module` is what to run in its place, with arguments; `apart` puts it into a network of its own.
    """
    port = free_port()
    file = folder / "config.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    command = ["unshare", "--net"] if apart else []
    command += ["env", f"XDG_STATE_HOME={folder}"]  # its history is none of the user's
    command += [sys.executable, "-m", *module, "serve", "--config", str(file), "--port", str(port)]
    command += ["--upstream", f"http://{apart.upstream if apart else '127.0.0.1'}:{behind}"]
    command += ["--host", "0.0.0.0"] if apart else []
    host, plug = (apart.host, apart.plug) if apart else ("127.0.0.1", None)
    with _started(command, port, code, log, host, plug) as process:
        yield process


@contextmanager
def _started(
    command: list[str],
    port: int,
    folder: Path | None = None,
    said: Path | None = None,
    host: str = "127.0.0.1",
    plug: Callable[[int], None] | None = None,
) -> Iterator[Process]:
    """Until the end of the block.  What it says goes to a file, and into NotStarted."""
    with said.open("w+b") if said else tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            if plug is not None:
                plug(process.pid)
            if not _answers(process, host, port):
                log.seek(0)
                raise NotStarted(f"{' '.join(command)}: {log.read()[-1000:].decode(errors='replace')}")
            started = Process(port, process.pid, time.perf_counter() - began, host)
            yield started
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.exit_code = process.wait(STOP_LIMIT_S)
        finally:
            process.kill()
            process.wait()


def _answers(process: subprocess.Popen[bytes], host: str, port: int) -> bool:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://{host}:{port}/api/version", timeout=5).close()
            return True
        except urllib.error.HTTPError:
            return True  # it asks for a key
        except OSError:
            time.sleep(0.005)
    return False


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpus": os.cpu_count(),
        "cpu": model.partition(":")[2].strip(),
        "load": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "profile_guided": profile_guided(),
    }


def described() -> str:
    """The machine in a line."""
    seen = machine()
    built = "with" if seen["profile_guided"] else "not said to be built with"
    return f"{seen['cpus']} CPUs ({seen['cpu']}), Python {seen['python']}, {built} profile-guided optimisation."


def profile_guided() -> bool:
    """Whether this Python says that it was built with profile-guided optimisation; some are and do not say so.

    One that was not needs 1.2 to 1.4 times the time.
    """
    told = (str(sysconfig.get_config_var(name)) for name in ("CONFIG_ARGS", "PY_CFLAGS", "PY_CORE_CFLAGS"))
    return any(sign in flags for flags in told for sign in ("--enable-optimizations", "-fprofile-use"))
