"""The keys, their types, ranges and defaults."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from swapper_proxy.config.keep_alive import KeepAlive
from swapper_proxy.core.names import canonical
from swapper_proxy.core.types import Limits, Priority, Rules, RunnerOption

Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
Wait = Annotated[float, Meta(gt=0, le=31_536_000)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Gigabytes = Annotated[float, Meta(gt=0, le=100_000)]

PATH = '"ollama:" and the name that Ollama knows the model by, as in "ollama:llama3.2:3b"'
NO_LIMIT = 1_000_000  # so many runners fit into no machine

# What Ollama itself allows by default: pages on this machine and desktop applications.
LOCAL_ORIGINS = (
    "http://localhost",
    "https://localhost",
    "http://localhost:*",
    "https://localhost:*",
    "http://127.0.0.1",
    "https://127.0.0.1",
    "http://127.0.0.1:*",
    "https://127.0.0.1:*",
    "http://0.0.0.0",
    "https://0.0.0.0",
    "http://0.0.0.0:*",
    "https://0.0.0.0:*",
    "app://*",
    "file://*",
    "tauri://*",
    "vscode-webview://*",
    "vscode-file://*",
)


class ConfigError(Exception):
    """The settings cannot be used; the message has a line for the operator for each thing that is wrong."""


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A part of the settings; keys that are not listed are refused."""


class Server(Section, frozen=True):
    """Where the proxy listens, and what it takes from clients.  Sizes are bytes, times seconds."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8890
    max_body_bytes: Annotated[int, Meta(ge=1)] = 128 * 1024 * 1024
    max_buffered_bytes: Annotated[int, Meta(ge=1)] = 1024 * 1024 * 1024
    max_connections: Count = 8192
    header_timeout: Annotated[float, Meta(gt=0, le=86_400)] = 75.0
    body_idle_timeout: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    write_timeout: Annotated[float, Meta(gt=0, le=86_400)] = 300.0
    shutdown_grace: Seconds = 30.0
    cors_origins: tuple[str, ...] = LOCAL_ORIGINS
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    read_only: bool = False


class HeaderSource(Section, frozen=True):
    """Where the value of a header comes from: an environment variable or a file; exactly one is given."""

    env: Annotated[str, Meta(min_length=1)] | None = None
    file: Annotated[str, Meta(min_length=1)] | None = None


class Upstream(Section, frozen=True):
    """The Ollama behind the proxy.  Times are seconds, None means off.

    Of settings that were loaded `headers` holds the values themselves, and `url` no user, see `config.upstream`.
    """

    url: str = "http://localhost:11434"
    headers: dict[str, str | HeaderSource] = {}
    ca_file: Annotated[str, Meta(min_length=1)] | None = None
    verify: bool = True
    connect_timeout: Seconds = 10.0
    first_byte_timeout: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    idle_timeout: Annotated[float, Meta(gt=0, le=86_400)] | None = 1800.0
    grace: Seconds = 10.0

    def __repr__(self) -> str:
        return f"Upstream({self.url.rpartition('@')[2]}, headers={list(self.headers)})"  # never their values


class MaxWait(Section, frozen=True):
    """How many seconds a request of each priority waits before a swap to its model is forced."""

    high: Wait = 15.0
    medium: Wait = 60.0
    low: Wait = 240.0


class Swapper(Section, frozen=True):
    """How models are swapped.  Times are seconds; None means off, or worked out."""

    mode: Literal["single-active", "multi-active"] = "single-active"
    max_concurrent_models: Annotated[int, Meta(ge=1, le=1000)] | None = None
    memory_budget_gb: Gigabytes | None = None
    slots: dict[str, int] = {}
    model_swap_timeout: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    gpu_enabled: bool = True
    metal_acceleration: bool = True
    default_model: str | None = None
    default_after: Wait | None = None
    keep_alive: KeepAlive | None = None
    ignore_client_keep_alive: bool = False
    parallel: Annotated[int, Meta(ge=1, le=1024)] | None = None
    unlisted_models: Literal["allow", "deny"] = "allow"
    expose_aliases: bool = False
    max_wait: MaxWait = MaxWait()
    priority_header: Literal["ignore", "lower", "any"] = "lower"
    max_queue: Count = 1000
    queue_timeout: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    drain_timeout: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    unload_settle: Seconds = 1.5
    unload_timeout: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    load_stall_timeout: Annotated[float, Meta(gt=0, le=86_400)] = 900.0

    @property
    def gpu(self) -> bool:
        """Whether models may use the GPU."""
        return self.gpu_enabled and self.metal_acceleration

    @property
    def max_resident(self) -> int:
        """How many runners fit that have no slot; a memory budget alone limits no number."""
        if self.mode == "single-active":
            return 1
        return self.max_concurrent_models or (1 if self.memory_budget_gb is None else NO_LIMIT)


class RunnerOptions(Section, frozen=True):
    """What becomes of the options that make Ollama reload: `pass` them, `pin` them to these values, `strip` them."""

    policy: Literal["pass", "pin", "strip"] = "pass"
    num_ctx: Annotated[int, Meta(ge=1)] | None = None
    num_batch: Annotated[int, Meta(ge=1)] | None = None
    num_gpu: Annotated[int, Meta(ge=-1)] | None = None
    main_gpu: Annotated[int, Meta(ge=0)] | None = None
    use_mmap: bool | None = None
    num_thread: Annotated[int, Meta(ge=0)] | None = None
    draft_num_predict: Annotated[int, Meta(ge=0)] | None = None

    @property
    def values(self) -> dict[str, RunnerOption]:
        """The options that are given."""
        given = ((field, getattr(self, field)) for field in self.__struct_fields__ if field != "policy")
        return {name: value for name, value in given if value is not None}


class Model(Section, frozen=True):
    """One configured model.  `path` is `ollama:` and the name that Ollama knows it by."""

    path: Annotated[str, Meta(pattern=r"^ollama:\S+\Z", description=PATH)]
    type: str = "llm"
    size_gb: Gigabytes | None = None
    priority: Literal["high", "medium", "low"] = "medium"
    parallel: Annotated[int, Meta(ge=1, le=1024)] | None = None
    pinned: bool = False
    preload: bool = False
    keep_alive: KeepAlive | None = None
    max_queue: Count | None = None
    runner_options: RunnerOptions = RunnerOptions()

    @property
    def ollama_name(self) -> str:
        return self.path.removeprefix("ollama:")


class Route(Section, frozen=True):
    """One rule of a virtual model: which model serves the requests for which every given condition holds.

    Several models are equals: one that is in memory is preferred, else the first.  `longer_than` is characters.
    """

    model: str | tuple[str, ...]
    has_images: bool | None = None
    has_tools: bool | None = None
    is_embedding: bool | None = None
    longer_than: Annotated[int, Meta(ge=0)] | None = None

    @property
    def models(self) -> tuple[str, ...]:
        return (self.model,) if isinstance(self.model, str) else self.model

    @property
    def conditions(self) -> dict[str, bool | int]:
        """Those that are given, in the order in which they are listed here."""
        given = ((field, getattr(self, field)) for field in self.__struct_fields__ if field != "model")
        return {name: value for name, value in given if value is not None}


class Metrics(Section, frozen=True):
    default_format: Literal["prometheus", "json"] = "prometheus"


class Logging(Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class History(Section, frozen=True):
    """What is kept of the past, and where.  `path` is None where nothing is; a file that does not say so names one."""

    path: Annotated[str, Meta(min_length=1)] | None = None
    days: Annotated[int, Meta(ge=1, le=36_500)] = 30
    max_mb: Annotated[int, Meta(ge=1, le=1_000_000)] = 200


class Secret(Section, frozen=True):
    """How a key is told: one of these.  Of settings that were loaded only the digest tells it, see `config.keys`."""

    key: str | None = None
    key_sha256: str | None = None
    key_env: str | None = None
    key_file: str | None = None


class ClientKey(Secret, frozen=True):
    """One key for what goes to Ollama, and what it allows; None is no limit, no `models` are all."""

    models: tuple[str, ...] = ()
    max_priority: Literal["high", "medium", "low"] = "high"
    concurrent: Count | None = None
    queued: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    per_minute: Count | None = None


class ManagementKey(Secret, frozen=True):
    """One key for the proxy's own API."""

    read_only: bool = False


