"""Names, headers, configurations and workload files: whatever they say, a known error or what is promised."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from swapper_proxy import config
from swapper_proxy.config import ConfigError, Settings
from swapper_proxy.config.reference import all_keys
from swapper_proxy.core.names import canonical, is_cloud, is_plausible
from swapper_proxy.replay.workload import Workload, WorkloadError, parse
from swapper_proxy.runtime.ports import CREDENTIALS
from swapper_proxy.web.headers import towards_client, towards_ollama


def said(refusal: type[Exception], read: Callable[[], object]) -> object:
    """What was read, or the message of the refusal."""
    try:
        return read()
    except refusal as error:
        return str(error)


# Names

PARTS = st.sampled_from(
    ["llama3", "LLaMA3", "library", "registry.ollama.ai", "hf.co", "latest", "", "x", "\u212a", "é"]
)
NAMES = st.lists(PARTS | st.sampled_from(["/", ":", "@", " ", "-cloud", ":cloud"]), max_size=8).map("".join)


@given(NAMES | st.text(st.characters(categories=None)))
@example("")
@example(":")
@example("a:b/c:d")
@example("registry.ollama.ai/library/x:latest")
@example("library/library/x")
@example("registry.ollama.ai/registry.ollama.ai/x")
@example("x" * 601)
def test_a_name_has_one_spelling(name: str) -> None:
    once = canonical(name)
    assert canonical(once) == once
    assert is_plausible(name) in (True, False)
    assert is_cloud(name) in (True, False)
    if len(name) <= 600:
        ascii_upper = "".join(c.upper() if c.isascii() else c for c in name)
        assert canonical(ascii_upper) == once


# Headers

TOKENS = st.sampled_from(
    [b"Connection", b"Content-Length", b"Transfer-Encoding", b"TE", b"Host", b"Origin", b"X-A", b"X-B"]
)
HEADERS = st.lists(
    st.tuples(
        st.just(b"Connection")
        | TOKENS
        | st.sampled_from([b"Upgrade", b"Authorization", b"Keep-Alive", b"content-encoding", b"X-Swapper-Priority"]),
        st.lists(TOKENS | st.sampled_from([b"close", b"keep-alive", b"", b"x-a ", b"\xff"]), max_size=3).map(b",".join),
    ),
    max_size=8,
)


HOPS = {b"connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"}  # RFC 9110, §7.6.1


@given(HEADERS, st.none() | st.integers(0, 10**12), st.booleans())
@example([(b"Content-Length", b"1"), (b"Connection", b"Content-Length")], None, False)  # never named away
def test_no_header_of_a_connection_goes_on(raw: list[tuple[bytes, bytes]], length: int | None, secret: bool) -> None:
    named = {w.strip().lower() for name, value in raw if name.lower() == b"connection" for w in value.split(b",")}
    sent = towards_ollama(raw, length, CREDENTIALS if secret else frozenset())
    names = [name.lower() for name, _ in sent]
    assert not {*names} & (HOPS | {b"host", b"origin", b"x-swapper-priority"})
    assert not {*names} & (named - {b"close", b"keep-alive", b"content-length"})
    assert not (secret and {*names} & CREDENTIALS)
    if length is not None:
        assert [value for name, value in sent if name.lower() == b"content-length"] == [b"%d" % length]
        assert b"content-encoding" not in names
    kept = [header for header in sent if header[0].lower() != b"content-length" or length is None]
    assert kept == [header for header in raw if header in kept]  # as they came, in their order
    answered = {name.lower() for name, _ in towards_client(raw)}
    assert not answered & (HOPS | (named - {b"close", b"keep-alive", b"content-length"}))


# Configurations

SECTIONS = [*sorted({key.path.partition(".")[0] for key in all_keys()}), "source", "other"]
FIELDS = sorted({key.path.rpartition(".")[2] for key in all_keys()})
PLAIN = [
    "1",
    "0",
    "-1",
    "1e400",
    ".nan",
    ".inf",
    "yes",
    "off",
    "null",
    "x",
    "''",
    "~",
    "2001-01-01",
    "0x7f",
    "1_0",
    "!!binary x",
]
PLAIN += [
    "ollama:x",
    "http://[",
    "http://a:99999",
    "http://a:b",
    "//",
    "*a",
    "&a x",
    "<<",
    "!!python/object:os.system x",
    "\\ud800",
]
VALUES = st.recursive(
    st.sampled_from(PLAIN) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(st.sampled_from([*FIELDS, "a", "pin"]), inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        )
    ),
    max_leaves=6,
)
SECTIONED = st.lists(
    st.tuples(st.sampled_from(SECTIONS), st.lists(st.tuples(st.sampled_from(FIELDS), VALUES), max_size=3)), max_size=3
).map(lambda parts: "\n".join(f"{s}: {{{', '.join(f'{k}: {v}' for k, v in fields)}}}" for s, fields in parts))
FILES = (SECTIONED | VALUES | st.text(max_size=30)).map(lambda text: text.encode("utf-8", "surrogatepass"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.yaml"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES | st.binary(max_size=30))
@example(b"models: {a: {path: 'ollama:x'}}\nroutes: {auto: [{model: a}]}")
@example(b"server: [1]")
@example(b"models: {? [a] : 1}")
@example(b"&a {b: *a}")
@example(b"swapper: {max_wait: {high: 1e400}}")
@example(b"history: 1")
@example(b"upstream: {url: 'http://[x'}")
@example(b"- " * 2000)
@example(b"[" * 2000)
@example(b"a: !!timestamp '2001-99-99'")
@example(b"a: !!int ''")
@example(b"a: !!float x")
@example(b"models: {a: {path: 'ollama:x', size_gb: " + b"9" * 5000 + b"}}")
def test_a_configuration_is_read_or_refused_with_a_line_for_each_mistake(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    read = said(ConfigError, lambda: config.load(str(file), {}))
    assert isinstance(read, Settings) or all(line.startswith(f"{file}: ") for line in str(read).splitlines())


ENVIRONMENT = (
    "OLLAMA_BASE_URL",
    "SWAPPER_HOST",
    "SWAPPER_PORT",
    "SWAPPER_MODE",
    "OLLAMA_NUM_PARALLEL",
    "XDG_STATE_HOME",
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from([*ENVIRONMENT, "MAX_CONCURRENT_MODELS", "MODEL_SWAP_TIMEOUT"]),
        st.sampled_from(["", "1", "-1", "1e9", "nan", "inf", "x", "http://[", "http://a:b", "1_0", "٣", "9" * 5000])
        | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9),
    )
)
@example({"OLLAMA_NUM_PARALLEL": "9" * 5000})
@example({"SWAPPER_PORT": "9" * 5000})
def test_an_environment_is_read_or_refused_with_a_line_for_each_mistake(file: Path, environ: dict[str, str]) -> None:
    file.write_text("{}")
    read = said(ConfigError, lambda: config.load(str(file), environ))
    sources = (*environ, str(file))
    assert isinstance(read, Settings) or all(line.startswith(sources) for line in str(read).splitlines())


# Workloads

MODEL = st.sampled_from(
    ['{"load_s": 1}', '{"load_s": -1}', '{"load_s": 1e400}', "{}", "[]", '{"load_s": 1, "x": 1}', "null"]
)
STEP = st.sampled_from(
    [
        '{"model": "a", "service_s": 1}',
        '{"model": "b", "service_s": 1}',
        '{"model": 1}',
        "{",
        "1",
        '{"service_s": "\\ud800"}',
    ]
)
WORKLOADS = st.builds(
    lambda model, steps, more: f'{{"models": {{"a": {model}}}, "clients": [[{", ".join(steps)}]]{more}}}',
    MODEL,
    st.lists(STEP, max_size=3),
    st.sampled_from(
        ["", ', "mode": "x"', ', "until_s": null', ', "until_s": -1', ', "memory_budget_gb": null', "}", ', "y": 1']
    ),
).map(lambda text: text.encode())


@given(
    WORKLOADS
    | st.binary(max_size=40)
    | WORKLOADS.flatmap(lambda w: st.integers(0, len(w)).map(lambda n: w[:n] + b"\xff" + w[n:]))
)
@example(b"")
@example(b'{"models": {"a": {"load_s": 1}}, "clients": [[{"model": "a", "service_s": 1}]]}')
@example(b"[" * 20_000)
@example(b'{"models": {"a.b[0]": {"load_s": -1}}, "clients": []}')
def test_a_workload_is_read_or_refused_in_one_line(data: bytes) -> None:
    read = said(WorkloadError, lambda: parse(data, "w.json"))
    assert isinstance(read, Workload) or "\n" not in str(read)
