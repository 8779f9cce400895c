"""Who may ask for what: keys of clients and of the management, and the limits of the former.

1. A request gives one key, as `Authorization: Bearer KEY` or as `x-api-key: KEY`; none, several or an unknown one: 401.
2. A client's key has limits: requests at once, and in a minute: 429.  Of those at once some may wait for their model.
3. It may have a list of models.  All routes are judged by the model that Ollama will be asked for, whatever it was
   called, before Ollama hears of it: 403.  A route that names no model that can be judged is closed to such a key.

One object is of one reading of the settings, and all that is counted is counted here: another reading starts at zero,
and what was admitted under the one before ends there.
"""

import contextlib
import hashlib
import hmac
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

from swapper_proxy import config
from swapper_proxy.core.errors import ProxyError, Rejected, Rejection
from swapper_proxy.core.names import DEFAULT_HOST, DEFAULT_NAMESPACE, canonical
from swapper_proxy.core.types import Priority
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.web.body import Fields, Malformed, Name, WrongType

HEADERS = ("Authorization", "x-api-key")
CONSUMED = frozenset(header.lower().encode() for header in HEADERS)
SOON_S = 1.0  # when a place may be free again; nobody can tell

# Routes that change what models there are, for `read_only`.
CHANGING = frozenset(f"/api/{name}" for name in ("pull", "push", "create", "copy", "delete"))
BLOBS = "/api/blobs/"
# The same of newer versions: what names mean, and whether those that run elsewhere may be used at all.
_CHANGING_ACCESS = ("/api/experimental/aliases", "/api/signout", "/api/user/keys/")
# Routes whose body names models, and the fields where it does.
NAMING = ("model", "name", "from", "source", "destination")
NAMED_IN_BODY = CHANGING | {"/api/show"}
# Fields of old versions of /api/create that name models in a text, or a file of the server.
_UNJUDGED = ("modelfile", "path")
# What names no model.
_HARMLESS = frozenset(("/", "/api/version", "/api/tags", "/api/ps", "/v1/models"))

_HIGHEST_FIRST = tuple(Priority(name) for name in ("high", "medium", "low"))
# As Ollama takes names; of others it might drop a part that a pattern matched.
_NAME = re.compile(r"(?:\w[\w.:-]*/)?(?:\w[\w.-]*/)?\w[\w.-]*(?::\w[\w.-]*)?", re.ASCII)
_LATEST = ":latest"

Holder = TypeVar("Holder", "Client", config.ManagementKey)


class Headers(Protocol):
    """Of a request: all values of a header, whose name is in any case."""

    def getall(self, key: str, default: tuple[()], /) -> Sequence[str]: ...


class Bucket:
    """So many tokens a minute, and as many at once; `now` is in seconds on any clock."""

    def __init__(self, per_minute: int) -> None:
        self._most = float(per_minute)
        self._left = float(per_minute)
        self._at = -math.inf

    def take(self, now: float) -> float:
        """Take one: 0, or the seconds until there is one."""
        left = min(self._most, self._left + (now - self._at) * self._most / 60)
        self._at = now
        missing = max(0.0, 1 - left)
        self._left = left if missing else left - 1
        return missing * 60 / self._most


class Client:
    """A client's key, and what it is doing now."""

    def __init__(self, name: str, key: config.ClientKey) -> None:
        self.name = name
        self.open = 0  # requests
        self.waiting = 0  # of these, for their model
        self._key = key
        self._bucket = Bucket(key.per_minute) if key.per_minute else None
        self._exact = frozenset(canonical(model) for model in key.models if not _is_pattern(model))
        self._patterns = tuple(_without_defaults(model) for model in key.models if _is_pattern(model))
        self.restricted = bool(key.models)

    @contextlib.contextmanager
    def admitted(self, now: float) -> Iterator[None]:
        """For the time of one request.  Raises ProxyError (429)."""
        most = self._key.concurrent
        if most is not None and self.open >= most:
            raise ProxyError(429, "too_many_requests", f"too many requests of this key at once (limit {most})", SOON_S)
        if self._bucket is not None and (wait_s := self._bucket.take(now)):
            text = f"too many requests of this key in a minute (limit {self._key.per_minute})"
            raise ProxyError(429, "rate_limited", text, wait_s)
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    @contextlib.contextmanager
    def queued(self) -> Iterator[None]:
        """For the time in which one of its requests waits for its model.  Raises ProxyError (429)."""
        most = self._key.queued
        if most is not None and self.waiting >= most:
            raise ProxyError(429, "too_many_queued", f"too many requests of this key wait (limit {most})", SOON_S)
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def may_use(self, names: Iterable[str]) -> bool:
        """Whether it may use the model that has these canonical names: Ollama's first, then that of the settings."""
        if not self.restricted:
            return True
        ollama_name, *others = names
        if not self._exact.isdisjoint((ollama_name, *others)):
            return True
        if not self._patterns or not _NAME.fullmatch(ollama_name):
            return False
        spellings = [s for name in (ollama_name, *others) for s in (name, name.removesuffix(_LATEST))]
        return any(_fits(spelling, pattern) for spelling in spellings for pattern in self._patterns)

    def capped(self, priority: Priority) -> Priority:
        """The highest that it may have, up to this one."""
        return max(priority, Priority(self._key.max_priority), key=_HIGHEST_FIRST.index)

    def check_route(self, method: str, path: str) -> None:
        """Whether a route that needs no model in memory can be judged.  Raises ProxyError (403)."""
        if not self.restricted or path in NAMED_IN_BODY or path.startswith(BLOBS):
            return
        reads = method in ("GET", "HEAD")
        if not (reads and (path in _HARMLESS or path.startswith("/v1/models/"))):
            raise ProxyError(403, "route_not_allowed", "this key is for some models only, and may not use this route")


