"""A very fast simulated Ollama for the relay benchmark: `python -m benchmarks.upstream PORT`.

It answers what the proxy asks at start, and any other POST with one JSON object or, if the body says so, with a stream.
The client says how: `X-Chunks` pieces, one each `X-Interval-Ms`, and a last one.
"""

import asyncio
import json
import sys

import uvloop

MODELS = [f"m{number}" for number in range(8)]
DONE = {"prompt_eval_count": 10, "eval_count": 16, "eval_duration": 320_000_000, "load_duration": 1_000_000}
ANSWER = json.dumps({"model": "m0", "response": "x" * 300, "done": True, "done_reason": "stop", **DONE}).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = HEAD % len(ANSWER) + ANSWER


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


PIECE = chunk(b'{"model":"m0","created_at":"2025-11-22T10:30:00.123456789Z","response":" word","done":false}\n')
LAST = chunk(json.dumps({"model": "m0", "response": "", "done": True, **DONE}).encode() + b"\n") + b"0\r\n\r\n"


def _listed(name: str) -> dict[str, object]:
    return {"name": f"{name}:latest", "model": f"{name}:latest", "size": 1_000_000, "digest": name}


def _fixed() -> dict[bytes, bytes]:
    """What does not depend on the body."""
    answers = {
        b"/api/version": {"version": "0.9.3"},
        b"/api/tags": {"models": [_listed(name) for name in MODELS]},
    }
    return {path: HEAD % len(body) + body for path, body in ((p, json.dumps(a).encode()) for p, a in answers.items())}


FIXED = _fixed()
LOADED: set[str] = set()


class Upstream(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.received = bytearray()
        self.timer: asyncio.TimerHandle | None = None

    def connection_lost(self, _: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.received[:end])
        length = _number(head, b"content-length:", 0)
        if len(self.received) >= end + 4 + length:
            body = bytes(self.received[end + 4 :])
            self.received.clear()
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path in FIXED:
            self.transport.write(FIXED[path])
        elif path == b"/api/ps":
            self.whole({"models": [_listed(name) for name in LOADED]})
        elif path == b"/api/show":
            name = json.loads(body)["model"]
            shown = {"modelfile": f"FROM /blobs/{name}\n", "capabilities": ["completion"]}
            self.whole(shown)
        elif b'"prompt"' not in body:
            LOADED.add(json.loads(body)["model"].removesuffix(":latest"))
            self.whole({"done": True, "done_reason": "load"})
        elif b'"stream":false' in body.replace(b" ", b""):
            self.transport.write(WHOLE)
        else:
            self.begin(head)

    def whole(self, answer: dict[str, object]) -> None:
        body = json.dumps(answer).encode()
        self.transport.write(HEAD % len(body) + body)

    def begin(self, head: bytes) -> None:
        """The first piece at once, the last one instead of one more."""
        self.left = _number(head, b"x-chunks:", 16)
        self.interval_s = _number(head, b"x-interval-ms:", 20) / 1000
        self.loop = asyncio.get_running_loop()
        self.due = self.loop.time()
        self.transport.write(STREAM_HEAD + PIECE)
        self.next()

    def next(self) -> None:
        """On time, whatever came before: the next is due from when this one was, not from when it was sent."""
        self.due += self.interval_s
        self.timer = self.loop.call_at(self.due, self.send)

    def send(self) -> None:
        self.left -= 1
        if self.left > 0:
            self.transport.write(PIECE)
            self.next()
        else:
            self.transport.write(LAST)


def _number(head: bytes, name: bytes, default: int) -> int:
    place = head.lower().find(b"\r\n" + name)
    if place < 0:
        return default
    return int(head[place + 2 + len(name) :].split(b"\r\n", 1)[0])


async def serve(port: int) -> None:
    """Until it is killed."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=8192)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
