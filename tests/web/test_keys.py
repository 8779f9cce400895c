"""Keys by themselves: which is taken, and what each allows."""

import asyncio
import hmac
from typing import Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from swapper_proxy import config
from swapper_proxy.config import ClientKey, ManagementKey, digest
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.core.types import Priority
from swapper_proxy.web import keys
from swapper_proxy.web.keys import Bucket, Client, Keys

ONE, OTHER, OPERATOR, WATCHER = "sk-one", "sk-other", "sk-operator", "sk-watcher"


def hashed(**known: str) -> dict[str, ClientKey]:
    return {name: ClientKey(key_sha256=digest(key)) for name, key in known.items()}


KEYS = Keys(
    config.Keys(
        clients=hashed(one=ONE, other=OTHER),
        management={
            "operator": ManagementKey(key_sha256=digest(OPERATOR)),
            "watcher": ManagementKey(key_sha256=digest(WATCHER), read_only=True),
        },
    )
)


def headers(*given: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(given))


def client(**settings: Any) -> Client:
    return Client("one", ClientKey(**settings))


# Which key


@pytest.mark.parametrize(
    ("name", "value", "holder"),
    [
        ("Authorization", f"Bearer {ONE}", "one"),
        ("authorization", f"bearer   {OTHER} ", "other"),
        ("x-api-key", ONE, "one"),
        ("X-API-Key", f" {OTHER}", "other"),
    ],
)
def test_a_known_key_says_who_asks(name: str, value: str, holder: str) -> None:
    assert KEYS.client(headers((name, value))).name == holder


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ([], "missing_api_key"),
        ([("Api-Key", ONE), ("Cookie", ONE), ("Proxy-Authorization", f"Bearer {ONE}")], "missing_api_key"),
        ([("Authorization", f"Bearer {ONE}"), ("x-api-key", ONE)], "several_api_keys"),
        ([("x-api-key", ONE), ("X-Api-Key", ONE)], "several_api_keys"),
        ([("Authorization", f"Bearer {ONE}"), ("Authorization", "Basic x")], "several_api_keys"),
        ([("Authorization", ONE)], "invalid_api_key"),
        ([("Authorization", f"Basic {ONE}")], "invalid_api_key"),
        ([("Authorization", f"Bearer {ONE}, Bearer {ONE}")], "invalid_api_key"),
        ([("Authorization", "Bearer")], "invalid_api_key"),
        ([("x-api-key", "")], "invalid_api_key"),
        ([("x-api-key", ONE.upper())], "invalid_api_key"),
        ([("x-api-key", ONE[:-1])], "invalid_api_key"),
        ([("x-api-key", digest(ONE))], "invalid_api_key"),
        ([("x-api-key", OPERATOR)], "invalid_api_key"),
        ([("x-api-key", "\udcff\u212a")], "invalid_api_key"),
    ],
)
def test_all_else_is_nobodys(given: list[tuple[str, str]], code: str) -> None:
    with pytest.raises(ProxyError) as refused:
        KEYS.client(headers(*given))
    assert (refused.value.status, refused.value.code) == (401, code)
    assert ONE not in refused.value.message


@pytest.mark.parametrize("given", [ONE, OTHER, "nobody's"])
def test_every_key_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    compared: list[bytes] = []

    def compare(known: bytes, other: bytes) -> bool:
        compared.append(known)
        return known == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    try:
        KEYS.client(headers(("x-api-key", given)))
    except ProxyError:
        assert given == "nobody's"
    assert compared == [bytes.fromhex(digest(key)) for key in (ONE, OTHER)]


def test_the_management_has_keys_of_its_own() -> None:
    for key in (OPERATOR, WATCHER):
        KEYS.check_management(headers(("x-api-key", key)), reads=True)
    KEYS.check_management(headers(("x-api-key", OPERATOR)), reads=False)
    for key, status in ((ONE, 401), (WATCHER, 403)):
        with pytest.raises(ProxyError) as refused:
            KEYS.check_management(headers(("x-api-key", key)), reads=False)
        assert refused.value.status == status


def test_keys_that_were_not_read_yet_open_nothing() -> None:
    with pytest.raises(ValueError, match="not read"):
        Keys(config.Keys(clients={"a": ClientKey(key="x")}))


# How much


def test_a_bucket_is_full_in_the_beginning_and_fills_evenly() -> None:
    bucket = Bucket(60)
    assert [bucket.take(5.0) for _ in range(60)] == [0.0] * 60
    assert bucket.take(5.0) == pytest.approx(1.0)
    assert bucket.take(5.5) == pytest.approx(0.5)
    assert bucket.take(6.0) == 0.0
    assert bucket.take(6.0) == pytest.approx(1.0)
    assert [bucket.take(10_000.0) for _ in range(60)] == [0.0] * 60
    assert bucket.take(10_000.0) > 0


def refusal(context: Any) -> tuple[int, str, float | None]:
    with pytest.raises(ProxyError) as refused, context:
        pass
    return refused.value.status, refused.value.code, refused.value.retry_after_s


def test_requests_in_a_minute() -> None:
    one = client(per_minute=2)
    for _ in range(2):
        with one.admitted(1.0):
            pass
    assert refusal(one.admitted(1.0)) == (429, "rate_limited", pytest.approx(30.0))
    with one.admitted(31.0):
        assert one.open == 1