class Keys(Section, frozen=True):
    """The keys by name.  Where a section has none, anybody may."""

    clients: dict[str, ClientKey] = {}
    management: dict[str, ManagementKey] = {}


class Settings(Section, frozen=True):
    """All settings, checked."""

    server: Server = Server()
    upstream: Upstream = Upstream()
    swapper: Swapper = Swapper()
    models: dict[str, Model] = {}
    routes: dict[str, tuple[Route, ...]] = {}
    metrics: Metrics = Metrics()
    logging: Logging = Logging()
    history: History = History()
    keys: Keys = Keys()
    source: str = "defaults"  # where the settings came from, for people
    ollama_num_parallel: int | None = None  # what OLLAMA_NUM_PARALLEL says of the Ollama behind the proxy

    def configured(self, name: str) -> tuple[str, Model] | None:
        """The configured model that a name means in any spelling, by its key or its Ollama name."""
        spelling = canonical(name)
        named = self.models.items()
        return next(((n, m) for n, m in named if spelling in (canonical(n), canonical(m.ollama_name))), None)

    @property
    def limits(self) -> Limits:
        """What the scheduler has to keep."""
        swapper = self.swapper
        return Limits(
            max_resident=swapper.max_resident,
            max_queue=swapper.max_queue,
            queue_timeout_s=swapper.queue_timeout,
            upstream_grace_s=self.upstream.grace,
            memory_gb=swapper.memory_budget_gb,
            slots=swapper.slots,
            drain_timeout_s=swapper.drain_timeout,
            rules=Rules(max_wait_s={priority: getattr(swapper.max_wait, priority) for priority in Priority}),
        )


# The fields of Settings that are no sections of a file.
NOT_IN_FILES = ("source", "ollama_num_parallel")
