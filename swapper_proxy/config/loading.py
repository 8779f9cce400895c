"""Where settings come from: YAML file < environment < command line."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import yaml

from swapper_proxy.config import upstream
from swapper_proxy.config.checks import Problem, problems
from swapper_proxy.config.keys import KINDS, NoKey, hashed
from swapper_proxy.config.settings import (
    NOT_IN_FILES,
    ClientKey,
    ConfigError,
    History,
    Keys,
    Model,
    Route,
    RunnerOptions,
    Settings,
)

DEFAULT_PATH = Path("config/swapper_config.yaml")
MOST_PARALLEL = 1024

# Environment variable -> key path.
ENVIRONMENT = {
    "OLLAMA_BASE_URL": ("upstream", "url"),
    "SWAPPER_HOST": ("server", "host"),
    "SWAPPER_PORT": ("server", "port"),
    "SWAPPER_MODE": ("swapper", "mode"),
    "MAX_CONCURRENT_MODELS": ("swapper", "max_concurrent_models"),
    "MODEL_SWAP_TIMEOUT": ("swapper", "model_swap_timeout"),
}
NUM_PARALLEL = "OLLAMA_NUM_PARALLEL"  # Ollama's own: stands behind what the settings say of the proxy


def load(
    path: str | None = None,
    environ: Mapping[str, str] = os.environ,
    options: Mapping[tuple[str, str], Any] | None = None,
    *,
    with_keys: bool = True,
) -> Settings:
    """The settings from a file, the environment and command line options (key path -> value).

    A named file (`path` or SWAPPER_CONFIG_PATH) must exist; without one the file at the default place is read if
    there is one.  `with_keys`: also the keys in other files and in the environment, which not everybody may read who
    may read the settings, and the credentials for Ollama; without it there are none.  Raises ConfigError.
    """
    file, values = _read(path or environ.get("SWAPPER_CONFIG_PATH"))
    kept = _is_history_kept(values)
    settings = _checked(values, file, "")
    origins: dict[str, str] = {}
    for source, key_path, value in _overrides(environ, options or {}):
        _put(values, key_path, value)
        settings = _checked(values, source, ".".join(key_path))
        origins[".".join(key_path)] = source
    if problem := next(problems(settings), None):
        raise _contradicting(problem, origins.get(problem.key_path, file))
    try:
        keys = hashed(settings.keys, environ) if with_keys else Keys()
        ollama = upstream.resolved(settings.upstream, environ if with_keys else None)
    except NoKey as error:
        raise _contradicting(Problem(error.key_path, str(error)), file) from None
    history = _placed(settings.history, environ) if kept else settings.history
    parallel = _num_parallel(environ)
    changed = {"upstream": ollama, "history": history, "keys": keys, "ollama_num_parallel": parallel}
    return msgspec.structs.replace(settings, source=file, **changed)


def _contradicting(problem: Problem, source: str) -> ConfigError:
    return ConfigError(f"{source}: {problem.key_path}: {problem.wrong}")


def _is_history_kept(values: dict[str, Any]) -> bool:
    """`history: off`, which YAML reads as false, stands for a section; so does `on`."""
    said = values.get("history")
    off = said is False or said == "off"
    if off or said is True:
        values["history"] = {}
    return not off


def _placed(history: History, environ: Mapping[str, str]) -> History:
    """With a path: that which is given, else the one in the user's state directory (None if there is no such user)."""
    try:
        path = Path(history.path).expanduser() if history.path else _state(environ) / "history.sqlite"
    except RuntimeError:  # nobody knows the home directory
        return history
    return msgspec.structs.replace(history, path=str(path))


