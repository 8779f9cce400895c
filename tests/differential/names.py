"""Names of models in all spellings, on every route that takes one."""

from typing import Any
from urllib.parse import quote

from tests.differential.rows import (
    CHAT,
    EMBED,
    EMBEDDINGS,
    GENERATE,
    SHOW,
    SWAPPING,
    V1_CHAT,
    V1_COMPLETIONS,
    V1_EMBEDDINGS,
    Route,
    Row,
)

KNOWN = (
    "ALPHA",
    "alpha:latest",
    "alpha:LATEST",
    "library/alpha",
    "registry.ollama.ai/library/alpha:latest",
    "https://registry.ollama.ai/library/alpha",
    "http://registry.ollama.ai/library/alpha:latest",
)
UNKNOWN: tuple[Any, ...] = (
    "",
    " ",
    "nope",
    ":latest",
    "alpha:",
    "alpha:nope",
    "alpha:latest:latest",
    " alpha",
    "alpha ",
    "alpha\n",
    "alpha\0",
    "al pha",
    "\u00e4lpha",
    "\uff41lpha",
    "alpha-\u212aind",
    "/alpha",
    "alpha/",
    "library//alpha",
    "../alpha",
    "other/alpha",
    "example.com/library/alpha",
    "https://example.com/alpha",
    "alpha@sha256:00",
    "alpha?x=1",
    "alpha%3Alatest",
    "a" * 300,
    "a" * 5000,
    None,
    1,
    True,
    ["alpha"],
    {"a": 1},
)

LOADS = (
    Route("/api/generate", {}, warm="alpha"),
    Route("/api/chat", {}, warm="alpha"),
    Route("/api/embed", {"input": []}, warm="alpha"),
)
CASE = "here Ollama knows names as its disk does; where that ignores case it would have found the model"
ANSWERS = (V1_CHAT, V1_COMPLETIONS)


def shown(name: str) -> Row:
    return Route(f"/v1/models/{quote(name, safe='')}", method="GET").body("by name")


ROWS = [
    *(row for route in LOADS for row in route.answered("model", *KNOWN)),
    *Route("/api/embeddings", {}, warm="alpha").answered("model", *(name for name in KNOWN if name.islower())),
    *EMBEDDINGS.fields("model", "EMBEDDER", why=CASE, in_vain="embedder"),
    *(row for route in ANSWERS for row in route.answered("model", "Alpha:latest")),
    *V1_EMBEDDINGS.answered("model", "Library/Embedder"),
    *SHOW.fields("model", *KNOWN),
    *(row for route in (GENERATE, CHAT) for row in route.fields("model", *UNKNOWN)),
    *(row for route in (EMBED, EMBEDDINGS, V1_CHAT, V1_EMBEDDINGS) for row in route.fields("model", *UNKNOWN[:12], 1)),
    *V1_COMPLETIONS.fields("model", "", "nope", None, 1),
    *(
        route.body("no model", {key: value for key, value in route.base.items() if key != "model"})
        for route in SWAPPING
    ),
    *SHOW.fields("model", *UNKNOWN),
    *(shown(name) for name in ("alpha", "ALPHA", "alpha:latest", "library/alpha", "nope", "\u00e4", "a b", "alpha:")),
]
