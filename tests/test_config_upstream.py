"""The URL of Ollama, its credentials and certificates: one clear line for each mistake, and no line with a secret."""

import ssl
from pathlib import Path

import pytest

from swapper_proxy import config
from swapper_proxy.config.upstream import trust
from tests.e2e.fronts import self_signed

SECRET = "s3cret"
LIKE = "expected a URL like http://localhost:11434"
ESCAPE = f"{LIKE}; in its user and password, write what is no letter or digit as % and two hexadecimal digits"


def load(tmp_path: Path, upstream: str, environ: dict[str, str] | None = None, **more: bool) -> config.Upstream:
    (tmp_path / "c.yaml").write_text(f"upstream: {upstream}")
    return config.load(str(tmp_path / "c.yaml"), environ or {}, **more).upstream


def wrong(tmp_path: Path, upstream: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(config.ConfigError) as caught:
        load(tmp_path, upstream, environ)
    assert SECRET not in str(caught.value)
    return str(caught.value).removeprefix(f"{tmp_path}/c.yaml: ")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (
            "localhost",
            f"{LIKE}, got 'localhost'; it must begin with http:// or https://, as in 'http://localhost:11434'",
        ),
        ("box:1", f"{LIKE}, got 'box:1'; it must begin with http:// or https://, as in 'http://box:1'"),
        (
            "10.0.0.1:1/x",
            f"{LIKE}, got '10.0.0.1:1/x'; it must begin with http:// or https://, as in 'http://10.0.0.1:1/x'",
        ),
        (f"ann:{SECRET}@box", f"{LIKE}; it must begin with http:// or https://"),
        ('"http://box"', f"{LIKE}, without quotes around it, got '\"http://box\"'"),
        ("http://x:y", "Port could not be cast to integer value as 'y'"),
        ("ftp://x", f"{LIKE}, got 'ftp://x'"),
        ("http://box?a=b", f"{LIKE}, got 'http://box?a=b'"),
        (f"http://ann:{SECRET}@box?a=b", LIKE),
        (f"http://ann:{SECRET}/x@box", ESCAPE),
        (f"http://ann:1/{SECRET}@box", ESCAPE),
        (f"http://ann:1?{SECRET}@box", ESCAPE),
        (f"http://ann:1#{SECRET}@box", ESCAPE),
        ("http://box/v1", "must end before '/v1', which the proxy adds itself: write 'http://box'"),
        ("http://box:1/v1/", "must end before '/v1/', which the proxy adds itself: write 'http://box:1'"),
        ("https://box/api", "must end before '/api', which the proxy adds itself: write 'https://box'"),
        ("http://box/o/api/tags", "must end before '/api/tags', which the proxy adds itself: write 'http://box/o'"),
        (
            f"http://ann:{SECRET}@box/v1/chat/completions",
            "must end before '/v1/chat/completions', which the proxy adds ",
        ),
        ("http://127.0.0.1:8890", "http://127.0.0.1:8890 is the proxy itself; it must be the address of Ollama"),
        (f"http://ann:{SECRET}@127.0.0.1:8890", "http://127.0.0.1:8890 is the proxy itself; it must be the address of"),
    ],
)
def test_a_url_that_cannot_be_used(tmp_path: Path, url: str, text: str) -> None:
    for told in (wrong(tmp_path, "{}", {"OLLAMA_BASE_URL": url}), wrong(tmp_path, f"{{url: '{url}'}}")):
        assert told.removeprefix("OLLAMA_BASE_URL: ").startswith(f"upstream.url: {text}")


@pytest.mark.parametrize("url", ["http://box/api/ollama", "http://box/ollama", "https://box/v10", "http://box/apis/"])
def test_a_path_of_a_gateway(tmp_path: Path, url: str) -> None:
    assert load(tmp_path, f"{{url: '{url}'}}").url == url


def test_the_user_of_a_url_is_moved_into_a_header(tmp_path: Path) -> None:
    for user, header in (
        ("ann:pa%3Ass", "Basic YW5uOnBhOnNz"),
        ("ann", "Basic YW5uOg=="),
        ("", "Basic Og=="),
        ("%C3%A4:%C3%B6", "Basic w6Q6w7Y="),
    ):
        upstream = load(tmp_path, "{}", {"OLLAMA_BASE_URL": f"http://{user}@box:1/x"})
        assert (upstream.url, upstream.headers) == ("http://box:1/x", {"Authorization": header})


