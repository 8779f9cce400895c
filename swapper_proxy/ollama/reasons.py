"""Say why Ollama cannot be used, and what the operator can do about it.

No text holds a user, a password or the value of a header that the proxy sends.
"""

import errno
import os
import re
import socket
import ssl
from http import HTTPStatus
from urllib.parse import SplitResult, urljoin, urlsplit

URL = "upstream.url (OLLAMA_BASE_URL)"
MAX_TEXT = 200  # characters of what the other side said
LOCAL = ("localhost", "127.0.0.1", "::1")
REDIRECTS = (301, 302, 303, 307, 308)
GATEWAY = (502, 503, 504)
TLS_ALERT = b"\x15"  # begins what a TLS server answers to plain HTTP
# Codes of OpenSSL (X509_V_ERR_*).
EXPIRED, OTHER_NAMES = (10,), (62, 64)


# No connection


def no_connection(url: str, error: OSError | UnicodeError) -> str:
    """Return why no connection to the host of this URL came about."""
    parts = urlsplit(url)
    if isinstance(error, ssl.SSLError):
        return _no_tls(parts, error)
    if isinstance(error, socket.gaierror):
        unknown = f"the name {parts.hostname!r} cannot be found (DNS: {error.strerror}); correct the host in {URL}"
        return unknown + _unused_proxy(parts)
    if isinstance(error, UnicodeError):
        return f"{parts.hostname!r} is no name of a host; correct {URL}"
    numbers = {error.errno} if error.errno else {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))}
    if numbers == {errno.ECONNREFUSED}:
        return _refused(parts)
    if parts.scheme == "https" and isinstance(error, ConnectionError):
        return f"{address(parts)} ended the TLS handshake; if it does not speak TLS, write http:// in {URL}"
    return f"{address(parts)} cannot be reached ({_plain(str(error) or type(error).__name__)}); correct {URL}"


def no_connection_in_time(url: str, limit_s: float) -> str:
    """Return what to say if a connection was neither made nor refused within `limit_s`."""
    parts = urlsplit(url)
    why = f"no connection to {address(parts)} within {limit_s:g} s; check {URL}, the network and the firewall"
    return why + _unused_proxy(parts)


def address(parts: SplitResult) -> str:
    """Return host and port, without a user."""
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def _unused_proxy(parts: SplitResult) -> str:
    """Return a hint for an operator who takes it that Ollama is reached through a proxy of the environment."""
    name = f"{parts.scheme}_proxy"
    is_set = os.environ.get(name) or os.environ.get(name.upper())
    return f"; {name} is set, but is not used on the way to Ollama" if is_set else ""


def _refused(parts: SplitResult) -> str:
    text = f"nothing listens at {address(parts)} (connection refused); start Ollama there, or correct {URL}"
    if parts.port is None:
        text += "; it names no port, and Ollama's own is 11434"
    if parts.hostname in LOCAL:
        text += "; in a container localhost is the container itself"
    return text


def _no_tls(parts: SplitResult, error: ssl.SSLError) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"):
            return f"{address(parts)} does not speak TLS; write http:// instead of https:// in {URL}"
        return f"no TLS connection to {address(parts)}: {_plain(error.reason or str(error))}"
    said = f"the certificate of {address(parts)} is not trusted: {_plain(error.verify_message)}"
    if error.verify_code in EXPIRED:
        return f"{said}; renew it"
    if error.verify_code in OTHER_NAMES:
        return f"{said}; use a name of the certificate in {URL}"
    return f"{said}; name the file of its CA in upstream.ca_file (or, to trust anything, upstream.verify: false)"


# An answer that is none of Ollama's


def no_answer(url: str, why: str) -> str:
    """Return why the first request of all got no byte of an answer."""
    if urlsplit(url).scheme != "http":
        return why
    return f"{why}, and nothing was answered; if TLS is spoken there, write https:// instead of http:// in {URL}"


def no_http(url: str, begin: bytes, error: Exception) -> str:
    """Return why what was received, which begins like this, cannot be read."""
    if begin.startswith(TLS_ALERT) and urlsplit(url).scheme == "http":
        return f"it expects TLS; write https:// instead of http:// in {URL}"
    return f"what answers is no HTTP/1.1: {error}"


def refused_credentials(status: int, challenge: str, *, has_credentials: bool) -> str:
    """Return what to do about an answer that asks for a user or a key."""
    if has_credentials:
        return f"it does not accept the credentials of upstream.headers or upstream.url (status {status}); correct them"
    scheme = _plain(challenge.partition(" ")[0]) or "no method is named"
    return f"it asks for authentication ({scheme}, status {status}); {_CURES.get(scheme.lower(), _ANY_CURE)}"


_ANY_CURE = "set what it asks for in upstream.headers"
_CURES = {
    "basic": f"write user:password@ before the host in {URL}, or set upstream.headers",
    "bearer": "set upstream.headers: {Authorization: {env: VARIABLE}}, where the variable holds Bearer and the token",
}


def refused(url: str, path: str, status: int, body: bytes, *, has_credentials: bool) -> str:
    """Return why a question of the proxy's own got this error status."""
    if status == HTTPStatus.BAD_REQUEST and b"https" in body.lower():
        return f"it expects TLS; write https:// instead of http:// in {URL}"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED):
        return refused_credentials(status, "", has_credentials=has_credentials)
    if status == HTTPStatus.FORBIDDEN:
        return _forbidden(url, has_credentials=has_credentials)
    if status in GATEWAY:
        return f"what stands in front of it answers {status}; check whether that reaches Ollama"
    if status == HTTPStatus.NOT_FOUND:
        return not_ollama(url, f"it does not know {path} (status 404)")
    return f"it answers {status} to {path}"


def redirected(url: str, path: str, status: int, location: str) -> str:
    """Return where an answer leads instead of being one, and what to do."""
    target = urljoin(url + path, location)
    try:
        parts = urlsplit(target)
        shown = _plain(parts._replace(netloc=address_as_given(parts), query="", fragment="").geturl())
    except ValueError:
        shown = ""
    if not (location and shown):
        return not_ollama(url, f"it redirects (status {status}) to nowhere")
    if shown.endswith(path):
        return f"it redirects (status {status}) to {shown}; set {URL} to {shown.removesuffix(path)}"
    return not_ollama(url, f"it redirects (status {status}) to {shown}, as a page to log in would")


def not_ollama(url: str, why: str) -> str:
    """Return that something else than Ollama answers there, and what to do."""
    path = urlsplit(url).path
    cure = f"correct {URL}: is its path {_plain(path)!r} right? Ollama itself has none" if path else f"correct {URL}"
    return f"the upstream at {url} answers, but is not an Ollama server: {why}; {cure}"


def address_as_given(parts: SplitResult) -> str:
    """Return the part of a URL between // and the path, without user and password."""
    return parts.netloc.rpartition("@")[2]


def _forbidden(url: str, *, has_credentials: bool) -> str:
    keys = "the credentials of upstream.headers or upstream.url" if has_credentials else "upstream.headers"
    host = urlsplit(url).hostname
    return (
        f"it forbids the question (status 403); check {keys}; an Ollama that listens on loopback only "
        f"takes no request for the name {host!r}: set OLLAMA_HOST=0.0.0.0 for it"
    )


def _plain(text: str) -> str:
    """Return text of the other side on one line, and not too long."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:MAX_TEXT])
