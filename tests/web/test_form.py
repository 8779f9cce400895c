"""Forms: the model that Go would read, or none."""

import asyncio
from email.parser import BytesParser
from email.policy import HTTP

import pytest
from aiohttp import FormData
from aiohttp.abc import AbstractStreamWriter
from hypothesis import given
from hypothesis import strategies as st

from swapper_proxy.web.body import Ambiguous, Malformed
from swapper_proxy.web.endpoints import ENDPOINTS, Asked, read
from swapper_proxy.web.form import MAX_PARTS, Form

TYPE = "multipart/form-data; boundary=B"
MODEL = b'Content-Disposition: form-data; name="model"\r\n\r\nwhisper'
FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n\0\xff\n--B\r'


def form(*parts: bytes) -> bytes:
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + b"--B--\r\n"


def described(header: str) -> bytes:
    return f"Content-Disposition: {header}\r\n\r\nwhisper".encode()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (TYPE, form(MODEL)),
        (TYPE, form(MODEL, FILE.replace(b"\n--B", b""))),
        (TYPE, form(FILE.replace(b"\n--B", b"--B"), MODEL)),
        (TYPE, form(MODEL).removesuffix(b"\r\n")),
        ('Multipart/Form-Data; charset=utf-8; boundary="B"', form(MODEL)),
        ("multipart/form-data;boundary=B;", form(MODEL)),
        ('multipart/form-data; boundary="a b:c"', form(MODEL).replace(b"--B", b"--a b:c")),
        (TYPE, form(described("form-data; name=model"))),
        (TYPE, form(described('FORM-DATA;NAME="model" ; x=y'))),
        (TYPE, form(b"content-type: text/plain; charset=UTF-8\r\nContent-Transfer-Encoding: 8bit\r\n" + MODEL)),
        (TYPE, form(described('form-data; name="models"'), described('form-data; name="Model"'), MODEL)),
        (TYPE, form(described('form-data; name="f"; filename="ü \\" (1);.wav"'), MODEL)),
        (TYPE, form(described("form-data; name=f; filename=x.wav; filename*=utf-8''%C3%BC.wav"), MODEL)),
        (TYPE, form(b"Content-Disposition: form-data\r\n\r\nnameless", MODEL)),
    ],
)
def test_read(content_type: str, body: bytes) -> None:
    read_form = Form(body, content_type)
    assert read_form.get("model", str, "") == "whisper"
    assert b"".join(read_form.pieces()) == body
    read_form.set("model", "other:v1")
    before, _, after = body.rpartition(b"whisper")
    assert b"".join(read_form.pieces()) == before + b"other:v1" + after


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=B; boundary=C",
        "multipart/form-data; boundary*=utf-8''B",
        "multipart/form-data; boundary=C; boundary*0=B",
        "multipart/form-data; boundary*0=B",
        "multipart/form-data; boundary=(c)B",
        'multipart/form-data; boundary="\\B"',
        'multipart/form-data; boundary="B',
        "multipart/form-data, multipart/form-data; boundary=B",
        f"multipart/form-data; boundary={'B' * 71}",
    ],
)
def test_no_plain_boundary(content_type: str) -> None:
    with pytest.raises(Ambiguous):
        Form(form(MODEL), content_type)


@pytest.mark.parametrize("content_type", ["", "application/json", "multipart/mixed; boundary=B", "text/plain; x=y"])
def test_no_form_to_ollama_either(content_type: str) -> None:
    with pytest.raises(Malformed):
        Form(form(MODEL), content_type)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--B--\r\n",
        form(),
        form(FILE),
        form(MODEL, MODEL),
        form(MODEL).replace(b"\r\n", b"\n"),
        form(MODEL).replace(b"--B\r\n", b"--B\n", 1),
        form(MODEL).replace(b"--B\r\n", b"--B \r\n", 1),
        form(MODEL).replace(b"\r\n--B--", b"\n--B--"),
        form(MODEL).replace(b"\r\n--B--", b"--B--"),
        form(MODEL).removesuffix(b"--\r\n"),
        form(MODEL).removesuffix(b"--B--\r\n"),
        form(MODEL) + b"epilogue",
        form(MODEL) + form(MODEL),
        b"preamble\r\n" + form(MODEL),
        b"\r\n" + form(MODEL),
        form(MODEL, FILE),  # something like a boundary in the file
        form(MODEL + b"\r\n--Bx"),
        form(MODEL.replace(b"\r\n\r\n", b"\n\n")),
        form(MODEL.replace(b"form-data;", b"form-data;\r\n ")),
        form(MODEL.replace(b": ", b" : ")),
        form(MODEL.replace(b"\r\n\r\n", b"\r\nno header\r\n\r\n")),
        form(MODEL.replace(b"\r\n\r\n", b"\r\nX: \0\r\n\r\n")),
        form(b"X: " + b"x" * 10_000 + b"\r\n" + MODEL),
        form(b"\r\nwhisper", MODEL),
        form(b"whisper"),
        form(MODEL.replace(b"whisper", b"\xff")),
        form(b'Content-Disposition: form-data; name="other"\r\n' + MODEL),
        form(b"Content-Transfer-Encoding: quoted-printable\r\n" + MODEL),
        form(b"Content-Transfer-Encoding: base64\r\n" + MODEL),
        form(*[FILE[:60]] * MAX_PARTS, MODEL),
    ],
)
def test_no_plain_form(body: bytes) -> None:
    with pytest.raises(Ambiguous):
        Form(body, TYPE)


