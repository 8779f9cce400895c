"""Calls of a running proxy by the command line.

A call goes straight to the address that it is given: through no HTTP proxy that the environment names (`http_proxy`),
and not where a redirect leads, which would be told the key.
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from swapper_proxy.config import Server

PORT = Server().port
ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # what reaches a server that listens on all


class NotAnswered(Exception):
    """No proxy answers there."""


class Refused(Exception):
    """The proxy answered with an error; the message is its own."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none: the answer stays what it is, an error."""


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def own_url(environ: Mapping[str, str]) -> str:
    """Return where a proxy with this environment is reached from its own machine."""
    host = environ.get("SWAPPER_HOST", "")
    host = ANY_ADDRESS.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{environ.get('SWAPPER_PORT') or PORT}"


def call(method: str, url: str, path: str, *, key: str = "", limit_s: float | None = None) -> Any:
    """Return the JSON that the proxy answers.  Raises NotAnswered, also if that takes longer, and Refused."""
    if not url.startswith(("http://", "https://")):
        raise NotAnswered(f"{url!r} is no URL of a proxy; it must begin with http://, as in http://127.0.0.1:{PORT}")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        request = urllib.request.Request(url.rstrip("/") + path, method=method, headers=headers)
        with _opener.open(request, timeout=limit_s) as response:
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        with error:
            raise Refused(_message(url, error)) from None
    except (OSError, ValueError, TypeError, http.client.HTTPException) as error:  # also what is no JSON object
        why = getattr(error, "reason", "") or error
        raise NotAnswered(f"no proxy answers at {url}: {why or type(error).__name__}") from None


def _message(url: str, error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        pass
    if location := error.headers.get("Location"):
        return f"{url} redirects (HTTP {error.code}) to {location}: give that address as --url"
    return f"HTTP {error.code}: is Swapper Proxy at {url}?"
