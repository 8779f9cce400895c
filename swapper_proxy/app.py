"""The composition root: builds the parts, wires them, runs them, shuts them down."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec

from swapper_proxy.config import ConfigError, Settings, trust, warnings
from swapper_proxy.core.errors import ProxyError
from swapper_proxy.core.names import canonical
from swapper_proxy.observe import logs
from swapper_proxy.observe.fanout import Fanout
from swapper_proxy.observe.metrics import Metrics
from swapper_proxy.observe.recording import Recording
from swapper_proxy.observe.refusals import Refusals
from swapper_proxy.ollama.access import Access
from swapper_proxy.ollama.client import OllamaClient
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from swapper_proxy.runtime.board import Board
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.configuration import Configuration
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.ledger import Ledger
from swapper_proxy.runtime.model import GB
from swapper_proxy.runtime.ports import ProblemRecord, UpstreamLoops, UpstreamRefused, UpstreamUnreachable
from swapper_proxy.runtime.reachability import LOOP
from swapper_proxy.runtime.sockets import keep_alive
from swapper_proxy.runtime.standby import Standby
from swapper_proxy.runtime.watcher import Watcher
from swapper_proxy.storage.history import History
from swapper_proxy.web.broadcast import Broadcast
from swapper_proxy.web.changes import Changes
from swapper_proxy.web.events import Events
from swapper_proxy.web.front import Front
from swapper_proxy.web.history import History as Pages
from swapper_proxy.web.intake import Intake
from swapper_proxy.web.keys import Keys
from swapper_proxy.web.management import Management
from swapper_proxy.web.proxy import Proxy
from swapper_proxy.web.routing import Router
from swapper_proxy.web.server import Server as Connections
from swapper_proxy.web.shapes import how_to_pull

log = logging.getLogger(__name__)

# Objects more than before, after which Python looks for cycles: the usual 700 cost a sixth of the time of a request.
GARBAGE = 20_000
# Of malloc.h: from so many bytes on a buffer is a mapping of its own; its size does not grow by itself any more.
M_MMAP_THRESHOLD, LARGE_BYTES = -3, 1 << 20
LOOP_LOOK_S = 1.0  # that the start waits for an answer that comes from the proxy itself
# The simulated Ollama is quick enough to show a swap while one watches.
SIMULATED_LOAD_S = 1.0
SIMULATED_TOKENS_PER_S = 40.0


class Service:
    """The parts of a proxy, wired.  `note` says what runs behind it if that is no real Ollama."""

    def __init__(self, client: OllamaClient, history: History, configuration: Configuration, note: str) -> None:
        settings = configuration.settings
        self._client, self._history, self._configuration = client, history, configuration
        self._logging, self._managers = settings.logging, settings.keys.management
        self._ledger, self._metrics = Ledger(), Metrics()
        self._catalog = Catalog(client, settings)
        broadcast = Broadcast()
        self._refusals = Refusals(Fanout(broadcast, history))
        self._recorder = Fanout(broadcast, history, self._refusals)
        observer = Fanout(logs.SwapLog(), Recording(self._recorder), self._metrics)
        self.engine = Engine(client, self._catalog, self._ledger, observer, settings.swapper, settings.limits)
        self._watcher = Watcher(client, self._catalog, self.engine)
        self._standby = Standby(settings, self._catalog, self.engine)
        self._board = Board(self._catalog, self.engine, self._ledger)
        self._metrics.watch(self._board, self._ledger)
        self._events = Events(broadcast, self._board, configuration)
        self._management = Management(
            self._board,
            self.engine,
            self._catalog,
            self._metrics,
            self._events,
            Pages(history),
            configuration,
            self._standby,
            self.reload,
            self._recorder,
            note,
        )
        self._front, self._intake = Front(self._management, client.via), Intake()
        self._reloads: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._judge_by(settings)

    def _judge_by(self, settings: Settings) -> None:
        """Requests that come from now on are treated by these settings: what treats them is made anew."""
        keys = Keys(settings.keys)
        self._intake.configure(settings.server)
        self._management.configure(settings.server, keys)
        self._front.configure(self._proxy(settings, keys), settings.server)

    def _proxy(self, settings: Settings, keys: Keys) -> Proxy:
        return Proxy(
            self._client,
            self.engine,
            self._catalog,
            Fanout(self._ledger),
            Fanout(self._metrics),
            self._recorder,
            Router(settings.routes, self._board.is_at_hand),
            Changes(self.engine, self._catalog, self._watcher.look),
            self._intake,
            settings.server,
            settings.upstream,
            keys,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """It serves at this address, until left: then what is under way may end within `shutdown_grace`."""
        async with self.engine, self._watcher:
            self._history.watch(self._ledger)
            async with _listening(self._configuration, self._front) as url, self._standby:
                try:
                    await self._seek_loop()
                    yield url
                finally:
                    self._stopping = True
                    self._events.close()
                    self.engine.shutdown(self._configuration.settings.server.shutdown_grace)
                    await asyncio.gather(*self._reloads, return_exceptions=True)
        self._refusals.flush()
        await self._standby.hand_back()

    async def _seek_loop(self) -> None:
        """Now that it listens it would answer itself.  Raises ConfigError."""
        if self.engine.reachable:
            return  # when nobody listened here
        with contextlib.suppress(TimeoutError, UpstreamUnreachable, UpstreamRefused):
            try:
                async with asyncio.timeout(LOOP_LOOK_S):
                    await self._client.version()
            except UpstreamLoops:
                raise ConfigError(f"{self._client.url}: {LOOP}") from None

    async def reload(self) -> None:
        """Read the configuration again and use it from now on, also if whoever asked for it leaves meanwhile.

        Raises ConfigError; then all stays as it was.  Raises ProxyError (503) at the end.
        """
        if self._stopping:
            raise ProxyError(503, "shutting_down", "the proxy is shutting down")
        task = asyncio.create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)
        await asyncio.shield(task)

    async def _reload(self) -> None:
        try:
            await self._configuration.reload(self._use)
        except Exception:
            why = self._configuration.error
            log.error("the configuration stays as it was: %s", why.replace("\n", "; "))  # noqa: TRY400 - a bug is told where it ends
            self._recorder.problem(ProblemRecord(time.time(), "", "invalid_config", why))
            self._metrics.configured(False)
            raise
        self._metrics.configured(True)

    async def _use(self, settings: Settings) -> None:
        """What holds state is told; what only knows how to treat requests is made anew."""
        access = await asyncio.to_thread(_access, settings)
        self._client.use(access)
        self._catalog.configure(settings)
        self.engine.configure(settings.swapper, settings.limits)
        self._history.keep(settings.history)
        self._judge_by(settings)
        if settings.keys.management != self._managers:
            self._managers = settings.keys.management
            self._events.dismiss()
        if settings.logging != self._logging:
            self._logging = settings.logging
            logs.configure(settings.logging.level, settings.logging.format)
        await self._standby.configure(settings)


@dataclass(frozen=True)
class Running:
    """A proxy that serves: its address, the Ollama behind it, and a note if that one is simulated."""

    url: str
    upstream: str
    note: str
    engine: Engine
    reload: Callable[[], Awaitable[None]]


@asynccontextmanager
async def running(
    settings: Settings, *, simulate_if_unreachable: bool = False, read: Callable[[], Settings] | None = None
) -> AsyncIterator[Running]:
    """Everything up, on `settings.server`; everything down when left.  Raises ConfigError if it cannot listen.

    `read` reads the settings again; without it they never change.
    """
    configuration = Configuration(settings, read or (lambda: settings))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(_client(settings))
        note = ""
        if simulate_if_unreachable and (why := await _why_away(client)):
            note = f"this is the embedded simulated Ollama, since that at {settings.upstream.url} is away: {why}"
            url = await stack.enter_async_context(serving(_simulated(settings)))
            upstream = msgspec.structs.replace(settings.upstream, url=url)
            # Of a simulated Ollama nothing is kept: it would count among what happened.
            kept = msgspec.structs.replace(settings.history, path=None)
            configuration.runs_on(msgspec.structs.replace(settings, upstream=upstream, history=kept))
            client = await stack.enter_async_context(_client(configuration.settings))
        history = await stack.enter_async_context(History(configuration.settings.history))
        service = Service(client, history, configuration, note)
        url = await stack.enter_async_context(service.running())
        yield Running(url, client.url, note, service.engine, service.reload)


async def serve(
    settings: Settings,
    *,
    simulate_if_unreachable: bool,
    announce: Callable[[Running], None],
    read: Callable[[], Settings] | None = None,
) -> None:
    """Run until SIGTERM or SIGINT; a second one ends it at once.  SIGHUP reads the configuration again."""
    for warning in warnings(settings):
        log.warning(warning)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop)
    again = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, again.set)  # it may come before all is up, and after the end has begun
    async with running(settings, simulate_if_unreachable=simulate_if_unreachable, read=read) as proxy:
        open_more_files()
        give_large_buffers_back()
        gc.freeze()  # what is there now stays
        gc.set_threshold(GARBAGE)
        reloading = loop.create_task(_reloading(proxy, again))
        announce(proxy)
        await stop.wait()
        log.info("stopping")
        reloading.cancel()


def _stop(stop: asyncio.Event) -> None:
    if stop.is_set():
        log.warning("stopped without waiting for what is under way")
        os._exit(1)
    stop.set()


async def _reloading(proxy: Running, again: asyncio.Event) -> None:
    while True:
        await again.wait()
        again.clear()
        try:
            await proxy.reload()
        except ConfigError:
            pass  # it is in the log
        except Exception:  # a bug here must not end the reloads to come
            log.exception("reading the configuration again failed")


def open_more_files() -> None:
    """As many as the system lets this process have: a stream takes two, and 1,024 is a usual limit."""
    try:
        import resource  # noqa: PLC0415 - not on every platform

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ImportError, ValueError, OSError) as error:
        log.debug("the limit of open files stays: %s", error)


def give_large_buffers_back() -> None:
    """Have glibc return the memory of large bodies to the system at once.

    After the first one it would take them from its arenas, which keep what they were given, in pieces.
    """
    try:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
    except (OSError, AttributeError, TypeError) as error:  # another C library
        log.debug("large buffers are given back when the system likes: %s", error)


def _client(settings: Settings) -> OllamaClient:
    return OllamaClient(settings.upstream.url, settings.upstream.connect_timeout, _access(settings))


def _access(settings: Settings) -> Access:
    """Raises ConfigError if the file of certificates cannot be read any more."""
    headers = {name: value for name, value in settings.upstream.headers.items() if isinstance(value, str)}
    try:
        return Access(headers, trust(settings.upstream))
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{settings.source}: upstream.ca_file: {error}") from None


@dataclass(frozen=True)
class Found:
    """What an Ollama says of itself; `missing` says of configured models that it has not how to get them."""

    version: str
    installed: int
    missing: tuple[str, ...]


async def probe(settings: Settings) -> Found:
    """Ask the Ollama behind the proxy as the proxy does.  Raises UpstreamUnreachable, UpstreamRefused, ConfigError."""
    async with _client(settings) as client:
        version, installed = await client.version(), await client.installed()
    names = {canonical(model.name) for model in installed}
    missing = [
        f"models.{name}: {how_to_pull(model.ollama_name)}"
        for name, model in settings.models.items()
        if canonical(model.ollama_name) not in names
    ]
    return Found(version, len(installed), tuple(missing))


async def _why_away(client: OllamaClient) -> str:
    """Return why Ollama cannot be used; empty if it can."""
    try:
        await client.version()
    except (UpstreamUnreachable, UpstreamRefused) as error:
        return str(error)
    return ""


def _simulated(settings: Settings) -> Simulator:
    """The configured models, or one so that there is something to talk to, and room for as many as the limits allow."""
    models = [
        SimulatedModel(
            name=model.ollama_name,
            size=int((model.size_gb or 1) * GB),
            load_s=SIMULATED_LOAD_S,
            tokens_per_second=SIMULATED_TOKENS_PER_S,
            embedding_only=model.type == "embedding",
        )
        for model in settings.models.values()
    ] or [SimulatedModel("llama3.2", GB, SIMULATED_LOAD_S, SIMULATED_TOKENS_PER_S)]
    return Simulator(models, max_loaded=settings.swapper.max_resident + sum(settings.swapper.slots.values()))


@asynccontextmanager
async def _listening(configuration: Configuration, front: Front) -> AsyncIterator[str]:
    server = configuration.settings.server
    connections = Connections(front.handle, server)
    try:
        sockets = await asyncio.get_running_loop().create_server(connections, server.host, server.port, backlog=1024)
    except OSError as error:
        raise ConfigError(f"cannot listen on {server.host}:{server.port}: {error.strerror or error}") from error
    for listening in sockets.sockets:
        keep_alive(listening)
    try:
        host, port = sockets.sockets[0].getsockname()[:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        sockets.close()
        await asyncio.sleep(0)  # what has come is begun
        connections.pre_shutdown()
        await connections.shutdown(configuration.settings.server.shutdown_grace)
