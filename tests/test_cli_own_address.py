"""The command line asks the proxy itself: through no proxy of the environment, and not where a redirect leads."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from swapper_proxy import calling
from tests.real.server import free_port
from tests.waiting import LIMIT_S

PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


class Server(HTTPServer):
    """Answers all with this status, these headers and this body; `asked` is what came: path and Authorization."""

    def __init__(self, status: int = 200, body: object = b"", **headers: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = status, headers, body if isinstance(body, bytes) else json.dumps(body).encode()
        self.asked: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Authorization"]))
        status, headers, body = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def answering(*answer: Any, **headers: str) -> Iterator[Server]:
    with Server(*answer, **headers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in PROXIES}
    return subprocess.run(
        [sys.executable, "-m", "swapper_proxy", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
        env=kept | environ,
    )


STATUS = {
    "status": "healthy",
    "reason": None,
    "mode": "single-active",
    "loaded_models": [],
    "memory": [],
    "waiting": 0,
    "in_flight": 0,
}


@pytest.mark.parametrize("name", ["health", "status"])
def test_the_proxies_of_the_environment_are_not_asked(name: str) -> None:
    with answering(200, STATUS) as server, answering(502) as elsewhere:
        done = command(name, "--url", server.url, **dict.fromkeys(PROXIES, elsewhere.url))
        assert (done.returncode, done.stderr) == (0, "")
        assert [path for path, _ in server.asked] == [f"/{name}"]
        assert elsewhere.asked == []


@pytest.mark.parametrize("host", ["", "0.0.0.0", "127.0.0.1"])
def test_the_own_address_is_that_of_the_environment(host: str) -> None:
    """As in the image, where these say where the proxy listens."""
    with answering(200, {"status": "healthy"}) as server:
        done = command("health", SWAPPER_PORT=str(server.server_port), SWAPPER_HOST=host)
        assert (done.returncode, done.stdout) == (0, "healthy\n")


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:8890"),
        ({"SWAPPER_HOST": "::", "SWAPPER_PORT": "1"}, "http://[::1]:1"),
        ({"SWAPPER_HOST": "box"}, "http://box:8890"),
        ({"SWAPPER_HOST": "fd00::1", "SWAPPER_PORT": ""}, "http://[fd00::1]:8890"),
    ],
)
def test_own_addresses(environ: dict[str, str], url: str) -> None:
    assert calling.own_url(environ) == url


def test_a_degraded_proxy_answers_and_says_why() -> None:
    """To start it again would not bring its Ollama back."""
    with answering(200, {"status": "degraded", "reason": "Ollama is not reachable: x"}) as server:
        done = command("health", "--url", server.url)
        assert (done.returncode, done.stdout) == (0, "degraded: Ollama is not reachable: x\n")
        assert json.loads(command("health", "--url", server.url, "--json").stdout)["status"] == "degraded"


def test_a_key_is_told_to_nobody_else() -> None:
    with answering(200, STATUS) as thief, answering(302, b"", Location=thief.url) as server:
        done = command("status", "--url", server.url, SWAPPER_KEY="sk-1")
        text = f"swapper-proxy: {server.url} redirects (HTTP 302) to {thief.url}: give that address as --url\n"
        assert (done.returncode, done.stderr) == (1, text)
        assert server.asked == [("/status", "Bearer sk-1")]
        assert thief.asked == []


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        ((404, b"404 page not found"), 1, "HTTP 404: is Swapper Proxy at URL?"),
        ((200, b"Ollama is running"), 3, "no proxy answers at URL: Expecting value"),
        ((200, {"status": "UP"}), 3, "what answers at URL is no Swapper Proxy"),
        ((200, b"[1, 2]"), 3, "no proxy answers at URL: cannot convert dictionary"),
        ((503, {"error": {"message": "no"}}), 1, "no"),
    ],
)
def test_what_is_no_proxy(answer: tuple[int, object], code: int, text: str) -> None:
    with answering(*answer) as server:
        done = command("health", "--url", server.url)
        assert done.returncode == code
        assert done.stderr.startswith(f"swapper-proxy: {text}".replace("URL", server.url))
        assert done.stderr.count("\n") == 1


def test_an_address_that_is_none() -> None:
    port = free_port()
    for url, text in (
        (f"http://127.0.0.1:{port}", f"no proxy answers at http://127.0.0.1:{port}: [Errno "),
        ("127.0.0.1:1", "'127.0.0.1:1' is no URL of a proxy; it must begin with http://, as in http://127.0.0.1:8890"),
        ("file:///etc", "'file:///etc' is no URL of a proxy; it must begin with http://"),
        ("http://127.0.0.1:x", "no proxy answers at http://127.0.0.1:x: nonnumeric port: 'x'"),
    ):
        done = command("health", "--url", url)
        assert (done.returncode, done.stderr.count("\n")) == (3, 1)
        assert done.stderr.startswith(f"swapper-proxy: {text}")


def test_a_proxy_that_hangs_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(calling.NotAnswered, match="timed out"):
            calling.call("GET", url, "/health", limit_s=0.1)
