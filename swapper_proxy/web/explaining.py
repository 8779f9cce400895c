"""Which model a request would get, for people: read and directed as the proxy does it, sent nowhere."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from swapper_proxy.config import Settings
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.core.names import canonical, is_plausible
from swapper_proxy.web.body import Fields, Malformed
from swapper_proxy.web.endpoints import ENDPOINTS, Endpoint
from swapper_proxy.web.routing import Direction, Router, Traits, read

_JSON = {path: endpoint for path, endpoint in ENDPOINTS.items() if not endpoint.multipart}
# What only one of Ollama's own paths takes.
_TELLING = {"messages": "/api/chat", "input": "/api/embed", "prompt": "/api/generate"}


class NotReadable(Exception):
    """The request cannot be read, or nobody says where it would be sent."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """`asked` is the name that the request gives, `rule` the number of the rule that chose, from 1, if one did."""

    model: str
    ollama_name: str
    path: str
    asked: str
    use_llm: bool
    rule: int | None
    why: str
    traits: Traits

    def __str__(self) -> str:
        return f"{self.model} (in Ollama {self.ollama_name})\nwhy: {self.why}\nrequest: {self.path}, {self.traits}"


def explain(settings: Settings, body: bytes, path: str | None, resident: Iterable[str]) -> Explanation:
    """The model that a body would get while these are resident.  Without a path one of Ollama's own is guessed.

    Raises NotReadable; ProxyError where the proxy would refuse.
    """
    endpoint, fields = _read(body, path)
    in_memory = {canonical(_ollama_name(settings, name)) for name in resident}
    router = Router(settings.routes, lambda name: canonical(_ollama_name(settings, name)) in in_memory)
    direction = router.direction(endpoint, fields)
    if not direction.model:
        raise ProxyError(400, "no_model", "the request names no model")
    if not is_plausible(direction.asked):
        raise ProxyError(404, "model_not_found", f"no model is called {direction.asked[:300]!r}")
    found = settings.configured(direction.model)
    if found is None and settings.swapper.unlisted_models == "deny":
        text = f"{direction.model!r} is not one of the models, and unlisted_models is deny"
        raise ProxyError(404, "model_not_found", text)
    return Explanation(
        model=found[0] if found else direction.model,
        ollama_name=_ollama_name(settings, direction.model),
        path=endpoint.path,
        asked=direction.asked,
        use_llm=direction.use_llm,
        rule=direction.choice.rule if direction.choice else None,
        why=_why(settings, direction),
        traits=direction.traits or read(endpoint, fields),
    )


def _ollama_name(settings: Settings, name: str) -> str:
    found = settings.configured(name)
    return found[1].ollama_name if found else name


def _why(settings: Settings, direction: Direction) -> str:
    ollama_name = _ollama_name(settings, direction.asked)
    if direction.choice or canonical(ollama_name) == canonical(direction.asked):
        return direction.why
    return f"{direction.why}, as {ollama_name} is called in the configuration"


def _read(body: bytes, path: str | None) -> tuple[Endpoint, Fields]:
    if path is not None and path not in _JSON:
        raise NotReadable(f"no JSON object names a model on {path}, but on {', '.join(_JSON)}")
    try:
        fields = Fields.read(body)
    except Malformed as error:
        raise NotReadable(f"not a JSON object: {error}") from None
    return _JSON[path or _guessed(fields)], fields


def _guessed(fields: Fields) -> str:
    for name, path in _TELLING.items():
        if fields.get(name, msgspec.Raw, None) is not None:
            return path
    raise NotReadable("has no messages, input or prompt to guess its path from; give it with --path")
