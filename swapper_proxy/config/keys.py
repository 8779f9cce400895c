"""Keys of clients and of the management: where they come from, and what the settings may say of them.

A key itself is kept nowhere: reading the settings replaces it by its SHA-256.  That is no password hash; it is enough
for keys that nobody can guess, as `swapper-proxy hash-key --random` makes them.
"""

import hashlib
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from swapper_proxy.config.addresses import is_loopback
from swapper_proxy.config.settings import ClientKey, Keys, ManagementKey, Secret, Settings
from swapper_proxy.core.names import canonical

Kind = TypeVar("Kind", bound=Secret)

KINDS: dict[str, type[Secret]] = {"clients": ClientKey, "management": ManagementKey}
LEAST_KEY = 8  # characters: shorter ones are guessed in no time
WAYS = Secret.__struct_fields__
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
# What clients can send in a header, and what of a file or a variable does not get lost on its way.
_KEY = re.compile(r"[!-~]+")
_NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)
_OTHERS = stat.S_IROTH | stat.S_IWOTH


class NoKey(Exception):
    """A key cannot be had: its key path, and why."""

    def __init__(self, key_path: str, why: str) -> None:
        super().__init__(why)
        self.key_path = key_path


def digest(key: str) -> str:
    """The SHA-256 of a key, in hexadecimal digits.  Raises ValueError if clients could not send it."""
    if not _KEY.fullmatch(key):
        raise ValueError("a key has visible ASCII characters only" if key else "there is no key")
    return hashlib.sha256(key.encode()).hexdigest()


def hashed(keys: Keys, environ: Mapping[str, str]) -> Keys:
    """The same keys, told by nothing but their digests.  Raises NoKey."""
    taken: dict[tuple[str, str], str] = {}
    clients = {name: _hashed(key, f"keys.clients.{name}", environ, taken) for name, key in keys.clients.items()}
    managers = {name: _hashed(key, f"keys.management.{name}", environ, taken) for name, key in keys.management.items()}
    return Keys(clients=clients, management=managers)


def hidden(keys: Keys) -> Keys:
    """The same without what they are told by, for people: only where they came from, if from elsewhere."""
    blank = {"key": None, "key_sha256": None}
    return Keys(
        clients={name: msgspec.structs.replace(key, **blank) for name, key in keys.clients.items()},
        management={name: msgspec.structs.replace(key, **blank) for name, key in keys.management.items()},
    )


def _hashed(secret: Kind, key_path: str, environ: Mapping[str, str], taken: dict[tuple[str, str], str]) -> Kind:
    """`taken`: who has a digest already, by section and digest; two names for one key could not be told apart."""
    found = secret.key_sha256.lower() if secret.key_sha256 else _read(secret, key_path, environ)
    mine = key_path.rpartition(".")[0], found
    if mine in taken:
        raise NoKey(key_path, f"is the same key as {taken[mine]}")
    taken[mine] = key_path
    return msgspec.structs.replace(secret, key=None, key_sha256=found)


def _read(secret: Secret, key_path: str, environ: Mapping[str, str]) -> str:
    """The digest of a key that is told in another way."""
    way = next(way for way in WAYS if getattr(secret, way) is not None)
    told = getattr(secret, way)
    where = f"{told}: " if way != "key" else ""  # a key is never told
    try:
        if way == "key_file":
            told = Path(told).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
        elif way == "key_env":
            told = environ.get(told, "")
        if 0 < len(told) < LEAST_KEY:
            raise ValueError(f"a key has at least {LEAST_KEY} characters; `swapper-proxy hash-key --random` makes one")
        return digest(told)
    except OSError as error:
        raise NoKey(f"{key_path}.{way}", f"{where}{error.strerror}") from None
    except (RuntimeError, ValueError) as error:  # also of bytes that are no text
        raise NoKey(f"{key_path}.{way}", f"{where}{error}") from None


def problems(settings: Settings) -> Iterator[tuple[str, str]]:
    """Key paths, and what is wrong with them."""
    for key_path, name, secret in _all(settings.keys):
        yield from _secret(key_path, name, secret)
    routes = {canonical(name) for name in settings.routes}
    for name, client in settings.keys.clients.items():
        for model in client.models:
            if not model:
                yield f"keys.clients.{name}.models", "expected names of models, or patterns like team/*"
            elif canonical(model) in routes:
                yield f"keys.clients.{name}.models", f"{model!r} is a route; what it may choose is to be named"
        if client.queued is not None and client.concurrent is not None and client.queued > client.concurrent:
            text = f"{client.queued} has no effect: those that wait are among the {client.concurrent} of concurrent"
            yield f"keys.clients.{name}.queued", text


def _all(keys: Keys) -> Iterator[tuple[str, str, Secret]]:
    """Key path, name and key."""
    for name, client in keys.clients.items():
        yield f"keys.clients.{name}", name, client
    for name, manager in keys.management.items():
        yield f"keys.management.{name}", name, manager


def _secret(key_path: str, name: str, secret: Secret) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(name):
        yield key_path, "expected a name of 1 to 64 letters, digits, dots, @, _ or -"
    if sum(getattr(secret, way) is not None for way in WAYS) != 1:
        yield key_path, f"expected exactly one of {', '.join(WAYS)}"
    if secret.key_sha256 is not None and not _DIGEST.fullmatch(secret.key_sha256):
        yield f"{key_path}.key_sha256", "expected 64 hexadecimal digits, as `swapper-proxy hash-key` prints them"


def warnings(settings: Settings) -> Iterator[tuple[str, str]]:
    """Key paths, and what may surprise there."""
    keys, host = settings.keys, settings.server.host
    if not keys.clients and not is_loopback(host):
        yield (
            "server.host",
            f"{host} can be reached from other machines, and there are no keys.clients: anybody may ask",
        )
    if keys.clients and not keys.management:
        yield "keys.management", "there are none: whoever reaches the proxy may load and unload models"
    for key_path, _, secret in _all(keys):
        if secret.key_file is not None and _is_open(Path(secret.key_file).expanduser()):
            yield f"{key_path}.key_file", f"{secret.key_file} can be read by anybody on this machine; chmod 600"


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & _OTHERS)
    except OSError:
        return False
