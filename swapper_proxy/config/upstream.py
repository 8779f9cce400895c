"""The way to Ollama: its URL, the credentials that it asks for, and which certificates are trusted.

Reading the settings moves user and password out of the URL into a header, and puts the values of headers in place of
the variables and files that they come from.  So no URL of the settings holds a password.  What is left out where
settings are shown is said by `hidden`.
"""

import base64
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from swapper_proxy.config import addresses
from swapper_proxy.config.keys import NoKey
from swapper_proxy.config.settings import HeaderSource, Settings, Upstream

PORTS = {"http": 80, "https": 443}
OLLAMA_PORT = 11434
HIDDEN = "hidden"
AUTHORIZATION = "Authorization"
# What clients take for the base URL: of Ollama's two APIs, or one of their routes.
_API = re.compile(
    r"/(api(/(tags|version|ps|show|generate|chat|embed|embeddings))?"
    r"|v1(/(models|chat/completions|completions|embeddings|responses|messages))?)/*$"
)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PLAIN = re.compile(r"[^\s%\x00-\x1f\x7f/]+(/[^\s\x00-\x1f\x7f]*)?")
_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
# Headers that say how a message is framed or read, or that the proxy sets.
_TAKEN = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-swapper-via",
    )
)


def problems(settings: Settings) -> Iterator[tuple[str, str]]:
    """Key paths, and what keeps the settings from being used.  No text holds a user, a password or a value."""
    upstream = settings.upstream
    if wrong := _wrong_url(upstream.url) or _own_address(settings):
        yield "upstream.url", wrong
    seen: set[str] = set()
    for name, value in upstream.headers.items():
        key_path = f"upstream.headers.{name}" if _NAME.fullmatch(name) else "upstream.headers"
        if wrong := _wrong_header(name, value):
            yield key_path, wrong
        elif name.lower() in seen:
            yield key_path, "is given twice"
        seen.add(name.lower())
    if AUTHORIZATION.lower() in seen and "@" in upstream.url:
        yield "upstream.headers", f"{AUTHORIZATION} contradicts the user in upstream.url; keep one of them"
    if upstream.ca_file is not None and not upstream.verify:
        yield "upstream.ca_file", "has no effect with verify: false"


def warnings(settings: Settings) -> Iterator[tuple[str, str]]:
    """Key paths, and what may surprise there."""
    upstream, parts = settings.upstream, urlsplit(settings.upstream.url)
    if parts.scheme == "https" and not upstream.verify:
        yield (
            "upstream.verify",
            "false: whoever is on the way to Ollama can read and change everything; better: ca_file",
        )
    if parts.scheme == "http" and upstream.ca_file is not None:
        yield "upstream.ca_file", "has no effect with http:// in upstream.url"
    if parts.scheme == "http" and upstream.headers and not addresses.is_loopback(parts.hostname or ""):
        yield "upstream.url", "credentials go to Ollama unencrypted; use https:// if others share the network"


def resolved(upstream: Upstream, environ: Mapping[str, str] | None) -> Upstream:
    """Return it with the values of its headers, and with no user in its URL; without `environ`, with no headers at all.

    Raises NoKey if a value cannot be had, or no certificate.
    """
    parts = urlsplit(upstream.url)
    url = _without_user(parts)
    if environ is None:
        return msgspec.structs.replace(upstream, url=url, headers={})
    headers: dict[str, str | HeaderSource] = {n: _value(n, v, environ) for n, v in upstream.headers.items()}
    if parts.username is not None:
        headers[AUTHORIZATION] = _basic(parts)
    try:
        trust(upstream)
    except (OSError, RuntimeError) as error:  # an SSLError is an OSError, too; the other one: no home directory
        why = "holds no certificate in PEM form" if isinstance(error, ssl.SSLError) else _strerror(error)
        raise NoKey("upstream.ca_file", f"{upstream.ca_file}: {why}") from None
    return msgspec.structs.replace(upstream, url=url, headers=headers)