def _state(environ: Mapping[str, str]) -> Path:
    """The XDG base directory specification has relative paths ignored."""
    given = environ.get("XDG_STATE_HOME", "")
    return (Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state") / "swapper-proxy"


def _overrides(
    environ: Mapping[str, str], options: Mapping[tuple[str, str], Any]
) -> Iterator[tuple[str, tuple[str, str], Any]]:
    """What goes before the file, the last one before all: where it stands, key path, value."""
    for variable, key_path in ENVIRONMENT.items():
        if text := environ.get(variable):
            yield variable, key_path, _scalar(text)
    for key_path, value in options.items():
        yield "command line", key_path, value


def _num_parallel(environ: Mapping[str, str]) -> int | None:
    """None also for 0: then Ollama chooses by itself."""
    text = environ.get(NUM_PARALLEL, "").strip() or "0"
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > MOST_PARALLEL:
        raise ConfigError(f"{NUM_PARALLEL}: expected int from 0 to {MOST_PARALLEL}, got {text!r}")
    return int(text) or None


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
    except Exception as error:  # beside its own errors it raises many others at values that are not what their tag says
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
    for key in NOT_IN_FILES:
        if key in values:
            raise ConfigError(f"{source}: {key}: unknown key")
    given = {key: value for key, value in values.items() if value is not None}
    for value, kind, where in _entries(given):  # one by one, because msgspec does not say which
        _converted(value, kind, source, where)
    settings: Settings = _converted(given, Settings, source, key_path)
    return settings


def _entries(given: dict[str, Any]) -> Iterator[tuple[Any, Any, str]]:
    """What stands under names that the operator chose: the value, its type, its key path.  Rules count from 1."""
    models, routes, keys = given.get("models"), given.get("routes"), given.get("keys")
    for name, model in models.items() if isinstance(models, dict) else ():
        yield model, Model, f"models.{name}"
    for name, rules in routes.items() if isinstance(routes, dict) else ():
        yield rules, list[Any], f"routes.{name}"
        for number, rule in enumerate(rules, 1):
            yield rule, Route, f"routes.{name}.{number}"
    for kind, entry in KINDS.items():
        named = keys.get(kind) if isinstance(keys, dict) else None
        for name, key in named.items() if isinstance(named, dict) else ():
            yield key, entry, f"keys.{kind}.{name}"


def _converted(value: Any, kind: Any, source: str, key_path: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(error, source, key_path)) from None


def _explain(error: msgspec.ValidationError, source: str, key_path: str) -> str:
    """msgspec says `Expected `int`, got `str` - at `$.swapper.x``; this says `FILE: swapper.x: expected int ...`."""
    message, _, where = str(error).partition(" - at `")
    where = where.rstrip("`").removeprefix("$").removeprefix(".")
    if not where.startswith(key_path):
        where = f"{key_path}.{where}" if where else key_path
    message = message.replace("`", "").replace(" | null", "")
    if unknown := re.fullmatch(r"Object contains unknown field (.+)", message):
        return f"{source}: {f'{where}.' if where else ''}{unknown[1]}: unknown key"
    if missing := re.fullmatch(r"Object missing required field (.+)", message):
        return f"{source}: {f'{where}.' if where else ''}{missing[1]}: is required"
    if wrong := re.fullmatch(r"Invalid enum value (.+)", message):
        message = f"Expected {' or '.join(_choices(where))}, got {wrong[1]}"
    if message.startswith("Expected str matching regex"):
        message = 'Expected "ollama:" and the name that Ollama knows the model by, as in "ollama:llama3.2:3b"'
    return f"{source}: {where}: {message[:1].lower()}{message[1:]}"


def _choices(where: str) -> tuple[str, ...]:
    """The words that a key takes; the last parts of its path are fields, those before name a section or a model."""
    section, *parts = where.split(".")
    kind: Any = {"models": Model, "keys": ClientKey}.get(section) or get_type_hints(Settings)[section]
    if section == "models" and parts[-2] == "runner_options" and parts[-1] in RunnerOptions.__struct_fields__:
        kind = RunnerOptions
    return get_args(get_type_hints(kind)[parts[-1]])
