"""What a row of the table is, and short ways to write one."""

import json
from dataclasses import dataclass, field
from typing import Any

from tests.differential.wire import Headers, Request

FIXED = {"temperature": 0, "seed": 1, "num_predict": 2}
USER = [{"role": "user", "content": "x"}]


@dataclass(frozen=True)
class Says:
    """The status of an answer, and something that its headers or its body hold."""

    status: int
    text: str = ""


@dataclass(frozen=True)
class Row:
    """One request to both sides.

    warm: the model in memory before; empty: none.
    before: requests to Ollama itself ahead of each side, so that both find the same.
    stays: for how many seconds the warm model then stays, on each side.
    unordered: an answer whose order is Ollama's whim.
    why: the reason for a difference.  Either the answers differ (`ollama`, `proxy`), or how long the model stays, or
    the proxy loads a model for a request that Ollama then refuses (`in_vain`).
    """

    note: str
    request: Request
    warm: str = ""
    before: tuple[Request, ...] = ()
    stays: tuple[float, float] | None = None
    unordered: bool = False
    why: str = ""
    ollama: Says | None = None
    proxy: Says | None = None
    in_vain: str = ""

    @property
    def id(self) -> str:
        path = self.request.path if len(self.request.path) < 60 else f"{self.request.path[:57]}..."
        return f"{self.request.method} {path}: {self.note}"


@dataclass(frozen=True)
class Route:
    """Makes rows for one route, with an ordinary body for it."""

    path: str
    base: dict[str, Any] = field(default_factory=dict)
    method: str = "POST"
    warm: str = ""

    def body(self, note: str, body: Any = None, headers: Headers = (), **more: Any) -> Row:
        """A body as it is: an object as JSON, text and bytes as they are."""
        return Row(note, Request(self.method, self.path, encoded(body), headers), **more)

    def fields(self, name: str, *values: Any, **more: Any) -> list[Row]:
        """The ordinary body with each of these values in one field."""
        return [self.body(f"{name} {_short(value)}", {**self.base, name: value}, **more) for value in values]

    def answered(self, name: str, *values: Any) -> list[Row]:
        """The same where Ollama answers: the model is in memory already, for speed."""
        return self.fields(name, *values, warm=self.warm)


def encoded(body: Any) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = {key: given for key, given in value.items() if given != FIXED.get(key)} or value
    text = json.dumps(value)
    return text if len(text) < 90 else f"{text[:40]}... ({len(text)})"


GENERATE = Route("/api/generate", {"model": "alpha", "prompt": "x", "stream": False, "options": FIXED}, warm="alpha")
CHAT = Route("/api/chat", {"model": "alpha", "messages": USER, "stream": False, "options": FIXED}, warm="alpha")
EMBED = Route("/api/embed", {"model": "embedder", "input": "x"}, warm="embedder")
EMBEDDINGS = Route("/api/embeddings", {"model": "embedder", "prompt": "x"}, warm="embedder")
_OPENAI = {"model": "alpha", "max_tokens": 2, "temperature": 0, "seed": 1}
V1_CHAT = Route("/v1/chat/completions", {**_OPENAI, "messages": USER}, warm="alpha")
V1_COMPLETIONS = Route("/v1/completions", {**_OPENAI, "prompt": "x"}, warm="alpha")
V1_EMBEDDINGS = Route("/v1/embeddings", {"model": "embedder", "input": "x"}, warm="embedder")
SWAPPING = (GENERATE, CHAT, EMBED, EMBEDDINGS, V1_CHAT, V1_COMPLETIONS, V1_EMBEDDINGS)
SHOW = Route("/api/show", {"model": "alpha"})
