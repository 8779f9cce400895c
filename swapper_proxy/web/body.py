"""A JSON request body as Go reads it, in the one reading that is acted upon and then sent.

Keys count in any case, invalid UTF-8 and lone surrogates become U+FFFD, bytes after the value are ignored, of a key
that is given again the last value holds.  All other values keep their bytes.
"""

import re
from typing import Any

import msgspec

from swapper_proxy.core.errors import ProxyError

_NULL = b"null"
_EMPTY = re.compile(rb'null|""|\[\s*\]')
_TOO_DEEP = "it is nested too deeply"
_SCALARS = frozenset('"0tn')  # strings, numbers, booleans, null: see _kind


class Malformed(Exception):
    """No JSON object; Go thinks so too, so Ollama may say it."""


class Ambiguous(ProxyError):
    """Go might read this, the proxy cannot: it is refused."""

    def __init__(self, why: str) -> None:
        super().__init__(400, "malformed", why)


class WrongType(Exception):
    """A field has a type that Ollama refuses."""


class Fields:
    """The fields of one JSON object, each still in its own bytes."""

    def __init__(self, raw: dict[str, msgspec.Raw], elements: int = 0) -> None:
        self._raw = raw
        self.elements = elements  # at most so many are in its lists and objects

    @classmethod
    def read(cls, body: bytes) -> "Fields":
        """Raises Malformed or Ambiguous."""
        raw: dict[str, msgspec.Raw] = {}
        for key, value in _members(_mended(body)):
            name = _fold(key)
            raw[name] = _again(name, raw[name], value) if name in raw else value
        return cls(raw, body.count(b","))

    def get(self, name: str, kind: Any, default: Any) -> Any:
        """The value of a field.  null counts as absent, as in Go.  Raises WrongType, Ambiguous."""
        raw = self._raw.get(name)
        if raw is None or bytes(raw) == _NULL:
            return default
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.MsgspecError as error:
            raise WrongType(f"{name}: {error}") from None
        except RecursionError:
            raise Ambiguous(_TOO_DEEP) from None

    def is_empty(self, name: str) -> bool:
        """Whether it is absent, null, an empty text or an empty list."""
        raw = self._raw.get(name)
        return raw is None or _EMPTY.fullmatch(raw) is not None

    def set(self, name: str, value: object) -> None:
        self._raw[name] = msgspec.Raw(msgspec.json.encode(value))

    def remove(self, name: str) -> None:
        self._raw.pop(name, None)

    def encode(self) -> bytes:
        return msgspec.json.encode(self._raw)


def named(fields: Fields) -> str:
    """The model, as the routes that do not run it read it.  Raises WrongType, Ambiguous."""
    name: str = fields.get("model", str, "") or fields.get("name", str, "")
    return name


class _Key:
    """A key as it was written.  Each is unlike every other, so that a dictionary keeps all of them, in order."""

    def __init__(self, text: str) -> None:
        self.text = text


# Only the message says where the first value ends: before this byte, counted from 1.
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")


def _members(body: bytes) -> list[tuple[str, msgspec.Raw]]:
    """The members of the object that a body begins with.  Raises Malformed, Ambiguous."""
    try:
        members = msgspec.json.decode(body, type=dict[_Key, msgspec.Raw], dec_hook=lambda kind, text: kind(text))
    except msgspec.MsgspecError as error:
        if found := _TRAILING.search(str(error)):
            return _members(body[: int(found[1]) - 1])
        raise Malformed(str(error)) from None
    except RecursionError:
        raise Ambiguous(_TOO_DEEP) from None
    return [(key.text, value) for key, value in members.items()]


def _again(name: str, old: msgspec.Raw, new: msgspec.Raw) -> msgspec.Raw:
    """What holds when a key is given again.  Raises Ambiguous where Go would mix both values, or refuse one."""
    kinds = _kind(old), _kind(new)
    if name == "model" and kinds == ('"', "n"):
        return old  # null leaves a text as it was
    if name == "options" and kinds == ("{", "{"):
        both = (msgspec.json.decode(value, type=dict[str, msgspec.Raw]) for value in (old, new))
        return msgspec.Raw(msgspec.json.encode({key: value for options in both for key, value in options.items()}))
    if (kinds[0] in ("n", kinds[1]) and kinds[1] in _SCALARS) or (name == "keep_alive" and _SCALARS.issuperset(kinds)):
        return new
    raise Ambiguous(f'"{name}" is given more than once')


def _kind(value: msgspec.Raw) -> str:
    first = bytes(value)[:1].decode()
    return "0" if first in "-0123456789" else "t" if first == "f" else first


def _fold(key: str) -> str:
    return key.lower().replace("ſ", "s")


_INVALID = re.compile("[\udc80-\udcff]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def _mended(body: bytes) -> bytes:
    """Each byte that is no UTF-8 and each surrogate without its other half becomes U+FFFD."""
    if not _is_utf8(body):
        body = _INVALID.sub("\ufffd", body.decode(errors="surrogateescape")).encode()
    if _SURROGATE.search(body):
        body = _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], body)
    return body


def _is_utf8(body: bytes) -> bool:
    if body.isascii():  # without a copy of it
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