def trust(upstream: Upstream) -> ssl.SSLContext | None:
    """Return which certificates are trusted; None where no TLS is spoken.  Raises OSError (also SSLError)."""
    if upstream.ca_file is None and not upstream.url.startswith("https:"):
        return None
    file = Path(upstream.ca_file).expanduser() if upstream.ca_file is not None else None
    context = ssl.create_default_context(cafile=file)
    if file is not None:  # such authorities are often made by hand, and lack what is asked of public ones
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not upstream.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def hidden(upstream: Upstream) -> Upstream:
    """Return it for people: the names of its headers without their values, and no user in its URL."""
    headers: dict[str, str | HeaderSource] = dict.fromkeys(upstream.headers, HIDDEN)
    parts = urlsplit(upstream.url)
    url = _without_user(parts)
    return msgspec.structs.replace(upstream, url=url, headers=headers)


# The URL


def _wrong_url(text: str) -> str:
    """Return what is wrong with the URL; empty if nothing is."""
    like = f"expected a URL like http://localhost:{OLLAMA_PORT}"
    shown = "" if "@" in text else f", got {text!r}"
    if text.startswith(("'", '"')):
        return f"{like}, without quotes around it{shown}"
    try:
        url = urlsplit(text)
        url.port  # noqa: B018 - raises if it is none
    except ValueError as error:
        return _escape(like) if "@" in text else str(error)
    if "://" not in text:
        example = "" if "@" in text else f", as in {_with_scheme(text)!r}"
        return f"{like}{shown}; it must begin with http:// or https://{example}"
    if "@" in f"{url.path}{url.query}{url.fragment}":
        return _escape(like)
    odd = url.scheme not in PORTS or not url.hostname or url.query or url.fragment
    if odd or url.port == 0 or not _PLAIN.fullmatch(f"{url.hostname}{url.path}"):
        return f"{like}{shown}"
    return _wrong_path(url)


def _without_user(url: SplitResult) -> str:
    """Return the URL as people may see it."""
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()


def _with_scheme(text: str) -> str:
    has_port = re.search(r":\d+(/|$)", text)
    return f"http://{text}" if has_port or "/" in text else f"http://{text}:{OLLAMA_PORT}"


def _escape(like: str) -> str:
    return f"{like}; in its user and password, write what is no letter or digit as % and two hexadecimal digits"


def _wrong_path(url: SplitResult) -> str:
    found = _API.search(url.path)
    if found is None:
        return ""
    right = _without_user(url._replace(path=url.path[: found.start()]))
    return f"must end before {found[0]!r}, which the proxy adds itself: write {right!r}"


def _own_address(settings: Settings) -> str:
    url, server = urlsplit(settings.upstream.url), settings.server
    if server.port != (url.port or PORTS[url.scheme]) or not addresses.is_served(server.host, url.hostname or ""):
        return ""
    return f"{_without_user(url)} is the proxy itself; it must be the address of Ollama, as in http://localhost:{OLLAMA_PORT}"


# Credentials


def _wrong_header(name: str, value: str | HeaderSource) -> str:
    """Return what is wrong with a header; empty if nothing is."""
    if not _NAME.fullmatch(name):
        return f"expected names of headers like {AUTHORIZATION}, and their values behind a colon"
    if name.lower() in _TAKEN:
        return "is a header that the proxy sets itself"
    if isinstance(value, HeaderSource) and (value.env is None) == (value.file is None):
        return "expected a text, or one of env (a variable) and file (a path)"
    if isinstance(value, str) and not _VALUE.fullmatch(value):
        return _BAD_VALUE
    return ""


_BAD_VALUE = "expected visible ASCII characters, with spaces between them at most"


def _value(name: str, value: str | HeaderSource, environ: Mapping[str, str]) -> str:
    """Return the value itself.  Raises NoKey; no text of it holds the value."""
    if isinstance(value, str):
        return value
    way, told = ("env", value.env) if value.env is not None else ("file", value.file or "")
    key_path = f"upstream.headers.{name}.{way}"
    try:
        found = environ.get(told, "") if way == "env" else Path(told).expanduser().read_text(encoding="utf-8")
    except (OSError, RuntimeError) as error:
        raise NoKey(key_path, f"{told}: {_strerror(error)}") from None
    except ValueError:  # bytes that are no text, a NUL in the path
        raise NoKey(key_path, f"{told!r}: {_BAD_VALUE}") from None
    found = found.rstrip("\r\n")
    if not _VALUE.fullmatch(found):
        raise NoKey(key_path, f"{told}: {_BAD_VALUE}" if found else f"{told}: is empty or not set")
    return found


def _basic(parts: SplitResult) -> str:
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _strerror(error: OSError | RuntimeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error).rstrip(".")
