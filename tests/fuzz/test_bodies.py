"""Request bodies: whatever comes, a known refusal or one reading, which is what is sent."""

import gzip
import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swapper_proxy.config import Route
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.runtime.decoding import DECODERS, Decoding, Undecodable, zstd
from swapper_proxy.web.body import Ambiguous, Fields, Malformed, WrongType
from swapper_proxy.web.endpoints import ENDPOINTS, Unacceptable, read
from swapper_proxy.web.form import Form
from swapper_proxy.web.routing import Router

KEYS = st.sampled_from(
    [
        "model",
        "Model",
        "MODEL",
        "name",
        "prompt",
        "messages",
        "stream",
        "ſtream",
        "options",
        "Options",
        "keep_alive",
        "Keep_alive",
        "metadata",
        "images",
        "tools",
        "think",
        "raw",
        "input",
        "�",
        "",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(categories=None), max_size=8)
    | st.sampled_from(["m", "auto", "5m", "0", "-1", "\ud83d", "\ude00", "\ud83d\ude00"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS | st.sampled_from(["use_llm", "num_ctx", "stop", "role", "content", "type"]), inner)
    ),
    max_leaves=12,
)


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """JSON objects, with keys that come again, other spaces, other escapes, and something behind."""
    members = draw(st.lists(st.tuples(KEYS, VALUES), max_size=6))
    ascii_only = draw(st.booleans())
    colon, comma = draw(st.sampled_from([(":", ","), (": ", ", "), (" :", " ,\n")]))
    pairs = [
        f"{json.dumps(k, ensure_ascii=ascii_only)}{colon}{json.dumps(v, ensure_ascii=ascii_only)}" for k, v in members
    ]
    body = ("{" + comma.join(pairs) + "}").encode("utf-8", "surrogatepass")
    return draw(st.sampled_from([b"", b" ", b"\n"])) + body + draw(st.sampled_from([b"", b" ", b"{}", b"\xff", b"x"]))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The same with some bytes exchanged, left out or put in."""
    body = bytearray(draw(objects()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 2))] = draw(
            st.sampled_from([b"", b"\\", b'"', b"\xff", b"\0", b"[", b"\\ud8"])
        )
    return bytes(body)


BODIES = objects() | damaged() | st.binary(max_size=40)
ROUTER = Router({"auto": (Route(model="a", has_images=True), Route(model="b", longer_than=3))}, lambda _: False)


@given(BODIES)
@example(b'{"model":"m"}')
@example(b'{"model":"m","\\u006dodel":"n"}')
@example(b'{"":0}')
@example(b'{"model":"\\ud83d\\ude00","MODEL":null}')
@example(b'{"model":"m","messages":[{"content":"\\ud800"}]}')
@example(b'{"options":{"num_ctx":1e400},"model":"m"}')
@example(b'{"keep_alive":1e400,"model":"m"}')
def test_a_body_is_read_in_one_way_or_refused(body: bytes) -> None:
    try:
        fields = Fields.read(body)
    except (Malformed, Ambiguous):
        return
    sent = b"".join(fields.pieces())
    again = Fields.read(sent)
    assert b"".join(again.pieces()) == sent
    assert meant(sent) == meant(b"".join(again.pieces()))
    for kind, name in ((str, "model"), (bool, "stream"), (dict[str, Any], "options")):
        assert got(fields, name, kind) == got(again, name, kind)
    for endpoint in ENDPOINTS.values():
        if endpoint.multipart:
            continue
        assert asked(endpoint, fields) == asked(endpoint, again)


def meant(body: bytes) -> Any:
    return json.loads(body)


def got(fields: Fields, name: str, kind: Any) -> Any:
    try:
        return fields.get(name, kind, None)
    except (WrongType, Ambiguous) as error:
        return type(error)


def asked(endpoint: Any, fields: Fields) -> Any:
    """What it asks for and where it goes, or what kind of refusal it gets."""
    answers: list[Any] = []
    for question in (lambda: read(endpoint, fields), lambda: ROUTER.direction(endpoint, fields)):
        try:
            answers.append(question())
        except (Unacceptable, WrongType, ProxyError) as error:
            answers.append((type(error), str(error)))
    return answers


@given(objects())
def test_the_model_is_the_one_that_go_reads(body: bytes) -> None:
    """Against another reading: the standard library's, with the keys in any case, the last one holding."""
    try:
        fields = Fields.read(body)
        model = fields.get("model", str, "")
    except (Malformed, Ambiguous, WrongType):
        return
    expected = ""
    pairs, _ = json.JSONDecoder(object_pairs_hook=list).raw_decode(body.decode("utf-8", "surrogateescape").lstrip())
    for key, value in pairs:
        if key.lower() == "model" and value is not None:
            expected = value
    assert isinstance(expected, str)
    assert mended(model) == mended(expected)


def mended(text: str) -> str:
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in whole)


# Forms

DELIMITERS = [b"--B\r\n", b"\r\n--B\r\n", b"\r\n--B--", b"\r\n--B--\r\n", b"--B", b"\r\n", b"\n", b"--", b"\0"]
HEADERS = [b'Content-Disposition: form-data; name="model"\r\n\r\n', b'Content-Disposition: form-data; name="f"\r\n\r\n']
WORDS = [b"whisper", b"Content-Type: x\r\n", b";", b'"', b"\\", b"=", b"name*=utf-8''model", b"filename=", b"\xff"]


@given(st.lists(st.sampled_from(DELIMITERS + HEADERS + WORDS), max_size=14).map(b"".join) | st.binary(max_size=60))
@example(b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n--B--\r\n')
def test_a_form_is_read_in_one_way_or_refused(body: bytes) -> None:
    try:
        form = Form(body, "multipart/form-data; boundary=B")
    except (Malformed, Ambiguous):
        return
    assert b"".join(form.pieces()) == body
    model = form.get("model", str, "")
    form.set("model", model + "x")
    assert Form(b"".join(form.pieces()), "multipart/form-data; boundary=B").get("model", str, "") == model + "x"


@given(st.text(st.sampled_from(" ;,=\"'\\/*B0x:\t") | st.characters(), max_size=40))
@example("multipart/form-data; boundary=" + "a=b; " * 200 + '"')
def test_any_content_type_is_understood_or_refused(content_type: str) -> None:
    for value in (
        content_type,
        f"multipart/form-data; {content_type}",
        f"multipart/form-data; boundary=B{content_type}",
    ):
        with pytest.raises((Malformed, Ambiguous)):
            Form(b"", value)


# Encodings


@given(st.sampled_from(sorted(DECODERS)), st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=4), st.data())
def test_an_encoded_body_is_decoded_alike_however_it_is_cut(
    encoding: str, plain: bytes, cuts: list[int], data: st.DataObject
) -> None:
    body = bytearray((zstd.compress if encoding == "zstd" else gzip.compress)(plain))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    whole = decoded(encoding, [bytes(body)])
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [bytes(body[before:after]) for before, after in itertools.pairwise(places)]
    assert decoded(encoding, [piece for piece in pieces if piece]) == whole


def decoded(encoding: str, pieces: list[bytes]) -> bytes | None:
    """The content, None if it is refused."""
    decoding, whole = Decoding(DECODERS[encoding], "body"), b""
    try:
        for piece in pieces:
            more = decoding.more(piece)
            while more:
                whole += more
                more = decoding.more()
        decoding.end()
        return whole
    except Undecodable:
        return None
