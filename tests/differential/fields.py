"""Every field that matters, with values that Ollama takes and values that it refuses."""

import base64
from math import inf
from typing import Any

from tests.differential.rows import (
    CHAT,
    EMBED,
    EMBEDDINGS,
    FIXED,
    GENERATE,
    V1_CHAT,
    V1_COMPLETIONS,
    V1_EMBEDDINGS,
    Route,
    Row,
)

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
IMAGE = base64.b64encode(bytes(3_000_000)).decode()
NOT_COPIED = "a rule of one version of Ollama about the inside of a message; the proxy does not copy those"


def options(*given: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**FIXED, **option} for option in given]


def user(**message: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "x", **message}]


def parts(*content: Any) -> list[dict[str, Any]]:
    return user(content=list(content))


GENERATING = [
    *GENERATE.answered("prompt", None, "", "x"),
    *GENERATE.answered("stream", True, None),
    *GENERATE.answered("system", None, "be kind"),
    *GENERATE.answered("template", "{{ .Prompt }}", "{{ .Nope }}", "{{ .Prompt"),
    *GENERATE.answered("context", [], [1, 2, 3]),
    *GENERATE.answered("raw", True, False),
    *GENERATE.answered("format", "json", "", None, "x", {"type": "object"}, {}),
    *GENERATE.answered("images", [], [""], [None], ["eA=="], ["eA\n=="], [IMAGE]),
    *GENERATE.answered("think", False),
    *GENERATE.fields("prompt", 1, ["x"], {}),
    *GENERATE.fields("stream", 1, "true"),
    *GENERATE.fields("system", 1, []),
    *GENERATE.fields("template", {}, 1),
    *GENERATE.fields("context", "x", ["x"], [1.5], [1.0]),
    *GENERATE.fields("raw", 1, "yes"),
    *GENERATE.fields("images", "x", ["x"], ["data:image/png;base64,eA=="], [IMAGE + "!"], [1], {}),
    *GENERATE.fields("think", True, "high", 1),
    *GENERATE.fields("suffix", "x", 1),
    *GENERATE.fields("options", [], "x", 1),
    GENERATE.body("raw with a template", {**GENERATE.base, "raw": True, "template": "x"}),
    GENERATE.body("a load", {"model": "alpha"}),
    GENERATE.body("an answer that loads", GENERATE.base),
    GENERATE.body("a stream that loads", {"model": "beta", "prompt": "x", "options": FIXED}),
    GENERATE.body("the embedder", {"model": "embedder", "prompt": "x"}),
]

OPTIONS = [
    *GENERATE.answered(
        "options",
        *options(
            {"num_predict": 2.0},
            {"num_predict": 2.7},
            {"seed": 10**20},
            {"use_mmap": None},
            {"stop": []},
            {"stop": ["x"]},
        ),
        *options(
            {"numa": True}, {"low_vram": "x"}, {"f16_kv": "x"}, {"tfs_z": "x"}, {"mirostat_tau": "x"}, {"nope": [1]}
        ),
    ),
    *GENERATE.fields("options", *options({"num_ctx": 512}, {"num_ctx": 512.9}, {"num_ctx": -5}, {"use_mmap": True})),
    *GENERATE.fields(
        "options",
        *({name: value} for name in ("num_ctx", "seed", "top_k") for value in ("512", True, [1])),
        *({"use_mmap": value} for value in (1, "true")),
        *({"temperature": value} for value in ("hot", True)),
        *({"stop": value} for value in ("x", ["x", 1], 1)),
    ),
    *CHAT.fields("options", {"num_ctx": "512"}, []),
    *EMBED.fields("options", {"num_ctx": "512"}, []),
]

CHATTING = [
    *CHAT.answered("messages", [], None, [{}], [None], [{"role": "user"}], [{"content": "x"}], [{"role": "x"}]),
    *CHAT.answered("messages", user(images=[IMAGE]), user(images=["eA=="]), user(thinking="x"), user(tool_calls=None)),
    *CHAT.answered("stream", True, None),
    *CHAT.answered("format", "json", {"type": "object"}, "x"),
    *CHAT.answered("tools", None, []),
    *CHAT.fields("messages", "x", {}, ["x"], [1], user(role=1), user(content=1), user(content=["x"]), user(images="x")),
    *CHAT.fields(
        "messages", user(images=["x"]), user(tool_calls=1), user(thinking=1), parts({"type": "text", "text": "x"})
    ),
    *CHAT.fields("stream", 1, "true"),
    *CHAT.fields("tools", [TOOL], ["x"], [{}], {}, "x"),
    *CHAT.fields("think", True, 1),
    *CHAT.fields("model", "embedder"),
    *CHAT.fields("messages", [{"ROLE": 5}], why="keys inside of a message are read in one case only", in_vain="alpha"),
    CHAT.body("a load", {"model": "alpha"}),
]

