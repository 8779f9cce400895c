"""A JSON request body as Go reads it, in the one reading that is acted upon and then sent.

Keys count in any case, invalid UTF-8 and lone surrogates become U+FFFD, bytes after the value are ignored, of a key
that is given again the last value holds.  All other values keep their bytes.
"""

import codecs
import io
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from swapper_proxy.core.errors import ProxyError
from swapper_proxy.core.names import LONGEST
from swapper_proxy.runtime.ports import Pieces

# The longest model name that is read; a longer one is no name, and Ollama says so.
Name = Annotated[str, Meta(max_length=LONGEST)]
# A body with more elements or bytes is not checked before its swap, which is the safe side.
MOST_ELEMENTS = 100_000
MOST_BYTES = 8 << 20
# The fields of requests are a few dozen.  More keys, or longer ones, would only take memory and time.
MOST_KEYS = 1000
MOST_KEY_BYTES = 64 * 1024
# Of escapes and bytes that are looked at one by one, where some are no characters: a quarter of a second.
MOST_MENDED = 1_000_000
_PIECE_BYTES = 1 << 20
_NULL = msgspec.Raw(b"null")
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

    def __init__(self, raw: dict[str, msgspec.Raw], light: bool, body: bytes = b"") -> None:
        self._raw = raw
        self._body = body  # as it came, as long as that says the same
        self.light = light  # enough to be looked into

    @classmethod
    def read(cls, body: bytes) -> "Fields":
        """Raises Malformed or Ambiguous."""
        commas = body.count(b",")
        light = len(body) <= MOST_BYTES and commas <= MOST_ELEMENTS
        if plain := _plain(body, commas):
            return cls(plain, light, body)
        raw: dict[str, msgspec.Raw] = {}
        for key, value in _members(_mended(body)):
            name = _fold(key)
            raw[name] = _again(name, raw[name], value) if name in raw else value
        return cls(raw, light)

    def get(self, name: str, kind: Any, default: Any) -> Any:
        """The value of a field.  null counts as absent, as in Go.  Raises WrongType, Ambiguous."""
        if name not in self._raw or self._raw[name] == _NULL:
            return default
        if not self.light and kind is not msgspec.Raw and has_many_elements(self._raw[name]):
            raise Ambiguous(f"{name} has too many elements")
        try:
            return _decoder(kind).decode(self._raw[name])  # no variable for it: the frame may outlive the body
        except msgspec.MsgspecError as error:
            raise WrongType(f"{name}: {error}") from None
        except RecursionError:
            raise Ambiguous(_TOO_DEEP) from None

    def check(self, kinds: Mapping[str, Any]) -> None:
        """Raises WrongType if a field that is there is of another kind than its name stands for here; Ambiguous."""
        for name in self._raw:
            if name in kinds:
                self.get(name, kinds[name], None)

    def size(self, name: str) -> int:
        """Return how many bytes the value of a field has, 0 if the field is absent."""
        return len(self._raw.get(name, b""))

    def is_empty(self, name: str) -> bool:
        """Whether it is absent, null, an empty text or an empty list."""
        raw = self._raw.get(name)
        return raw is None or _EMPTY.fullmatch(raw) is not None

    def set(self, name: str, value: object) -> None:
        self._raw[name] = msgspec.Raw(msgspec.json.encode(value))
        self._body = b""

    def remove(self, name: str) -> None:
        if self._raw.pop(name, None) is not None:
            self._body = b""

    def pieces(self) -> Pieces:
        """In pieces, so that large values are not copied."""
        if self._body:
            return [self._body]
        pieces: Pieces = []
        for name, value in self._raw.items():
            pieces += (b"," if pieces else b"{", msgspec.json.encode(name), b":", memoryview(value))
        return [*pieces, b"}"] if pieces else [b"{}"]

    def clear(self) -> None:
        """Let go of the body."""
        self._raw.clear()
        self._body = b""


_decoder = cache(msgspec.json.Decoder)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def named(fields: Fields) -> str:
    """The model, as the routes that do not run it read it.  Raises WrongType, Ambiguous."""
    name: str = fields.get("model", Name, "") or fields.get("name", Name, "")
    return name


def has_many_elements(raw: msgspec.Raw, most: int = MOST_ELEMENTS) -> bool:
    """Whether it is an array or object that may have more elements: there are as many commas, texts included."""
    whole = memoryview(raw)
    if len(whole) <= most or chr(whole[0]) not in "[{":
        return False
    starts = range(0, len(whole), _PIECE_BYTES)
    return sum(bytes(whole[start : start + _PIECE_BYTES]).count(b",") for start in starts) > most


