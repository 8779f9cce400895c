"""What proxies in front say of a client: believed only from those that are trusted, and never sent to Ollama.

X-Forwarded-Proto is not read: nothing here depends on whether the client came by HTTPS.
"""

import ipaddress
from collections.abc import Sequence
from itertools import chain

from aiohttp import web

FOR, HOST = "X-Forwarded-For", "X-Forwarded-Host"


class Forwarding:
    """Knows the trusted proxies, by their networks."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def address(self, request: web.BaseRequest) -> str:
        """Of the client, or of the last proxy on the way from it that is not trusted."""
        address = request.remote or ""
        told = _words(request.headers.getall(FOR, ())) if self._networks else []
        while told and self._is_trusted(address) and _is_address(told[-1]):
            address = told.pop()
        return address

    def host(self, request: web.BaseRequest) -> str:
        """The Host that the client asked for; of several the one that the nearest proxy tells."""
        if self._networks and self._is_trusted(request.remote or ""):
            told = _words(request.headers.getall(HOST, ()))
            return told[-1] if told else request.host
        return request.host

    def _is_trusted(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found  # as a socket for both kinds shows it
        return any(found in network for network in self._networks)


def _words(values: Sequence[str]) -> list[str]:
    return [word for word in map(str.strip, chain.from_iterable(value.split(",") for value in values)) if word]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
