"""Bodies read as Go reads them, and what is understood of them."""

import asyncio
import json
import re
import sys
import threading
from unittest.mock import Mock

import msgspec
import pytest
from aiohttp import StreamReader
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from swapper_proxy.config import Server
from swapper_proxy.web.body import Ambiguous, Fields, Malformed, WrongType
from swapper_proxy.web.endpoints import ENDPOINTS, Intent, Unacceptable, read
from swapper_proxy.web.intake import QUICK_BYTES, Intake


def model_of(body: bytes) -> str:
    return Fields.read(body).get("model", str, "")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a"}',
        b'{"MODEL":"a"}',
        b'{"model":"b","model":"a"}',
        b'{"model":"b","Model":"a"}',
        b'{"model":"c","Model":"b","model":"a"}',
        b'{"model":"a"} trailing',
        b'{"model":"a","model":null}',
        b' \n{"model":"a"}{"model":"b"}',
    ],
)
def test_the_model_is_the_one_that_go_sees(body: bytes) -> None:
    fields = Fields.read(body)
    assert fields.get("model", str, "") == "a"
    assert json.loads(b"".join(fields.pieces()))["model"] == "a"
    assert b"".join(fields.pieces()).lower().count(b'"model"') == 1


def test_all_other_values_keep_their_bytes() -> None:
    fields = Fields.read(b'{"model":"x", "n": 1.50, "s": "\\u00e9", "o": {"b" : 1, "b":2}}')
    fields.set("model", "y")
    assert b"".join(fields.pieces()) == b'{"model":"y","n":1.50,"s":"\\u00e9","o":{"b" : 1, "b":2}}'


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (b"a\xff", "a\ufffd"),
        (b"\xed\xa0\x80\xe2\x82", "\ufffd" * 5),  # one for each byte
        (rb"\ud800", "\ufffd"),
        (rb"\uDC00\ud800x", "\ufffd\ufffdx"),
        (rb"\ud800\u0041", "\ufffdA"),
        (rb"\ud83d\ude00", "\U0001f600"),
        (rb"\\ud800", r"\ud800"),
    ],
)
def test_what_is_no_character_is_replaced_as_go_does(text: bytes, read: str) -> None:
    for body in (b'{"model":"%b"}', b'{"model":"%b"} \xff trailing', b'{"MODEL":"%b","n":[{"%b":"%b"}]}'):
        assert model_of(body.replace(b"%b", text)) == read


@pytest.mark.parametrize(
    ("body", "forwarded"),
    [
        ('{"options":{"num_ctx":1,"seed":2},"Options":{"seed":3}}', '{"options":{"num_ctx":1,"seed":3}}'),
        ('{"prompt":"a","PROMPT":"b","prompt":"c"}', '{"prompt":"c"}'),
        ('{"prompt":null,"prompt":"b"}', '{"prompt":"b"}'),
        ('{"keep_alive":"5m","\u212aeep_alive":7}', '{"keep_alive":7}'),
        ('{"\u017ftream":true,"stream":false}', '{"stream":false}'),
        ('{"n":1e400,"m":1.50,"o":-0} 1', '{"n":1e400,"m":1.50,"o":-0}'),
    ],
)
def test_the_one_reading_is_forwarded(body: str, forwarded: str) -> None:
    assert b"".join(Fields.read(body.encode()).pieces()).decode() == forwarded


@pytest.mark.parametrize(
    "values", ['[1],"f":[2]', '{},"F":{}', '"a","f":null', '1,"f":"a"', 'null,"f":[]', '{},"f":null']
)
def test_what_go_would_mix_is_refused(values: str) -> None:
    with pytest.raises(Ambiguous, match='"f" is given more than once'):
        Fields.read(f'{{"model":"a","f":{values}}}'.encode())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"a":NaN}', b"nonsense"])
def test_no_json_object(body: bytes) -> None:
    with pytest.raises(Malformed):
        Fields.read(body)


def test_what_go_may_read_and_the_proxy_cannot_is_refused() -> None:
    for more in ("", " x"):
        with pytest.raises(Ambiguous, match="nested too deeply"):
            Fields.read(f'{{"model":"a","x":{"[" * 50_000}{"]" * 50_000}}}{more}'.encode())


def test_also_if_only_a_field_is_too_deep() -> None:
    fields = Fields({"x": msgspec.Raw(b"[" * 50_000 + b"]" * 50_000)}, light=True)
    with pytest.raises(Ambiguous, match="nested too deeply"):
        fields.get("x", list, [])


