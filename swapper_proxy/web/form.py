"""A multipart/form-data body, read for its model as Go reads it, or not at all.

Ollama takes the first value named `model`: of the query, else of the parts without a file.  Go's reader is lenient
about line ends, preambles and headers, so two readers can see different parts in one body.  Here only the one way of
writing a form that all clients use is read; any other is Ambiguous, and never guessed at.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from swapper_proxy.core.names import LONGEST
from swapper_proxy.runtime.ports import Pieces
from swapper_proxy.web.body import Ambiguous, Malformed

MAX_PARTS = 1000  # Go's own limit
MAX_HEAD_BYTES = 8192  # of the header lines of one part
MAX_MODEL_BYTES = 4 * LONGEST  # of the model, four for each character

_TOKEN = r"[\w!#$%&'*+.^`|~-]+"
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*({_TOKEN})=(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")', re.ASCII)
_VALUE = re.compile(rf"({_TOKEN}(?:/{_TOKEN})?)((?:{_PARAMETER.pattern})*)[ \t]*;?", re.ASCII)
_LINE = re.compile(rf"({_TOKEN}):[ \t]*([^\r\n\0]*)", re.ASCII)
_ENCODING = "content-transfer-encoding"
_AS_IT_IS = ("7bit", "8bit", "binary")  # Go undoes quoted-printable and nothing else
_BOUNDARY = re.compile(r"[\w'()+,./:=? -]{0,69}[\w'()+,./:=?-]", re.ASCII)  # RFC 2046 §5.1.1


class Form:
    """A form, whose bytes stay as they are but for the model.

    `content_type` is the header, empty if there is none; `query`: the names that the query string sets.
    """

    light = True  # the model is all that is looked at

    def __init__(self, body: bytes, content_type: str, query: Container[str] = ()) -> None:
        """Raises Malformed if Ollama too takes it for no form, and Ambiguous."""
        boundary = _boundary(content_type)
        if "model" in query:
            raise Ambiguous("a form's model must not be in the query")
        self._body = body
        self._place = _place_of_model(body, boundary)
        if self._place.stop - self._place.start > MAX_MODEL_BYTES:
            raise Ambiguous("the name of the model is too long")
        try:
            self._model = body[self._place].decode()
        except UnicodeDecodeError:
            raise Ambiguous("the model is no UTF-8") from None

    def get(self, name: str, kind: Any, default: Any) -> Any:
        """The model; of nothing else a form holds is there anything to decide."""
        return self._model if name == "model" else default

    def size(self, name: str) -> int:
        """Return 0: a form has no field but the model whose size matters."""
        return 0

    def check(self, kinds: Mapping[str, Any]) -> None:
        """Nothing else is known of what is in it."""

    def is_empty(self, name: str) -> bool:
        """Of a form only the model is looked at."""
        return name != "model"

    def set(self, name: str, value: object) -> None:
        """Only the model can be set."""
        if name == "model":
            self._model = str(value)

    def pieces(self) -> Pieces:
        """In pieces, so that files are not copied."""
        whole = memoryview(self._body)
        return [whole[: self._place.start], self._model.encode(), whole[self._place.stop :]]

    def clear(self) -> None:
        """Let go of the body."""
        self._body = b""


def _boundary(content_type: str) -> str:
    media_type, parameters = _parsed(content_type) if content_type else ("", {})
    boundary = parameters.get("boundary", "")
    if media_type != "multipart/form-data":
        raise Malformed("the Content-Type is not multipart/form-data")
    if not _BOUNDARY.fullmatch(boundary) or any(name.startswith("boundary*") for name in parameters):
        raise Ambiguous("the Content-Type names no plain boundary")
    return boundary


def _place_of_model(body: bytes, boundary: str) -> slice:
    places = [place for name, place in _parts(body, boundary.encode()) if name == "model"]
    if len(places) != 1:
        raise Ambiguous("the form names more than one model" if places else "the form names no model")
    return places[0]


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[str, slice]]:
    """Each part's name and where its content is."""
    delimiters = list(_delimiters(body, b"--" + boundary))
    for before, after in pairwise(delimiters):
        begin, end = before.stop, after.start
        blank = body.find(b"\r\n\r\n", begin, min(end, begin + MAX_HEAD_BYTES))
        if blank < 0:
            raise Ambiguous("a part has no plain header")
        yield _name(body[begin:blank].decode("latin-1")), slice(blank + 4, end)


def _delimiters(body: bytes, dashes: bytes) -> Iterator[slice]:
    """From the first line of the body to the closing one, each with its line ends."""
    start = 0
    for _ in range(MAX_PARTS + 1):
        end = start + 2 + len(dashes) if start else len(dashes)
        line = body[start:end]
        if line not in (dashes, b"\r\n" + dashes):
            raise Ambiguous("a boundary is no line of its own")
        yield slice(start, end + 2)
        if body[end : end + 2] == b"--" and body[end + 2 : end + 5] in (b"", b"\r\n"):
            return
        if body[end : end + 2] != b"\r\n":
            raise Ambiguous("a boundary is no line of its own")
        start = body.find(b"\n" + dashes, end + 2) - 1
        if start < 0:
            raise Ambiguous("the form does not end")
    raise Ambiguous(f"the form has more than {MAX_PARTS} parts")


def _name(head: str) -> str:
    """The name of the part with these header lines."""
    lines = [_LINE.fullmatch(line) for line in head.split("\r\n")]
    headers = _unique([(line[1].lower(), line[2].strip(" \t")) for line in lines if line])
    if None in lines or "content-disposition" not in headers:
        raise Ambiguous("a part has no plain header")
    disposition, parameters = _parsed(headers["content-disposition"])
    if disposition != "form-data" or any(name.startswith("name*") for name in parameters):
        raise Ambiguous("a part has no plain Content-Disposition")
    name = parameters.get("name", "")
    if name == "model" and (_has_file(parameters) or headers.get(_ENCODING, "binary").lower() not in _AS_IT_IS):
        raise Ambiguous("the model is no plain field")
    return name


def _has_file(parameters: Mapping[str, str]) -> bool:
    return any(name.startswith("filename") for name in parameters)


def _parsed(value: str) -> tuple[str, dict[str, str]]:
    """A header's value and its parameters.  No escape is undone: with one, nothing here is what is looked for."""
    if not (match := _VALUE.fullmatch(value)):
        raise Ambiguous("a header is not plain")
    found = ((name.lower(), token or quoted) for name, token, quoted in _PARAMETER.findall(match[2]))
    return match[1].lower(), _unique(found)


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What comes twice, one reader takes the first of, another the last, a third refuses."""
    pairs = list(pairs)
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Ambiguous("a header says something twice")
    return found
