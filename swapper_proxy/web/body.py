"""A JSON request body as Go reads it: keys in any case, the last duplicate wins, bytes after the value are ignored.

What was acted upon is what is sent: duplicates and trailing bytes are gone, all other values keep their bytes.
"""

import json
from typing import Any

import msgspec

_NULL = msgspec.Raw(b"null")


class Malformed(Exception):
    """No JSON object; Go thinks so too, so Ollama may say it."""


class Ambiguous(Exception):
    """Go might read this, the proxy cannot: it is refused."""


class WrongType(Exception):
    """A field has a type that Ollama refuses."""


class Fields:
    """The fields of one JSON object, each still in its own bytes."""

    def __init__(self, raw: dict[str, msgspec.Raw]) -> None:
        self._raw = raw

    @classmethod
    def read(cls, body: bytes) -> "Fields":
        """Raises Malformed or Ambiguous."""
        try:
            raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            raw = _read_leniently(body)
        if all(key == _fold(key) for key in raw) and raw.get("model") != _NULL:
            return cls(raw)
        return cls(_folded(body))

    def get(self, name: str, kind: Any, default: Any) -> Any:
        """The value of a field.  null counts as absent, as in Go.  Raises WrongType."""
        raw = self._raw.get(name)
        if raw is None or bytes(raw) == b"null":
            return default
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.MsgspecError as error:
            raise WrongType(f"{name}: {error}") from None

    def set(self, name: str, value: object) -> None:
        self._raw[name] = msgspec.Raw(msgspec.json.encode(value))

    def remove(self, name: str) -> None:
        self._raw.pop(name, None)

    def encode(self) -> bytes:
        return msgspec.json.encode(self._raw)


def _pairs(body: bytes) -> list[tuple[str, Any]]:
    """The members of the first JSON value, by the standard library, in order."""
    text = body.decode("utf-8", errors="replace")  # as Go replaces invalid bytes
    try:
        decoder = json.JSONDecoder(object_pairs_hook=_Object, parse_constant=_refuse)
        value, _ = decoder.raw_decode(text.lstrip(" \t\r\n"))
    except json.JSONDecodeError as error:
        raise Malformed(str(error)) from None
    except (RecursionError, ValueError) as error:
        raise Ambiguous(str(error)) from None
    if not isinstance(value, _Object):
        raise Malformed("not an object")
    return value.pairs


class _Object(dict[str, Any]):
    """A JSON object that remembers all its members."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _refuse(constant: str) -> None:
    raise json.JSONDecodeError(f"{constant} is no JSON", constant, 0)


def _read_leniently(body: bytes) -> dict[str, msgspec.Raw]:
    return {key: msgspec.Raw(json.dumps(value).encode()) for key, value in _pairs(body)}


def _folded(body: bytes) -> dict[str, msgspec.Raw]:
    """Keys as Go folds them; the last of those that are equal then wins, but null leaves a string as it was."""
    pairs = [(_fold(key), value) for key, value in _pairs(body)]
    return {k: msgspec.Raw(json.dumps(v).encode()) for k, v in pairs if (k, v) != ("model", None)}


def _fold(key: str) -> str:
    return key.lower().replace("ſ", "s")