def test_null_is_absent_and_wrong_types_are_told() -> None:
    assert Fields.read(b'{"model":null}').get("model", str, "none") == "none"
    assert Fields.read(b'{"model":"a","tools":null}').get("tools", list, "none") == "none"
    with pytest.raises(WrongType):
        model_of(b'{"model":5}')


@pytest.mark.parametrize("value", ["", "300", "-1", "1d", "x", "5m x"])
def test_a_keep_alive_that_ollama_refuses(value: str) -> None:
    with pytest.raises(Unacceptable):
        read(ENDPOINTS["/api/generate"], Fields.read(json.dumps({"model": "a", "keep_alive": value}).encode()))


@pytest.mark.parametrize(
    ("path", "body", "intent"),
    [
        ("/api/generate", {}, Intent.LOAD),
        ("/api/generate", {"prompt": "x", "keep_alive": 0}, Intent.INFERENCE),
        ("/api/generate", {"keep_alive": "0s"}, Intent.UNLOAD),
        ("/api/generate", {"keep_alive": 0.9}, Intent.UNLOAD),
        ("/api/generate", {"keep_alive": -1}, Intent.LOAD),
        ("/api/chat", {"messages": [], "keep_alive": 0}, Intent.UNLOAD),
        ("/api/chat", {"messages": [{"role": "user"}]}, Intent.INFERENCE),
        ("/api/embed", {"input": [], "keep_alive": 0}, Intent.LOAD),
        ("/v1/chat/completions", {"messages": [{"role": "user"}], "keep_alive": 0}, Intent.INFERENCE),
    ],
)
def test_what_a_request_wants(path: str, body: dict, intent: Intent) -> None:
    fields = Fields.read(json.dumps({"model": "a", **body}).encode())
    assert read(ENDPOINTS[path], fields).intent is intent


@given(st.lists(st.sampled_from(["\\ud83d", "\\uDE00", "\\uD8", "\\udc", "\\\\", "\\n", "d8", "00", "3d", "u", "x"])))
def test_no_half_of_a_surrogate_pair_goes_on(parts: list[str]) -> None:
    body = b'{"prompt":"%b"}' % "".join(parts).encode()
    try:
        meant = json.loads(body)["prompt"]
    except ValueError:
        return
    sent = json.loads(b"".join(Fields.read(body).pieces()))["prompt"]
    assert sent == re.sub("[\ud800-\udfff]", "\ufffd", meant)


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("fillers", range(24))
def test_a_key_that_comes_twice_is_never_overlooked(fillers: int, spaced: bool) -> None:
    members = ['"model":"ab"', *(f'"f{n:02}":1' for n in range(fillers)), '"model":null']
    body = ("{" + ",".join(members) + "}").encode()
    if spaced:
        body = body.replace(b":", b": ").replace(b",", b", ")
    assert model_of(body) == "ab"
    assert json.loads(b"".join(Fields.read(body).pieces()))["model"] == "ab"


def test_messages_of_the_wrong_type_unload_nothing() -> None:
    with pytest.raises(WrongType):
        read(ENDPOINTS["/api/chat"], Fields.read(b'{"model":"a","messages":"","keep_alive":0}'))


def came(body: bytes) -> StreamReader:
    stream = StreamReader(Mock(), 2**16)
    stream.feed_data(body)
    stream.feed_eof()
    return stream


async def test_what_takes_long_is_read_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    by, reading = [], Fields.read

    def read_by(body: bytes) -> Fields:
        by.append(threading.get_ident())
        return reading(body)

    monkeypatch.setattr(Fields, "read", read_by)
    intake = Intake()
    intake.configure(Server())
    for size in (10, QUICK_BYTES):
        request = make_mocked_request("POST", "/api/chat", payload=came(b'{"prompt":"' + b"a" * size + b'"}'))
        async with intake.reading(request) as body:
            fields = await body.json()
            assert len(fields.get("prompt", str, "")) == size
        assert fields.get("prompt", str, "") == ""
    assert [thread == threading.get_ident() for thread in by] == [True, False]


async def test_what_nobody_waits_for_any_more_keeps_no_body() -> None:
    """Also while the thread is busy with another body: the call is still in its queue, and holds nothing."""
    intake, goes_on = Intake(), threading.Event()
    busy = asyncio.ensure_future(intake.in_thread(goes_on.wait))
    body = bytes(2 * QUICK_BYTES)
    before = sys.getrefcount(body)
    left = asyncio.ensure_future(intake.in_thread(len, body))
    try:
        await asyncio.sleep(0)
        assert sys.getrefcount(body) > before
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        del left
        assert sys.getrefcount(body) == before
    finally:
        goes_on.set()
    await busy
    assert await intake.in_thread(len, body) == len(body)