class Keys:
    """The keys of one reading of the settings."""

    def __init__(self, keys: config.Keys) -> None:
        self.clients = [(_digest(key.key_sha256), Client(name, key)) for name, key in keys.clients.items()]
        self.management = [(_digest(key.key_sha256), key) for key in keys.management.values()]

    def client(self, headers: Headers) -> Client:
        """Whose request this is.  Raises ProxyError (401)."""
        return _holder(self.clients, headers)

    def manages(self, headers: Headers) -> bool:
        """Return True if a call has a key for the management, or none is needed."""
        if not self.management:
            return True
        try:
            _holder(self.management, headers)
        except ProxyError:
            return False
        return True

    def check_management(self, headers: Headers, *, reads: bool) -> None:
        """Whether this call may be made.  Raises ProxyError (401, 403)."""
        if _holder(self.management, headers).read_only and not reads:
            raise ProxyError(403, "read_only", "this key changes nothing")


def check_read_only(path: str) -> None:
    """Where models are not to be changed by clients.  Raises ProxyError (403)."""
    if path in CHANGING or path.startswith((BLOBS, *_CHANGING_ACCESS)):
        raise ProxyError(403, "read_only", "models are not changed here (read_only)")


def may_use(catalog: Catalog, client: Client, name: str) -> bool:
    """As the proxy reads the name: one of the settings, or of Ollama.  A virtual model is all that it may choose."""
    meant = catalog.stands_for(name) or (name,)
    return all(client.may_use(catalog.treatment.names(canonical(each))) for each in meant)


def check_model(catalog: Catalog, client: Client | None, name: str) -> None:
    """Raises ProxyError (403); also where a key is for some models only and there is no name."""
    if client is not None and client.restricted and not may_use(catalog, client, name):
        raise _not_allowed(name)


def check_named(catalog: Catalog, client: Client, fields: Fields) -> None:
    """All models that a body names which Ollama reads by itself: a name of the settings is another one there.

    Raises ProxyError (400, 403).
    """
    if not client.restricted:
        return
    try:
        names = [name for field in NAMING if (name := fields.get(field, Name, ""))]
    except (Malformed, WrongType):
        raise ProxyError(400, "malformed", "the request body cannot be read") from None
    if not all(fields.is_empty(name) for name in _UNJUDGED):
        raise ProxyError(403, "route_not_allowed", "this key is for some models only, and may not send a Modelfile")
    for name in names or [""]:
        if catalog.meaning(name).alias is not None or not client.may_use(catalog.treatment.names(canonical(name))):
            raise _not_allowed(name)


def _not_allowed(name: str) -> ProxyError:
    return ProxyError(403, "model_not_allowed", f"this key may not use the model {name[:200]!r}")


def _holder(known: Sequence[tuple[bytes, Holder]], headers: Headers) -> Holder:
    """Every key is compared, each in constant time, whichever fits."""
    given = hashlib.sha256(_given(headers).encode("utf-8", "surrogateescape")).digest()
    found = None
    for digest, holder in known:
        if hmac.compare_digest(digest, given):
            found = holder
    if found is None:
        raise ProxyError(401, "invalid_api_key", "nobody has this key")
    return found


def _given(headers: Headers) -> str:
    given = [(header, value) for header in HEADERS for value in headers.getall(header, ())]
    if not given:
        raise ProxyError(401, "missing_api_key", "a key is needed: Authorization: Bearer KEY, or x-api-key: KEY")
    if len(given) > 1:
        raise ProxyError(401, "several_api_keys", "give one key, in one header")
    header, value = given[0]
    if header != HEADERS[0]:
        return value.strip()
    scheme, _, key = value.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise ProxyError(401, "invalid_api_key", "expected Authorization: Bearer KEY")
    return key.strip()


def _digest(key_sha256: str | None) -> bytes:
    """Settings that were not loaded from anywhere may still hold the key itself."""
    if key_sha256 is None:
        raise ValueError("keys that were not read yet: see config.hashed")
    return bytes.fromhex(key_sha256)


def _is_pattern(model: str) -> bool:
    return not {"*", "?", "["}.isdisjoint(model)


def _fits(spelling: str, pattern: str) -> bool:
    """Part by part: anybody may call a namespace, or a registry, so that `llama*` fits the beginning."""
    return spelling.count("/") == pattern.count("/") and fnmatchcase(spelling, pattern)


def _without_defaults(pattern: str) -> str:
    return pattern.lower().removeprefix(f"{DEFAULT_HOST}/").removeprefix(f"{DEFAULT_NAMESPACE}/")


def told_to(client: Client | None, error: ProxyError) -> ProxyError:
    """Return the error without the names of what is pinned, for a client that may use some models only."""
    if (
        client is not None
        and client.restricted
        and isinstance(error, Rejected)
        and error.reason is Rejection.PINNED_OUT
    ):
        return Rejected(error.reason)
    return error
