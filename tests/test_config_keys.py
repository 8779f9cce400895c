"""Keys in the settings: where they are read from, and that nothing keeps them."""

from pathlib import Path

import msgspec
import pytest

from swapper_proxy import config
from swapper_proxy.config import ConfigError, Settings, digest

KEY = "sk-0123456789abcdef"


def load(folder: Path, text: str, **environ: str) -> Settings:
    (folder / "c.yaml").write_text(text)
    return config.load(str(folder / "c.yaml"), environ)


def one(told: str, kind: str = "clients") -> str:
    return f"keys: {{{kind}: {{a: {{{told}}}}}}}"


@pytest.mark.parametrize("kind", ["clients", "management"])
@pytest.mark.parametrize(
    "told", [f"key: {KEY}", f"key_sha256: {digest(KEY).upper()}", "key_env: A_KEY", "key_file: FOLDER/a.key"]
)
def test_four_ways_to_tell_one_key(tmp_path: Path, kind: str, told: str) -> None:
    (tmp_path / "a.key").write_text(f"{KEY}\n")
    settings = load(tmp_path, one(told.replace("FOLDER", str(tmp_path)), kind), A_KEY=KEY)
    assert getattr(settings.keys, kind)["a"].key_sha256 == digest(KEY)
    assert KEY not in str(settings)
    shown = msgspec.json.encode(config.hidden(settings.keys)).decode()
    assert KEY not in shown
    assert digest(KEY) not in shown


def test_without_its_keys_a_file_can_be_read_by_those_who_may_not(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(one("key_env: A_KEY"))
    assert config.load(str(tmp_path / "c.yaml"), {}, with_keys=False).keys == config.Keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (one("max_priority: low"), "keys.clients.a: expected exactly one of key, key_sha256, key_env, key_file"),
        (one(f"key: {KEY}, key_env: X"), "keys.clients.a: expected exactly one of key, key_sha256, key_env, key_file"),
        (
            one("key_sha256: abc"),
            "keys.clients.a.key_sha256: expected 64 hexadecimal digits, as `swapper-proxy hash-key` prints them",
        ),
        (one("key: ''"), "keys.clients.a.key: there is no key"),
        (
            one("key: x"),
            "keys.clients.a.key: a key has at least 8 characters; `swapper-proxy hash-key --random` makes one",
        ),
        (one("key: 'a secret'", "management"), "keys.management.a.key: a key has visible ASCII characters only"),
        (one("key_env: NOT_SET"), "keys.clients.a.key_env: NOT_SET: there is no key"),
        (one("key_file: /nowhere/a.key"), "keys.clients.a.key_file: /nowhere/a.key: No such file or directory"),
        (
            one(f"key: {KEY}, max_priority: urgent"),
            "keys.clients.a.max_priority: expected high, medium or low, got the text 'urgent'",
        ),
        (one(f"key: {KEY}, concurrent: 0"), "keys.clients.a.concurrent: expected integer from 1 to 1000000, got 0"),
        (one(f"key: {KEY}, read_only: true"), "keys.clients.a.read_only: unknown key"),
        (one(f"key: {KEY}, models: [x]", "management"), "keys.management.a.models: unknown key"),
        (one(f"key: {KEY}, models: ['']"), "keys.clients.a.models: expected names of models, or patterns like team/*"),
        (
            one(f"key: {KEY}, concurrent: 2, queued: 3"),
            "keys.clients.a.queued: 3 has no effect: those that wait are among the 2 of concurrent",
        ),
        (
            f"keys: {{clients: {{'a b': {{key: {KEY}}}}}}}",
            "keys.clients.a b: expected a name of 1 to 64 letters, digits, dots, @, _ or -",
        ),
        (
            f"keys: {{clients: {{a: {{key: {KEY}}}, b: {{key_sha256: {digest(KEY)}}}}}}}",
            "keys.clients.b: is the same key as keys.clients.a",
        ),
        (
            "models: {m: {path: 'ollama:x'}}\nroutes: {auto: [{model: m}]}\n" + one(f"key: {KEY}, models: [Auto]"),
            "keys.clients.a.models: 'Auto' is a route; what it may choose is to be named",
        ),
        ("keys: {users: {}}", "keys.users: unknown key"),
        (
            "server: {trusted_proxies: [10.0.0.1/8]}",
            "server.trusted_proxies: expected networks like 10.0.0.0/8 or addresses: 10.0.0.1/8 has host bits set",
        ),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text)
    assert str(refused.value) == f"{tmp_path / 'c.yaml'}: {expected}"
    assert KEY not in str(refused.value)


def test_a_key_may_be_for_both(tmp_path: Path) -> None:
    load(tmp_path, f"keys: {{clients: {{a: {{key: {KEY}}}}}, management: {{a: {{key: {KEY}}}}}}}")


BOTH = f"keys: {{clients: {{a: {{key: {KEY}}}}}, management: {{a: {{key: {KEY}}}}}}}\n"
NO_MANAGEMENT = "keys.management: there are none: whoever reaches the proxy may load and unload models"
OPEN = "server.host: {} can be reached from other machines, and there are no keys.clients: anybody may ask"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server: {host: 127.0.0.1}", []),
        ("server: {host: 127.8.8.8}", []),
        ("server: {host: '::1'}", []),
        ("server: {host: localhost}", []),
        (BOTH + "server: {host: 0.0.0.0}", []),
        ("server: {host: 0.0.0.0}", [OPEN.format("0.0.0.0")]),
        ("server: {host: '::'}", [OPEN.format("::")]),
        ("server: {host: box.example.com}", [OPEN.format("box.example.com")]),
        (one(f"key: {KEY}"), [NO_MANAGEMENT]),
        (one(f"key: {KEY}", "management") + "\nserver: {host: 0.0.0.0}", [OPEN.format("0.0.0.0")]),
    ],
)
def test_what_may_surprise(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert config.warnings(load(tmp_path, text)) == expected


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_file_that_anybody_can_read(tmp_path: Path, mode: int, warned: bool) -> None:
    file = tmp_path / "a.key"
    file.write_text(KEY)
    file.chmod(mode)
    settings = load(tmp_path, one(f"key_file: {file}", "management"))
    text = f"keys.management.a.key_file: {file} can be read by anybody on this machine; chmod 600"
    assert config.warnings(settings) == ([text] if warned else [])
