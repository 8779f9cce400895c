"""Which model a request gets: its traits in every dialect, the rules, and `metadata.use_llm`."""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swapper_proxy.config import Route
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.web.body import Fields
from swapper_proxy.web.endpoints import ENDPOINTS
from swapper_proxy.web.form import Form
from swapper_proxy.web.routing import Direction, Router, Traits, choose, read, use_llm

PICTURE = "iVBORw0KGgo" * 100
URL = f"data:image/png;base64,{PICTURE}"
TOOLS = [{"type": "function", "function": {"name": "look", "description": "not counted"}}]


def fields(body: object) -> Fields:
    return Fields.read(json.dumps(body).encode())


def form(model: str) -> Form:
    body = f'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n--B--\r\n'.encode()
    return Form(body, "multipart/form-data; boundary=B")


def message(content: object, **more: object) -> dict:
    return {"messages": [{"role": "user", "content": content, **more}]}


SOURCE = {"type": "base64", "media_type": "image/png", "data": PICTURE}
RESULT = {"type": "tool_result", "content": [{"type": "text", "text": "12345"}, {"type": "image", "source": SOURCE}]}


@pytest.mark.parametrize(
    ("path", "body", "traits"),
    [
        ("/api/generate", {"prompt": "123", "system": "45"}, Traits(characters=5)),
        ("/api/generate", {"prompt": "123", "suffix": "45", "tools": TOOLS}, Traits(characters=5)),
        ("/api/generate", {"prompt": "123", "images": [PICTURE]}, Traits(has_images=True, characters=3)),
        ("/api/generate", {"Prompt": "123", "IMAGES": [PICTURE]}, Traits(has_images=True, characters=3)),
        ("/api/generate", {"prompt": "äöü", "images": []}, Traits(characters=3)),
        ("/api/generate", {"messages": [{"content": "not read here"}]}, Traits()),
        ("/api/generate", {}, Traits()),
        ("/api/chat", message("123"), Traits(characters=3)),
        ("/api/chat", message("123", images=[PICTURE]), Traits(has_images=True, characters=3)),
        ("/api/chat", {"messages": [{"Content": "123", "Images": [PICTURE]}]}, Traits(has_images=True, characters=3)),
        ("/api/chat", message("123", images=[]), Traits(characters=3)),
        ("/api/chat", {**message("123"), "tools": TOOLS}, Traits(has_tools=True, characters=3)),
        ("/api/chat", {**message("123"), "tools": []}, Traits(characters=3)),
        ("/api/chat", {**message("123"), "prompt": "not read here", "images": [PICTURE]}, Traits(characters=3)),
        ("/api/embed", {"input": "123"}, Traits(is_embedding=True, characters=3)),
        ("/api/embed", {"input": ["123", "45"]}, Traits(is_embedding=True, characters=5)),
        ("/api/embeddings", {"prompt": "123"}, Traits(is_embedding=True, characters=3)),
        ("/v1/chat/completions", message("123"), Traits(characters=3)),
        (
            "/v1/chat/completions",
            {
                **message([{"type": "text", "text": "123"}, {"type": "image_url", "image_url": {"url": URL}}]),
                "tools": TOOLS,
            },
            Traits(has_images=True, has_tools=True, characters=3),
        ),
        ("/v1/completions", {"prompt": ["123", "4"], "suffix": "5"}, Traits(characters=5)),
        ("/v1/embeddings", {"input": ["123"]}, Traits(is_embedding=True, characters=3)),
        ("/v1/embeddings", {"input": [[1, 2], [3]]}, Traits(is_embedding=True)),
        (
            "/v1/responses",
            {"input": "123", "instructions": "45", "tools": TOOLS},
            Traits(has_tools=True, characters=5),
        ),
        (
            "/v1/responses",
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "123"}, {"type": "input_image"}]},
                    {"type": "function_call_output", "call_id": "not counted", "output": "45"},
                ]
            },
            Traits(has_images=True, characters=5),
        ),
        ("/v1/messages", {"system": "12", **message("345"), "tools": TOOLS}, Traits(has_tools=True, characters=5)),
        (
            "/v1/messages",
            {"system": [{"type": "text", "text": "12"}], **message([{"type": "image", "source": SOURCE}])},
            Traits(has_images=True, characters=2),
        ),
        ("/v1/messages", message([RESULT]), Traits(has_images=True, characters=5)),
        ("/v1/images/generations", {"prompt": "123"}, Traits(characters=3)),
        # what Ollama will refuse counts as nothing
        ("/api/chat", {"messages": 5, "tools": "x"}, Traits()),
        (
            "/api/chat",
            {"messages": ["ab", {"content": {"text": "cde"}}, None], "tools": {"a": 1}},
            Traits(characters=5),
        ),
        ("/api/chat", message([7, {"text": 8}, [[["a"]]]], images="x", type=9), Traits(characters=1)),
        ("/api/generate", {"prompt": {"a": 1}, "images": PICTURE}, Traits()),
        ("/api/embed", {"input": None}, Traits(is_embedding=True)),
    ],
)
def test_traits(path: str, body: dict, traits: Traits) -> None:
    assert read(ENDPOINTS[path], fields({"model": "auto", **body})) == traits


