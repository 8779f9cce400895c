"""The composition root: builds the parts, wires them, runs them, shuts them down."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec
from aiohttp import web

from swapper_proxy.config import ConfigError, Server, Settings, warnings
from swapper_proxy.observe import logs
from swapper_proxy.observe.metrics import Metrics
from swapper_proxy.observe.recording import Recorders, Recording
from swapper_proxy.ollama.client import OllamaClient
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from swapper_proxy.runtime.board import Board
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.ledger import Ledger
from swapper_proxy.runtime.model import GB
from swapper_proxy.runtime.ports import UpstreamRefused, UpstreamUnreachable
from swapper_proxy.runtime.standby import Standby
from swapper_proxy.runtime.watcher import Watcher
from swapper_proxy.storage.history import History
from swapper_proxy.web.broadcast import Broadcast
from swapper_proxy.web.changes import Changes
from swapper_proxy.web.events import Events
from swapper_proxy.web.front import Front
from swapper_proxy.web.history import History as Pages
from swapper_proxy.web.keys import Keys
from swapper_proxy.web.management import Management
from swapper_proxy.web.proxy import Proxy
from swapper_proxy.web.routing import Router

log = logging.getLogger(__name__)

# Objects more than before, after which Python looks for cycles: the usual 700 cost a sixth of the time of a request.
GARBAGE = 20_000
# Of a request: its first line, each header; cookies and tokens can be long.
MOST_HEADER_BYTES = 64 * 1024
MOST_HEADERS = 1000
UNQUOTED = logs.Unquoted()
# The simulated Ollama is quick enough to show a swap while one watches.
SIMULATED_LOAD_S = 1.0
SIMULATED_TOKENS_PER_S = 40.0


@dataclass(frozen=True)
class Running:
    """A proxy that serves: its address, the Ollama behind it, and a note if that one is simulated."""

    url: str
    upstream: str
    note: str
    engine: Engine


@asynccontextmanager
async def running(settings: Settings, *, simulate_if_unreachable: bool = False) -> AsyncIterator[Running]:
    """Everything up, on `settings.server`; everything down when left.  Raises ConfigError if it cannot listen."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(_client(settings))
        note = ""
        if simulate_if_unreachable and not await _answers(client):
            note = f"no Ollama answers at {settings.upstream.url}: this is the embedded simulated Ollama"
            url = await stack.enter_async_context(serving(_simulated(settings)))
            upstream = msgspec.structs.replace(settings.upstream, url=url)
            # Of a simulated Ollama nothing is kept: it would count among what happened.
            kept = msgspec.structs.replace(settings.history, path=None)
            settings = msgspec.structs.replace(settings, upstream=upstream, history=kept)
            client = await stack.enter_async_context(_client(settings))
        history = await stack.enter_async_context(History(settings.history))
        ledger, metrics = Ledger(history.past), Metrics()
        catalog = Catalog(client, settings)
        broadcast = Broadcast()
        recorder = Recorders([broadcast, history])
        observer = logs.SwapLog(Recording(metrics, recorder))
        engine = Engine(client, catalog, ledger, observer, settings.swapper, settings.limits)
        await stack.enter_async_context(engine)
        watcher = await stack.enter_async_context(Watcher(client, catalog, engine))
        board = Board(catalog, engine, ledger)
        metrics.watch(board)
        history.watch(ledger.uptimes_s)
        router, changes = Router(settings.routes, board.is_at_hand), Changes(engine, catalog, watcher.look)
        keys = Keys(settings.keys)
        proxy = Proxy(client, engine, catalog, ledger, metrics, recorder, router, changes, settings.server, keys)
        events = Events(broadcast, board, settings.swapper.mode)
        standby = Standby(settings, catalog, engine)
        pages = Pages(history)
        management = Management(board, engine, catalog, metrics, events, pages, settings, standby, note, keys)
        url = await stack.enter_async_context(_listening(settings, Front(proxy, management, settings.server)))
        await stack.enter_async_context(standby)
        try:
            yield Running(url, client.url, note, engine)
        finally:
            events.close()
            engine.shutdown(settings.server.shutdown_grace)


async def serve(settings: Settings, *, simulate_if_unreachable: bool, announce: Callable[[Running], None]) -> None:
    """Run until SIGTERM or SIGINT."""
    for warning in warnings(settings):
        log.warning(warning)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings, simulate_if_unreachable=simulate_if_unreachable) as proxy:
        open_more_files()
        gc.freeze()  # what is there now stays
        gc.set_threshold(GARBAGE)
        announce(proxy)
        await stop.wait()
        log.info("stopping")


def open_more_files() -> None:
    """As many as the system lets this process have: a stream takes two, and 1,024 is a usual limit."""
    try:
        import resource  # noqa: PLC0415 - not on every platform

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ImportError, ValueError, OSError) as error:
        log.debug("the limit of open files stays: %s", error)


def _client(settings: Settings) -> OllamaClient:
    return OllamaClient(settings.upstream.url, settings.upstream.connect_timeout)


async def _answers(client: OllamaClient) -> bool:
    try:
        await client.version()
    except (UpstreamUnreachable, UpstreamRefused):
        return False
    return True


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
async def _listening(settings: Settings, front: Front) -> AsyncIterator[str]:
    low_level = web.Server(
        front.handle,  # type: ignore[arg-type] # it gives what aiohttp's server needs of a response
        handler_cancellation=True,  # a client that leaves ends its request here and at Ollama
        auto_decompress=False,
        access_log=None,
        keepalive_timeout=75.0,
        max_line_size=MOST_HEADER_BYTES,
        max_field_size=MOST_HEADER_BYTES,
        max_headers=MOST_HEADERS,
    )
    logging.getLogger("aiohttp.server").addFilter(UNQUOTED)
    runner = web.ServerRunner(low_level, shutdown_timeout=settings.server.shutdown_grace)
    await runner.setup()
    server = settings.server
    site = web.TCPSite(runner, server.host, server.port, backlog=1024)
    try:
        await _start(site, server)
        host, port = runner.addresses[0][:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        await runner.cleanup()


async def _start(site: web.TCPSite, server: Server) -> None:
    try:
        await site.start()
    except OSError as error:
        raise ConfigError(f"cannot listen on {server.host}:{server.port}: {error.strerror or error}") from error
