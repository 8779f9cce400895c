"""The terms on which a request is served: what it asks for, under what the config says of its model."""

from collections.abc import Mapping

import msgspec

from swapper_proxy.config.keep_alive import divided
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.core.types import RUNNER_OPTIONS, Priority, RunnerOption
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.model import Demand, Model
from swapper_proxy.web.body import Fields
from swapper_proxy.web.endpoints import Asked, Endpoint
from swapper_proxy.web.form import Form
from swapper_proxy.web.headers import PRIORITY
from swapper_proxy.web.keys import Client

_HIGHEST_FIRST = (Priority.HIGH, Priority.MEDIUM, Priority.LOW)


def demand(
    catalog: Catalog,
    endpoint: Endpoint,
    asked: Asked,
    model: Model,
    wished: Priority | None,
    client: Client | None = None,
) -> Demand:
    """What the request demands.  /v1 requests cannot carry options: to Ollama they mean the Modelfile's."""
    options = catalog.treatment.options(model, asked.options) if endpoint.native else {}
    keep_alive, ttl_s = divided(catalog.keep_alive(model, asked.keep_alive))
    priority = _priority(catalog, model, wished)
    if client is None:
        return Demand(model, options, keep_alive, ttl_s, priority)
    return Demand(model, options, keep_alive, ttl_s, client.capped(priority), client.name)


def rewrite(fields: Fields | Form | None, endpoint: Endpoint, asked: Asked, demand: Demand) -> None:
    """Make the request say what it was granted for; what already does keeps its bytes."""
    if not endpoint.native or not isinstance(fields, Fields):
        return
    if demand.options != asked.options:
        fields.set("options", _options(fields, demand.options))
    if demand.keep_alive is None:
        fields.remove("keep_alive")
    elif demand.keep_alive != asked.keep_alive:
        fields.set("keep_alive", demand.keep_alive)


def _options(fields: Fields, wanted: Mapping[str, RunnerOption]) -> dict[str, object]:
    given = fields.get("options", dict[str, msgspec.Raw], {})
    return {**{name: value for name, value in given.items() if name not in RUNNER_OPTIONS}, **wanted}


def wished_priority(headers: Mapping[str, str], catalog: Catalog) -> Priority | None:
    """The priority that the client asks for.  Raises ProxyError if it is none."""
    given = headers.get(PRIORITY)
    if given is None or catalog.treatment.priority_header == "ignore":
        return None
    try:
        return Priority(given.strip().lower())
    except ValueError:
        raise ProxyError(400, "invalid_priority", f"{PRIORITY}: expected high, medium or low") from None


def _priority(catalog: Catalog, model: Model, wished: Priority | None) -> Priority:
    if wished is None or (catalog.treatment.priority_header == "lower" and _is_higher(wished, model.priority)):
        return model.priority
    return wished


def _is_higher(one: Priority, other: Priority) -> bool:
    return _HIGHEST_FIRST.index(one) < _HIGHEST_FIRST.index(other)
