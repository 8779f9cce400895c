"""Settings: YAML file < environment < command line.  Every check of them is here.

A setting that is unknown, of a wrong type or out of range raises ConfigError with one line that names where it came
from, the key path and what was expected.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
import yaml
from msgspec import Meta

from swapper_proxy.core.names import canonical
from swapper_proxy.core.types import Limits

DEFAULT_PATH = Path("config/swapper_config.yaml")

Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]

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
    """The settings cannot be used; the message is one line for the operator."""


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A part of the settings; keys that are not listed are refused."""


class Server(Section, frozen=True):
    """Where the proxy listens, and what it takes from clients.  Sizes are bytes, times seconds."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8890
    max_body_bytes: Annotated[int, Meta(ge=1)] = 128 * 1024 * 1024
    max_buffered_bytes: Annotated[int, Meta(ge=1)] = 1024 * 1024 * 1024
    body_idle_timeout: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    shutdown_grace: Seconds = 30.0
    cors_origins: tuple[str, ...] = LOCAL_ORIGINS
    allowed_hosts: tuple[str, ...] = ()


class Upstream(Section, frozen=True):
    """The Ollama behind the proxy."""

    url: str = "http://localhost:11434"
    connect_timeout: Seconds = 10.0
    grace: Seconds = 10.0


class Swapper(Section, frozen=True):
    """How models are swapped.  Times are seconds; None means off, or worked out."""

    mode: Literal["single-active", "multi-active"] = "single-active"
    max_concurrent_models: Annotated[int, Meta(ge=1, le=1000)] = 1
    model_swap_timeout: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    gpu_enabled: bool = True
    metal_acceleration: bool = True
    default_model: str | None = None
    parallel: Annotated[int, Meta(ge=1, le=1024)] | None = None
    unlisted_models: Literal["allow", "deny"] = "allow"
    max_queue: Count = 1000
    queue_timeout: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    unload_settle: Seconds = 1.5
    unload_timeout: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    load_stall_timeout: Annotated[float, Meta(gt=0, le=86_400)] = 900.0


class Model(Section, frozen=True):
    """One configured model.  `path` is `ollama:` and the name that Ollama knows it by."""

    path: Annotated[str, Meta(pattern=r"^ollama:.+")]
    type: str = "llm"
    size_gb: Annotated[float, Meta(gt=0, le=100_000)] | None = None
    priority: Literal["high", "medium", "low"] = "medium"
    parallel: Annotated[int, Meta(ge=1, le=1024)] | None = None

    @property
    def ollama_name(self) -> str:
        return self.path.removeprefix("ollama:")


class Metrics(Section, frozen=True):
    default_format: Literal["prometheus", "json"] = "prometheus"


class Logging(Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Settings(Section, frozen=True):
    """All settings, checked."""

    server: Server = Server()
    upstream: Upstream = Upstream()
    swapper: Swapper = Swapper()
    models: dict[str, Model] = {}
    metrics: Metrics = Metrics()
    logging: Logging = Logging()
    source: str = "defaults"  # where the settings came from, for people

    @property
    def limits(self) -> Limits:
        """What the scheduler has to keep."""
        single = self.swapper.mode == "single-active"
        return Limits(
            max_resident=1 if single else self.swapper.max_concurrent_models,
            max_queue=self.swapper.max_queue,
            queue_timeout_s=self.swapper.queue_timeout,
            upstream_grace_s=self.upstream.grace,
        )


# Environment variable -> key path.
ENVIRONMENT = {
    "OLLAMA_BASE_URL": ("upstream", "url"),
    "SWAPPER_HOST": ("server", "host"),
    "SWAPPER_PORT": ("server", "port"),
    "SWAPPER_MODE": ("swapper", "mode"),
    "MAX_CONCURRENT_MODELS": ("swapper", "max_concurrent_models"),
    "MODEL_SWAP_TIMEOUT": ("swapper", "model_swap_timeout"),
    "OLLAMA_NUM_PARALLEL": ("swapper", "parallel"),
}


def load(
    path: str | None = None,
    environ: Mapping[str, str] = os.environ,
    options: Mapping[tuple[str, str], Any] | None = None,
) -> Settings:
    """The settings from a file, the environment and command line options (key path -> value).

    A named file (`path` or SWAPPER_CONFIG_PATH) must exist; without one the file at the default place is read if
    there is one.  Raises ConfigError.
    """
    file, values = _read(path or environ.get("SWAPPER_CONFIG_PATH"))
    settings = _checked(values, file, "")
    for variable, key_path in ENVIRONMENT.items():
        if text := environ.get(variable):
            if variable == "OLLAMA_NUM_PARALLEL" and settings.swapper.parallel is not None:
                continue  # Ollama's own default stands behind what the file says of the proxy
            _put(values, key_path, _scalar(text))
            settings = _checked(values, variable, ".".join(key_path))
    for key_path, value in (options or {}).items():
        _put(values, key_path, value)
        settings = _checked(values, "command line", ".".join(key_path))
    _cross_check(settings, file)
    return msgspec.structs.replace(settings, source=file)


def _read(named: str | None) -> tuple[str, dict[str, Any]]:
    path = Path(named) if named else DEFAULT_PATH
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if named:
            raise ConfigError(f"{path}: no such file") from None
        return "defaults", {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        values = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, got {type(values).__name__}")
    return str(path), values


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice instead of dropping the first."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a string", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _scalar(text: str) -> Any:
    """An environment variable's value: a number where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _put(values: dict[str, Any], key_path: tuple[str, str], value: Any) -> None:
    section, key = key_path
    values[section] = {**(values.get(section) or {}), key: value}


