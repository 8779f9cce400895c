"""The processes that the relay benchmark compares, and what they use."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.real.server import free_port

START_LIMIT_S = 20.0
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


class Process:
    """One that serves on a port; `pid` is the one that does the work."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid

    @property
    def cpu_s(self) -> float:
        """CPU time used so far by all its threads, in seconds."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += int((task / "schedstat").read_text().split()[0])
        return total * 1e-9

    def memory_kb(self, field: str = "VmRSS") -> int:
        """A line of /proc/PID/status."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))


def more_files() -> None:
    """As many open files as the machine allows: for this process and what it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def upstream() -> Iterator[Process]:
    """The fast simulated Ollama."""
    port = free_port()
    with _started([sys.executable, "-m", "benchmarks.upstream", str(port)], port) as process:
        yield Process(port, process.pid)


@contextmanager
def nginx(behind: int, folder: Path) -> Iterator[Process]:
    """One worker, no buffering, kept connections to what is behind it."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, upstream=behind))
    with _started(["nginx", "-c", str(config), "-e", str(folder / "error.log")], port) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield Process(port, int(children[0]))


@contextmanager
def proxy(behind: int, config: dict[str, Any], folder: Path) -> Iterator[Process]:
    """The proxy as it ships, with the default settings but for those given."""
    port = free_port()
    file = folder / "config.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    command = [sys.executable, "-m", "swapper_proxy", "serve", "--config", str(file), "--port", str(port)]
    command += ["--upstream", f"http://127.0.0.1:{behind}"]
    with _started(command, port) as process:
        yield Process(port, process.pid)


@contextmanager
def _started(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=None)
    try:
        _answers(process, port)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=5).close()
            return
        except OSError:
            time.sleep(0.005)
    raise RuntimeError(f"did not start: {' '.join(process.args if isinstance(process.args, list) else [])}")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpus": os.cpu_count(),
        "cpu": model.partition(":")[2].strip(),
        "load": os.getloadavg()[0],
        "python": sys.version.split()[0],
    }
