"""What a row of the table is, and short ways to write one."""

import json
from dataclasses import dataclass, field
from typing import Any

from tests.differential.wire import Headers, Request

FIXED = {"temperature": 0, "seed": 1, "num_predict": 4}
USER = [{"role": "user", "content": "x"}]


@dataclass(frozen=True)
class Says:
    """The status of an answer, and something that its body holds."""

    status: int
    text: str = ""


@dataclass(frozen=True)
class Row:
    """One request to both sides.  `warm` is the model in memory before, empty: none.

    `before` is sent to Ollama itself ahead of each side, so that both start from the same.  With a `why` the answers
    differ for that reason: Ollama's is `ollama`, the proxy's `proxy`.  `leaves`: the model is gone soon after.
    """

    note: str
    request: Request
    warm: str = ""
    before: tuple[Request, ...] = ()
    leaves: bool = False
    why: str = ""
    ollama: Says | None = None
    proxy: Says | None = None

    @property
    def id(self) -> str:
        path = self.request.path if len(self.request.path) < 60 else f"{self.request.path[:57]}..."
        return f"{self.request.method} {path}: {self.note}"


@dataclass(frozen=True)
class Route:
    """Makes rows for one route."""

    path: str
    base: dict[str, Any] = field(default_factory=dict)
    method: str = "POST"

    def row(self, note: str, body: Any = None, headers: Headers = (), **more: Any) -> Row:
        """A body as it is: an object as JSON, text and bytes as they are."""
        return Row(note, Request(self.method, self.path, encoded(body), headers), **more)

    def with_fields(self, note: str, *, warm: str = "", why: str = "", **fields: Any) -> Row:
        """The route's ordinary body with these fields instead."""
        return self.row(note, {**self.base, **fields}, warm=warm, why=why)


def encoded(body: Any) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()