def _checked(values: dict[str, Any], source: str, key_path: str) -> Settings:
    if "source" in values:
        raise ConfigError(f"{source}: source: unknown key")
    given = {key: value for key, value in values.items() if value is not None}
    models = given.get("models")
    for name, model in models.items() if isinstance(models, dict) else ():
        try:  # one by one, because msgspec does not say which
            msgspec.convert(model, Model)
        except msgspec.ValidationError as error:
            raise ConfigError(_explain(error, source, f"models.{name}")) from None
    try:
        return msgspec.convert(given, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(error, source, key_path)) from None


def _explain(error: msgspec.ValidationError, source: str, key_path: str) -> str:
    """msgspec says `Expected `int`, got `str` - at `$.swapper.x``; this says `FILE: swapper.x: expected int ...`."""
    message, _, where = str(error).partition(" - at `")
    where = where.rstrip("`").removeprefix("$").removeprefix(".")
    if not where.startswith(key_path):
        where = f"{key_path}.{where}" if where else key_path
    message = message.replace("`", "")
    if unknown := re.fullmatch(r"Object contains unknown field (.+)", message):
        return f"{source}: {f'{where}.' if where else ''}{unknown[1]}: unknown key"
    if missing := re.fullmatch(r"Object missing required field (.+)", message):
        return f"{source}: {f'{where}.' if where else ''}{missing[1]}: is required"
    if message == "Expected str matching regex '^ollama:.+'":
        message = 'Expected "ollama:" and the name that Ollama knows the model by, as in "ollama:llama3.2:3b"'
    return f"{source}: {where}: {message[:1].lower()}{message[1:]}"


def _cross_check(settings: Settings, source: str) -> None:
    """What one key alone does not show."""
    try:
        url = urlsplit(settings.upstream.url)
        url.port  # noqa: B018 - raises if it is none
    except ValueError as error:
        raise ConfigError(f"{source}: upstream.url: {error}") from None
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ConfigError(f"{source}: upstream.url: expected a URL like http://localhost:11434, got {url.geturl()!r}")
    swapper = settings.swapper
    if swapper.default_model is not None and swapper.default_model not in settings.models:
        raise ConfigError(f"{source}: swapper.default_model: {swapper.default_model!r} is not one of the models")
    taken: dict[str, str] = {}
    for name, model in settings.models.items():
        for spelling in {canonical(name), canonical(model.ollama_name)}:
            if spelling in taken:
                raise ConfigError(f"{source}: models.{name}: {spelling!r} already means model {taken[spelling]!r}")
            taken[spelling] = name
