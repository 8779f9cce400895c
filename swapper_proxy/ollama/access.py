"""What the proxy shows to the host of Ollama, and which hosts it takes for that."""

import ssl
from collections.abc import Iterable, Mapping

from swapper_proxy.runtime.ports import CREDENTIALS, Header


class Access:
    """The headers that every request of the proxy carries, and the certificates that are trusted.

    Where there are such headers, the proxy alone speaks to what asks for them: no credentials of a client go there
    (`withheld`), and no cookie that was made for the proxy goes to a client.
    """

    __slots__ = ("headers", "tls", "withheld")

    def __init__(self, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.headers = tuple((name.encode(), value.encode()) for name, value in (headers or {}).items())
        self.tls = tls
        own = frozenset(name.lower() for name, _ in self.headers)
        self.withheld = own | CREDENTIALS if own else own

    def __repr__(self) -> str:
        return f"Access({[name.decode() for name, _ in self.headers]})"  # never the values

    def towards_ollama(self, headers: Iterable[Header]) -> list[Header]:
        """Return the headers of a request without those that are the proxy's to set."""
        return [header for header in headers if header[0].lower() not in self.withheld]

    def towards_client(self, headers: Iterable[Header]) -> list[Header]:
        """Return the headers of an answer without what the host has made for the proxy."""
        return [header for header in headers if header[0].lower() != b"set-cookie"]