def test_requests_at_once() -> None:
    one = client(concurrent=2, per_minute=3)
    with one.admitted(1.0), one.admitted(1.0):
        assert refusal(one.admitted(1.0)) == (429, "too_many_requests", 1.0)
        assert one.open == 2
    with one.admitted(1.0):  # what was refused cost none of the minute
        assert one.open == 1
    assert one.open == 0


def test_requests_that_wait() -> None:
    one = client(queued=1)
    with one.queued():
        assert refusal(one.queued()) == (429, "too_many_queued", 1.0)
    assert refusal(client(queued=0).queued())[0] == 429
    assert one.waiting == 0


async def test_who_leaves_gives_all_back() -> None:
    one = client()

    async def request() -> None:
        with one.admitted(1.0), one.queued():
            await asyncio.Event().wait()

    tasks = [asyncio.ensure_future(request()) for _ in range(3)]
    await asyncio.sleep(0)
    assert (one.open, one.waiting) == (3, 3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (one.open, one.waiting) == (0, 0)


def test_one_key_without_limits() -> None:
    one = client()
    with one.admitted(1.0), one.queued():
        assert one.may_use(["anything:latest"])
        assert one.capped(Priority.HIGH) is Priority.HIGH


@pytest.mark.parametrize(
    ("highest", "expected"),
    [("high", ["high", "medium", "low"]), ("medium", ["medium", "medium", "low"]), ("low", ["low", "low", "low"])],
)
def test_the_highest_priority(highest: str, expected: list[str]) -> None:
    one = client(max_priority=highest)
    assert [one.capped(priority) for priority in (Priority.HIGH, Priority.MEDIUM, Priority.LOW)] == expected


# Which models


@pytest.mark.parametrize(
    ("allowed", "names", "may"),
    [
        ("llama3", ["llama3:latest"], True),
        ("LLAMA3:latest", ["llama3:latest"], True),
        ("registry.ollama.ai/library/llama3", ["llama3:latest"], True),
        ("llama3", ["llama3:8b"], False),
        ("llama3", ["other/llama3:latest"], False),
        ("llama3", ["llama3.1:latest"], False),
        ("llama3:*", ["llama3:8b"], True),
        ("llama3:*", ["llama3.1:8b"], False),
        ("llama*", ["llama3:8b"], True),
        ("llama?", ["llama3:latest"], True),
        ("library/llama*", ["llama3:8b"], True),
        ("Team/*", ["team/x:v1"], True),
        ("team/*", ["team/x:v1", "chat:latest"], True),
        ("team/*", ["hf.co/team/x:v1"], False),
        ("team/*", ["myteam/x:v1"], False),
        ("chat", ["llama3:latest", "chat:latest"], True),
        ("cha[st]", ["llama3:latest", "chat:latest"], True),
        ("*", ["anything:x"], True),
        ("*/*", ["anything/at-all:x"], True),
        ("hf.co/*/*", ["hf.co/anything/at-all:x"], True),
        # anybody may have a namespace, or a registry
        ("llama*", ["llama-of-mine/mixtral:latest"], False),
        ("llama*", ["llama.example.com/library/mixtral:latest"], False),
        ("team*/*", ["team.example.com/library/mixtral:latest"], False),
        ("*", ["anything/at-all:x"], False),
        ("llama[!x]*", ["llama/mixtral:latest"], False),
        # Ollama would drop what stands before or behind, and take the rest for the model
        ("team*", ["team://registry.ollama.ai/library/secret:latest"], False),
        ("team/*", ["team//secret:latest"], False),
        ("*team", ["secret@team:latest"], False),
        ("team/*", ["team/../secret:latest"], False),
        ("team/*", ["team/a b:latest"], False),
        ("*", [":latest"], False),
        ("llama3", [":latest"], False),
    ],
)
def test_the_models_that_may_be_used(allowed: str, names: list[str], may: bool) -> None:
    assert client(models=("x", allowed)).may_use(names) is may


@pytest.mark.parametrize(
    ("method", "path", "open_"),
    [
        ("GET", "/api/tags", True),
        ("HEAD", "/", True),
        ("GET", "/api/version", True),
        ("GET", "/v1/models/x", True),
        ("POST", "/api/blobs/sha256:0", True),
        ("POST", "/api/push", True),  # judged by its body
        ("POST", "/api/tags", False),
        ("POST", "/api/generate/", False),
        ("GET", "/api/generate", False),
        ("POST", "/api/experimental/run", False),
        ("OPTIONS", "/", False),
    ],
)
def test_routes_without_a_model_that_can_be_judged_are_closed(method: str, path: str, open_: bool) -> None:
    client().check_route(method, path)
    if open_:
        client(models=("x",)).check_route(method, path)
    else:
        with pytest.raises(ProxyError, match="may not use this route"):
            client(models=("x",)).check_route(method, path)


@pytest.mark.parametrize(
    "path",
    [
        *("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs/x"),
        *("/api/experimental/aliases", "/api/signout", "/api/user/keys/x"),
    ],
)
def test_what_changes_models(path: str) -> None:
    with pytest.raises(ProxyError) as refused:
        keys.check_read_only(path)
    assert (refused.value.status, refused.value.code) == (403, "read_only")


@pytest.mark.parametrize("path", ["/api/show", "/api/tags", "/", "/api/ps", "/v1/models"])
def test_what_does_not(path: str) -> None:
    keys.check_read_only(path)