def test_where_a_header_comes_from(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("Bearer a b\r\n")
    headers = f"{{A: plain text, B: {{env: X}}, C: {{file: '{tmp_path}/f'}}}}"
    read = load(tmp_path, f"{{headers: {headers}}}", {"X": "of a variable"}).headers
    assert read == {"A": "plain text", "B": "of a variable", "C": "Bearer a b"}
    assert load(tmp_path, f"{{headers: {headers}, ca_file: /none}}", with_keys=False).headers == {}


BAD = "expected visible ASCII characters, with spaces between them at most"


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        (
            f"{{A b: {SECRET}}}",
            "headers: expected names of headers like Authorization, and their values behind a colon",
        ),
        (f"{{Host: {SECRET}}}", "headers.Host: is a header that the proxy sets itself"),
        (f"{{content-length: '{SECRET}'}}", "headers.content-length: is a header that the proxy sets itself"),
        (f"{{a: {SECRET}, A: {SECRET}}}", "headers.A: is given twice"),
        (f'{{A: "{SECRET}\\n"}}', f"headers.A: {BAD}"),
        (f'{{A: "{SECRET}\\r\\nB: c"}}', f"headers.A: {BAD}"),
        (f"{{A: {SECRET}\u00e4}}", f"headers.A: {BAD}"),
        ("{A: ''}", f"headers.A: {BAD}"),
        ("{A: {}}", "headers.A: expected a text, or one of env (a variable) and file (a path)"),
        ("{A: {env: X, file: /x}}", "headers.A: expected a text, or one of env (a variable) and file (a path)"),
        ("{A: {env: NONE}}", "headers.A.env: NONE: is empty or not set"),
        ("{A: {env: LINES}}", f"headers.A.env: LINES: {BAD}"),
        ("{A: {file: /no/such}}", "headers.A.file: /no/such: No such file or directory"),
        (
            "{A: {file: '~nobody-of-this-name/x'}}",
            "headers.A.file: ~nobody-of-this-name/x: Could not determine home dir",
        ),
        ('{A: {file: "a\\0b"}}', f"headers.A.file: 'a\\x00b': {BAD}"),
        ("{A: {file: FOLDER/bytes}}", f"headers.A.file: 'FOLDER/bytes': {BAD}"),
        ("{A: {file: FOLDER/none}}", "headers.A.file: FOLDER/none: is empty or not set"),
    ],
)
def test_a_header_that_cannot_be_used(tmp_path: Path, headers: str, text: str) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "none").write_bytes(b"\n")
    told = wrong(tmp_path, f"{{headers: {headers.replace('FOLDER', str(tmp_path))}}}", {"LINES": f"a\n{SECRET}"})
    assert told.startswith(f"upstream.{text}".replace("FOLDER", str(tmp_path)))


def test_a_value_that_yaml_takes_for_a_number_is_not_shown(tmp_path: Path) -> None:
    assert "471147114711" not in wrong(tmp_path, "{headers: {A: 471147114711}}")
    assert "471147114711" not in wrong(tmp_path, "{headers: {A: {env: [471147114711]}}}")


def test_two_credentials_contradict_each_other(tmp_path: Path) -> None:
    told = wrong(tmp_path, f"{{url: 'http://ann:{SECRET}@box', headers: {{authorization: {SECRET}}}}}")
    assert told == "upstream.headers: Authorization contradicts the user in upstream.url; keep one of them"


def test_certificates(tmp_path: Path) -> None:
    made = self_signed(tmp_path)
    (tmp_path / "text").write_text("no certificate")
    told = wrong(tmp_path, f"{{url: 'https://box', ca_file: {tmp_path}/text}}")
    assert told == f"upstream.ca_file: {tmp_path}/text: holds no certificate in PEM form"
    told = wrong(tmp_path, "{url: 'https://box', ca_file: /no/such}")
    assert told == "upstream.ca_file: /no/such: No such file or directory"
    told = wrong(tmp_path, f"{{ca_file: {made.ca}, verify: false}}")
    assert told == "upstream.ca_file: has no effect with verify: false"
    assert trust(load(tmp_path, "{url: 'http://box'}")) is None
    for text, mode, checks in (
        (f"{{url: 'https://box', ca_file: {made.ca}}}", ssl.CERT_REQUIRED, True),
        ("{url: 'https://box'}", ssl.CERT_REQUIRED, True),
        ("{url: 'https://box', verify: false}", ssl.CERT_NONE, False),
    ):
        context = trust(load(tmp_path, text))
        assert context is not None
        assert (context.verify_mode, context.check_hostname) == (mode, checks)


@pytest.mark.parametrize(
    ("upstream", "warning"),
    [
        ("{url: 'https://box', verify: false}", "upstream.verify: false: whoever is on the way to Ollama can read and"),
        ("{url: 'http://box', ca_file: CA}", "upstream.ca_file: has no effect with http:// in upstream.url"),
        (f"{{url: 'http://a:{SECRET}@box'}}", "upstream.url: credentials go to Ollama unencrypted; use https:// if"),
        (f"{{url: 'http://a:{SECRET}@127.0.0.1:9'}}", ""),
        (f"{{url: 'https://a:{SECRET}@box'}}", ""),
        ("{url: 'http://box'}", ""),
    ],
)
def test_what_may_surprise(tmp_path: Path, upstream: str, warning: str) -> None:
    (tmp_path / "c.yaml").write_text(f"upstream: {upstream.replace('CA', str(self_signed(tmp_path).ca))}")
    found = config.warnings(config.load(str(tmp_path / "c.yaml"), {}))
    assert [text[: len(warning)] for text in found] == [warning] * bool(warning)
    assert SECRET not in str(found)