class _Key:
    """A key as it was written.  Each is unlike every other, so that a dictionary keeps all of them, in order."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Keys:
    """Makes them while msgspec reads, up to a limit."""

    def __init__(self) -> None:
        self._keys = self._bytes = 0

    def __call__(self, _: type, text: str) -> _Key:
        """Raises Ambiguous."""
        self._keys += 1
        self._bytes += len(text)
        if self._keys > MOST_KEYS or self._bytes > MOST_KEY_BYTES:
            raise Ambiguous(f"it has more than {MOST_KEYS} keys, or very long ones")
        return _Key(text)


# Only the message says where the first value ends: before this byte, counted from 1.
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")


def _plain(body: bytes, commas: int) -> dict[str, msgspec.Raw] | None:
    """The members of a body as nearly all clients write it: nothing before, between or after, each key once.

    With nothing in between the length tells whether that is so: all else makes it longer.  None if it is not.
    """
    if not _is_utf8(body):
        return None
    try:
        raw = _OBJECT.decode(body) if commas < MOST_KEYS else dict(_members(body))
    except (msgspec.MsgspecError, RecursionError, Malformed):
        return None
    names = "".join(raw)
    if len(names) > MOST_KEY_BYTES:
        return None
    length = 1 + len(names) + sum(map(len, raw.values())) + 4 * len(raw)
    if names != _fold(names) or not (len(body) == length or _is_spaced(body, raw)):
        return None
    return None if _is_suspect(body) else raw


def _is_spaced(body: bytes, raw: dict[str, msgspec.Raw]) -> bool:
    """Whether a body that is not large has one space behind each colon and comma, as Python writes it."""
    if len(body) > MOST_BYTES:
        return False
    return body == b"{%b}" % b", ".join([b'"%b": %b' % (name.encode(), bytes(value)) for name, value in raw.items()])


def _members(body: bytes | memoryview) -> list[tuple[str, msgspec.Raw]]:
    """The members of the object that a body begins with.  Raises Malformed, Ambiguous."""
    try:
        members = msgspec.json.decode(body, type=dict[_Key, msgspec.Raw], dec_hook=_Keys())
    except msgspec.MsgspecError as error:
        if found := _TRAILING.search(str(error)):
            return _members(memoryview(body)[: int(found[1]) - 1])
        raise Malformed(str(error)) from None
    except RecursionError:
        raise Ambiguous(_TOO_DEEP) from None
    return [(key.text, value) for key, value in members.items()]


def _again(name: str, old: msgspec.Raw, new: msgspec.Raw) -> msgspec.Raw:
    """What holds when a key is given again.  Raises Ambiguous where Go would mix both values, or refuse one."""
    kinds = _kind(old), _kind(new)
    if name == "model" and kinds == ('"', "n"):
        return old  # null leaves a text as it was
    if name == "options" and kinds == ("{", "{") and not (has_many_elements(old) or has_many_elements(new)):
        both = (msgspec.json.decode(value, type=dict[str, msgspec.Raw]) for value in (old, new))
        return msgspec.Raw(msgspec.json.encode({key: value for options in both for key, value in options.items()}))
    if (kinds[0] in ("n", kinds[1]) and kinds[1] in _SCALARS) or (name == "keep_alive" and _SCALARS.issuperset(kinds)):
        return new
    raise Ambiguous(f'"{name}" is given more than once')


def _kind(value: msgspec.Raw) -> str:
    first = chr(memoryview(value)[0])
    return "0" if first in "-0123456789" else "t" if first == "f" else first


def _fold(key: str) -> str:
    return key.lower().replace("ſ", "s")


_INVALID = re.compile("[\udc80-\udcff]")
# One whose other half does not stand beside it, or whose backslash stands behind another: it may be no surrogate then.
_SUSPECT = re.compile(
    rb"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F]|(?<=\\\\u.)[89a-fA-F])", re.DOTALL
)
_SIGHT = 12  # bytes behind a backslash that it may look at
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def _mended(body: bytes) -> bytes:
    """Each byte that is no UTF-8 and each surrogate without its other half becomes U+FFFD."""
    if not _is_utf8(body):
        body = _utf8(body)
    return _paired(body) if _is_suspect(body) else body


def _is_suspect(body: bytes) -> bool:
    """Piece by piece: a search is one step, in which nothing else runs."""
    for start in range(0, len(body), _PIECE_BYTES):
        found = _SUSPECT.search(body, start, start + _PIECE_BYTES + _SIGHT)
        if found and found.start() < start + _PIECE_BYTES:
            return True
    return False


def _utf8(body: bytes) -> bytes:
    mended, count = io.BytesIO(), 0
    for text in _texts(body, "surrogateescape"):
        valid, replaced = _INVALID.subn("\ufffd", text)
        count += replaced
        if count > MOST_MENDED:
            raise Ambiguous(f"more than {MOST_MENDED} of its bytes are no UTF-8")
        mended.write(valid.encode())
    return mended.getvalue()


def _paired(body: bytes) -> bytes:
    if body.count(b"\\") > MOST_MENDED:
        raise Ambiguous(f"it has halves of surrogate pairs among more than {MOST_MENDED} escapes")
    mended = io.BytesIO(body)
    for escape in _ESCAPE.finditer(body):
        if escape[1]:
            mended.seek(escape.start())
            mended.write(rb"\ufffd")  # which is as long
    return mended.getvalue()


def _is_utf8(body: bytes) -> bool:
    if body.isascii():  # without a copy of it
        return True
    try:
        for _ in _texts(body, "strict"):
            pass
    except UnicodeDecodeError:
        return False
    return True


def _texts(body: bytes, errors: str) -> Iterator[str]:
    """All of it decoded, a piece at a time: as a text it can take four times the memory."""
    whole, at = memoryview(body), 0
    while at < len(whole):
        piece = whole[at : at + _PIECE_BYTES]
        text, read = codecs.utf_8_decode(piece, errors, at + len(piece) == len(whole))
        at += read
        yield text
