"""The settings in force, and how others take their place while the proxy runs."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from swapper_proxy.config import ConfigError, Settings, warnings

log = logging.getLogger(__name__)

# What is in use from the start to the end: sockets, connections, a file.
FIXED = (
    ("server", "host"),
    ("server", "port"),
    ("server", "max_connections"),
    ("server", "header_timeout"),
    ("upstream", "url"),
    ("upstream", "connect_timeout"),
    ("history", "path"),
)

Read = Callable[[], Settings]
Use = Callable[[Settings], Awaitable[None]]


class Configuration:
    """The settings in force.

    `error` says why the last reading was of no use (empty: it was); `needs_restart` are the key paths that say
    something else by now than what is in force.
    """

    def __init__(self, settings: Settings, read: Read) -> None:
        self.settings = settings
        self.loaded_at = time.time()
        self.error = ""
        self.needs_restart: tuple[str, ...] = ()
        self._first = settings
        self._read = read
        self._reading = asyncio.Lock()

    def runs_on(self, settings: Settings) -> None:
        """What is in force from the start is not quite what was read."""
        self.settings = settings

    async def reload(self, use: Use) -> None:
        """Read again, and have it used.  Raises ConfigError; then all stays as it was, as after a bug of `use`."""
        async with self._reading:
            before = self.settings
            try:
                read = await asyncio.to_thread(self._read)
                _check_door(before, read)
                self.settings = _with_fixed(read, before)
                await use(self.settings)
            except ConfigError as error:
                self.error = str(error)
                raise
            except Exception:
                self.error = "internal error; see the proxy's log"
                self.settings = before
                await use(before)
                raise
            self.needs_restart = tuple(".".join(path) for path in _differing(self._first, read))
            self.error, self.loaded_at = "", time.time()
        log.info("the configuration was read again", extra={"config": self.settings.source})
        for path in self.needs_restart:
            log.warning("a change of %s needs a restart", path)
        for warning in warnings(self.settings):
            log.warning(warning)


def _check_door(in_force: Settings, read: Settings) -> None:
    """A file that is emptied, half written, or a pipe that is read again, says nothing of keys.  Raises ConfigError."""
    for kind in ("clients", "management"):
        if getattr(in_force.keys, kind) and not getattr(read.keys, kind):
            raise ConfigError(f"{read.source}: keys.{kind}: there are none any more, which takes a restart")


def _differing(first: Settings, read: Settings) -> Iterator[tuple[str, str]]:
    for section, field in FIXED:
        if getattr(getattr(first, section), field) != getattr(getattr(read, section), field):
            yield section, field


def _with_fixed(read: Settings, in_force: Settings) -> Settings:
    for section, field in FIXED:
        kept = {field: getattr(getattr(in_force, section), field)}
        replaced = {section: msgspec.structs.replace(getattr(read, section), **kept)}
        read = msgspec.structs.replace(read, **replaced)
    return read