EMBEDDING = [
    *EMBED.answered("input", None, "", [], [""], "x", ["a", "b"]),
    *EMBED.answered("truncate", True, False, None),
    *EMBED.fields("input", 1, {}, [1], ["a", 1], [["x"]]),
    *EMBED.fields("truncate", 1, "x", []),
    *EMBED.fields("model", "alpha"),
    *EMBEDDINGS.answered("prompt", None, "", "x"),
    *EMBEDDINGS.fields("prompt", 1, ["x"], {}),
    *EMBEDDINGS.fields("options", [], {"num_ctx": "512"}),
    *V1_EMBEDDINGS.answered("input", "", "x", ["a", "b"], [""]),
    *V1_EMBEDDINGS.fields("input", None, [], 1, [1], [[1]], {}),
    *V1_EMBEDDINGS.answered("dimensions", 8, "x"),
]


def openai(route: Route) -> list[Row]:
    """What both completions of OpenAI's share."""
    return [
        *route.answered("stream", True, False, None),
        *route.answered("temperature", 0.5, None),
        *route.answered("stop", "x", ["x"], [], None, 1),
        *route.answered("options", {"num_ctx": 512}, "x"),
        *route.answered("keep_alive", 0, "x"),
        route.body(
            "a stream with usage",
            {**route.base, "stream": True, "stream_options": {"include_usage": True}},
            warm="alpha",
        ),
        *route.fields("stream", 1, "true"),
        *route.fields("stream_options", 1, "x", {"include_usage": 1}),
        *route.fields("max_tokens", 1.5, "x", True, 10**20),
        *route.fields("temperature", "hot", True, []),
        *route.fields("top_p", "x"),
        *route.fields("seed", 1.5, "x"),
        *route.fields("model", "embedder"),
    ]


OPENAI = [
    *openai(V1_CHAT),
    *openai(V1_COMPLETIONS),
    *V1_CHAT.answered("messages", [{"content": "x"}], parts({"type": "text", "text": "x"}), parts()),
    *V1_CHAT.answered("response_format", {"type": "json_object"}, {"type": "x"}, None),
    *V1_CHAT.answered("n", 2, "x"),
    *V1_CHAT.fields("messages", None, [], "x", {}, ["x"], user(role=1), user(content=1), user(content={}), [None]),
    *V1_CHAT.fields("response_format", "x", {"type": 1}),
    *V1_CHAT.fields("tools", [TOOL], ["x"], {}),
    *V1_CHAT.fields(
        "messages",
        [{}],
        [{"role": "user"}],
        parts("x"),
        parts({"type": "nope"}),
        parts({"type": "image_url", "image_url": "x"}),
        [{"role": "assistant", "content": None}],
        why=NOT_COPIED,
        in_vain="alpha",
    ),
    *V1_COMPLETIONS.answered("prompt", None, ""),
    *V1_COMPLETIONS.fields("prompt", 1, ["x"], {}),
    *V1_COMPLETIONS.fields("suffix", "x", 1),
    *V1_COMPLETIONS.fields("stop", ["x", 1]),
]

BELOW = "below a minute the scheduler keeps the time, so that nobody loses a model that others wait for"


def keeps(value: Any, seconds: float, route: Route = GENERATE) -> list[Row]:
    """Both sides keep the model as long."""
    return route.fields("keep_alive", value, warm=route.warm, stays=(seconds, seconds))


KEEPING = [
    *keeps(None, 300),
    *keeps(600, 600),
    *keeps(600.9, 600),
    *keeps("10m", 600),
    *keeps("1h30m", 5400),
    *keeps("1.5h", 5400),
    *keeps("+10m", 600),
    *keeps(-1, inf),
    *keeps(-0.5, inf),
    *keeps("-1m", inf),
    *keeps(99_999_999_999, inf),
    *keeps(600, 600, CHAT),
    *keeps(600, 600, EMBED),
    *keeps("10m", 600, EMBEDDINGS),
    *keeps(0, 0),
    *keeps("0s", 0, CHAT),
    *GENERATE.fields("keep_alive", 20, "20s", warm="alpha", stays=(20, 60), why=BELOW),
    *GENERATE.fields("keep_alive", "", "x", "300", "-1", "1d", "5m x", "99999999h", True, [], [300], {}),
    *CHAT.fields("keep_alive", "300", False),
    *EMBED.fields("keep_alive", "300", []),
    *EMBEDDINGS.fields("keep_alive", "-1"),
    GENERATE.body("ollama stop", {"model": "alpha", "keep_alive": 0}, warm="alpha", stays=(0, 0)),
    GENERATE.body("ollama stop of what is not there", {"model": "alpha", "keep_alive": "0s"}),
    GENERATE.body("ollama stop of the unknown", {"model": "nope", "keep_alive": 0}),
    CHAT.body("ollama stop", {"model": "alpha", "messages": [], "keep_alive": 0}, warm="alpha", stays=(0, 0)),
    CHAT.body("a stop with a text", {"model": "alpha", "messages": "", "keep_alive": 0}, warm="alpha"),
    CHAT.body("a stop with an object", {"model": "alpha", "messages": {}, "keep_alive": 0}, warm="alpha"),
    CHAT.body(
        "a load for long", {"model": "alpha", "messages": None, "keep_alive": -1}, warm="alpha", stays=(inf, inf)
    ),
]

ROWS = [*GENERATING, *OPTIONS, *CHATTING, *EMBEDDING, *OPENAI, *KEEPING]
