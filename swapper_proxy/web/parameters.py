"""Query parameters, each checked: what is not described is refused."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from swapper_proxy.core.errors import ProxyError

SHOWN = 100  # characters of a name that nobody knows


def read(target: str, types: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in the target of a request line, as their types.  Raises ProxyError."""
    found: dict[str, Any] = {}
    for name, text in parse_qsl(target.partition("?")[2], keep_blank_values=True):
        if name not in types:
            raise _invalid(f"there is no parameter {name[:SHOWN]!r}")
        if name in found:
            raise _invalid(f"{name}: given twice")
        try:
            found[name] = msgspec.convert(text, types[name], strict=False)
        except msgspec.ValidationError as error:
            raise _invalid(f"{name}: {error}") from None
    return found


def _invalid(message: str) -> ProxyError:
    return ProxyError(400, "invalid_parameter", message)