def test_text_that_is_no_utf8_hides_nothing_else() -> None:
    body = b'{"messages":[{"content":"caf\xe9"},{"content":"12","images":["x"]}],"tools":[{}]}'
    traits = read(ENDPOINTS["/api/chat"], Fields.read(body))
    assert (traits.has_images, traits.has_tools, traits.characters >= 2) == (True, True, True)


@pytest.mark.parametrize(("levels", "frames"), [(10, 0), (900, 0), (900, 60)])
def test_what_is_nested_too_deeply_counts_as_nothing(levels: int, frames: int) -> None:
    body = b'{"messages":' + b'[{"content":' * (levels // 2) + b'"abc"' + b"}]" * (levels // 2) + b"}"
    nested = Fields.read(body)

    def deeper(left: int) -> Traits:
        """Nearer to the end of the stack than where the body could just be read."""
        return deeper(left - 1) if left else read(ENDPOINTS["/api/chat"], nested)

    assert deeper(frames) == Traits()


def test_of_very_many_texts_the_first_are_looked_at() -> None:
    texts = fields({"input": ["ab"] * 50_000})
    assert 10_000 < read(ENDPOINTS["/api/embed"], texts).characters < 100_000


@pytest.mark.parametrize("path", [path for path, endpoint in ENDPOINTS.items() if endpoint.multipart])
def test_a_form_has_no_traits(path: str) -> None:
    assert read(ENDPOINTS[path], form("auto")) == Traits()


NAMES = st.sampled_from(
    ["messages", "prompt", "input", "system", "instructions", "tools", "images", "content", "text", "type", "output"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.just(1.5) | st.text('aä😀"\\\n\0', max_size=9) | NAMES
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=9
)
unhurried = settings(suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(path=st.sampled_from(sorted(ENDPOINTS)), body=st.dictionaries(NAMES, VALUES, max_size=4))
def test_no_body_is_too_strange(path: str, body: dict) -> None:
    traits = read(ENDPOINTS[path], fields(body))
    assert 0 <= traits.characters <= len(json.dumps(body, ensure_ascii=False))
    assert traits.is_embedding == ("embed" in path)
    assert not traits.has_tools or body["tools"]


@unhurried
@given(body=st.dictionaries(st.sampled_from(["model", "metadata"]), VALUES | st.just({"use_llm": "a"}), max_size=2))
def test_a_wish_is_a_name_or_refused(body: dict) -> None:
    with contextlib.suppress(ProxyError):
        assert isinstance(use_llm(fields(body)), str)


# Rules

RULES = (
    Route(model="embedder", is_embedding=True),
    Route(model="seer", has_images=True),
    Route(model=("coder", "large"), has_tools=True, has_images=False),
    Route(model="large", longer_than=10),
    Route(model=("small", "large")),
)


@pytest.mark.parametrize(
    ("traits", "resident", "model", "why"),
    [
        (Traits(is_embedding=True, characters=99), (), "embedder", "rule 1 of auto: is an embedding"),
        (Traits(has_images=True, has_tools=True), ("coder",), "seer", "rule 2 of auto: has images"),
        (
            Traits(has_tools=True),
            (),
            "coder",
            "rule 3 of auto: no images, has tools; coder is named first, none is in memory",
        ),
        (Traits(has_tools=True), ("large",), "large", "rule 3 of auto: no images, has tools; large is in memory"),
        (
            Traits(has_tools=True),
            ("large", "coder"),
            "coder",
            "rule 3 of auto: no images, has tools; coder is in memory",
        ),
        (Traits(characters=11), ("small",), "large", "rule 4 of auto: longer than 10 characters"),
        (Traits(characters=10), ("large",), "large", "rule 5 of auto: any request; large is in memory"),
        (Traits(), ("seer",), "small", "rule 5 of auto: any request; small is named first, none is in memory"),
    ],
)
def test_the_first_rule_that_holds(traits: Traits, resident: tuple[str, ...], model: str, why: str) -> None:
    choice = choose("auto", RULES, traits, resident.__contains__)
    assert choice is not None
    assert (choice.model, choice.why) == (model, why)
    assert why.startswith(f"rule {choice.rule} ")


def test_no_rule_may_hold() -> None:
    assert choose("auto", RULES[:4], Traits(characters=10), lambda _: True) is None


# Directing

ROUTER = Router({"auto": RULES, "sight": RULES[1:2]}, "large".__eq__)


@pytest.mark.parametrize(
    ("path", "body", "direction"),
    [
        ("/api/generate", {"model": "auto", "prompt": "x"}, ("large", "auto", False)),
        ("/api/generate", {"model": "AUTO:latest", "prompt": "x"}, ("large", "AUTO:latest", False)),
        ("/api/generate", {"MODEL": "library/Auto", "images": ["x"]}, ("seer", "library/Auto", False)),
        ("/v1/embeddings", {"model": "auto", "input": "x"}, ("embedder", "auto", False)),
        ("/api/chat", {"model": "other"}, ("other", "other", False)),
        ("/api/chat", {}, ("", "", False)),
        ("/api/chat", {"model": 5}, ("", "", False)),
        ("/api/chat", {"model": "a", "metadata": {"use_llm": "b"}}, ("b", "b", True)),
        ("/api/chat", {"metadata": {"use_llm": "b", "swapper_service": "http://old"}}, ("b", "b", True)),
        ("/api/chat", {"model": 5, "metadata": {"use_llm": "b"}}, ("b", "b", True)),
        ("/v1/messages", {"model": "a", "metadata": {"use_llm": "Auto"}}, ("large", "Auto", True)),
        ("/api/chat", {"model": "auto", "metadata": {"use_llm": "b"}}, ("b", "b", True)),
        ("/api/chat", {"model": "a", "metadata": {"use_llm": None}}, ("a", "a", False)),
        ("/api/chat", {"model": "a", "metadata": {"use_llm": ""}}, ("a", "a", False)),
        ("/api/chat", {"model": "a", "metadata": {"swapper_service": 7}}, ("a", "a", False)),
        ("/api/chat", {"model": "a", "metadata": None}, ("a", "a", False)),
        ("/api/chat", {"model": "a", "metadata": ["use_llm"]}, ("a", "a", False)),
    ],
)
def test_where_a_request_goes(path: str, body: dict, direction: tuple[str, str, bool]) -> None:
    asked = fields(body)
    found = ROUTER.direction(ENDPOINTS[path], asked)
    assert (found.model, found.asked, found.use_llm) == direction
    assert json.loads(b"".join(asked.pieces())) == {
        name.lower(): value for name, value in body.items()
    }  # it only tells


def test_why_it_goes_there() -> None:
    assert Direction("a").why == "model is a"
    asked = fields({"metadata": {"use_llm": "sight"}, "images": ["x"]})
    found = ROUTER.direction(ENDPOINTS["/api/generate"], asked)
    assert found.why == "metadata.use_llm is sight; rule 1 of sight: has images"


def test_a_form_goes_by_rules_too() -> None:
    asked = form("auto")
    assert ROUTER.direction(ENDPOINTS["/v1/audio/transcriptions"], asked).model == "large"


@pytest.mark.parametrize("wish", [5, True, ["a"], {"name": "a"}])
def test_a_wish_that_is_no_name(wish: object) -> None:
    with pytest.raises(ProxyError, match=r"^metadata.use_llm must be the name of a model$") as refused:
        use_llm(fields({"model": "a", "metadata": {"use_llm": wish}}))
    assert (refused.value.status, refused.value.code) == (400, "invalid_use_llm")


def test_no_rule_takes_it() -> None:
    with pytest.raises(ProxyError) as refused:
        ROUTER.direction(ENDPOINTS["/api/chat"], fields({"model": "sight", **message("123")}))
    assert (refused.value.status, refused.value.code) == (400, "no_route")
    assert refused.value.message == (
        "no rule of sight takes this request (no images, no tools, no embedding, 3 characters)"
    )