@pytest.mark.parametrize(
    "disposition",
    [
        "",
        "form-data name=model",
        'attachment; name="model"',
        'form-data; name="model',
        'form-data; name="model"x',
        'form-data; name="model"; name="other"',
        'form-data; name="other"; NAME="model"',
        "form-data; name*=utf-8''mo%64el",
        "form-data; name=\"other\"; name*=utf-8''model",
        'form-data; name*0="mo"; name*1="del"',
        'form-data; name="model"; filename="a"',
        'form-data; name="model"; filename=""',
        "form-data; name=\"model\"; filename*=utf-8''a",
        "form-data; name=(a comment)model",
        'form-data; name="mo\\del"',
        'form-data; name="=?utf-8?q?model?="',
    ],
)
def test_no_plain_field(disposition: str) -> None:
    with pytest.raises(Ambiguous):
        Form(form(described(disposition)), TYPE)


def test_a_model_in_the_query() -> None:
    """Go looks there first."""
    with pytest.raises(Ambiguous):
        Form(form(MODEL), TYPE, {"model": "other"})


def test_only_the_model_is_asked_for() -> None:
    tools = b'Content-Disposition: form-data; name="tools"\r\n\r\n[1]'
    keep_alive = b'Content-Disposition: form-data; name="keep_alive"\r\n\r\n0'
    body = form(MODEL, tools, keep_alive)
    assert read(ENDPOINTS["/v1/audio/transcriptions"], Form(body, TYPE)) == Asked("whisper")


class Written(AbstractStreamWriter):
    """What aiohttp would send."""

    def __init__(self) -> None:
        self.body = bytearray()

    async def write(self, chunk: bytes) -> None:
        self.body += chunk

    async def write_eof(self, chunk: bytes = b"") -> None: ...
    async def drain(self) -> None: ...
    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None: ...
    def enable_chunking(self) -> None: ...
    async def write_headers(self, status_line: str, headers: object) -> None: ...


def written(data: FormData) -> tuple[bytes, str]:
    payload, writer = data(), Written()
    asyncio.run(payload.write(writer))
    return bytes(writer.body), payload.headers["Content-Type"]


def fields(body: bytes, content_type: str) -> list[tuple[str, bytes]]:
    """All that a form holds, as the standard library reads it: header lines and content."""
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    return [(str(part.items()), part.get_payload(decode=True)) for part in message.get_payload()]


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1)
FILES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1)
NAMES = PRINTABLE.filter(lambda name: name != "model")
FIELDS = st.tuples(NAMES, TEXT, st.none()) | st.tuples(NAMES, TEXT | st.binary(), FILES)


@given(model=TEXT, others=st.lists(FIELDS, max_size=4), place=st.integers(0, 4), quoted=st.booleans(), new=TEXT)
def test_what_aiohttp_writes(model: str, others: list, place: int, quoted: bool, new: str) -> None:
    data = FormData(quote_fields=quoted, default_to_multipart=True)
    for name, value, filename in [*others[:place], ("model", model, None), *others[place:]]:
        data.add_field(name, value, filename=filename)
    body, content_type = written(data)
    read_form = Form(body, content_type)
    assert read_form.get("model", str, "") == model
    read_form.set("model", new)
    before, after = fields(body, content_type), fields(b"".join(read_form.pieces()), content_type)
    index = min(place, len(others))
    assert (before[index][1], after[index][1]) == (model.encode(), new.encode())
    assert before[:index] + before[index + 1 :] == after[:index] + after[index + 1 :]
    read_form.set("model", model)
    assert b"".join(read_form.pieces()) == body
