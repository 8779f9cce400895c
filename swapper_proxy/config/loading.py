"""Where settings come from: YAML file < environment < command line."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from swapper_proxy.config import strict_yaml, upstream
from swapper_proxy.config.checks import problems
from swapper_proxy.config.keys import NoKey, hashed
from swapper_proxy.config.kinds import Problem, fields, unknown, wrongs
from swapper_proxy.config.settings import NOT_IN_FILES, ConfigError, History, Keys, Settings

DEFAULT_PATH = Path("config/swapper_config.yaml")
MOST_PARALLEL = 1024
APART = ("server", "upstream", "history")  # sections that can be judged without the others
EXTENSION = "x-"  # a top-level key that begins so holds what merge keys refer to, as in compose files

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
    origins: dict[str, str] = {}
    wrong = _wrong_in_file(values)
    for source, (section, key), value in _overrides(environ, options or {}):
        key_path = f"{section}.{key}"
        origins[key_path] = source
        wrong = [problem for problem in wrong if problem.key_path != key_path]
        wrong += wrongs(value, fields(fields(Settings)[section])[key], key_path)
        _put(values, section, key, value)
    given = {key: value for key, value in values.items() if value is not None}
    if wrong:
        _refuse([*wrong, *_apart(given, wrong)], file, origins)
    settings: Settings = msgspec.convert(given, Settings)
    _refuse(list(problems(settings)), file, origins)
    try:
        keys = hashed(settings.keys, environ) if with_keys else Keys()
        ollama = upstream.resolved(settings.upstream, environ if with_keys else None)
    except NoKey as error:
        raise ConfigError(f"{file}: {error.key_path}: {error}") from None
    history = _placed(settings.history, environ) if kept else settings.history
    parallel = _num_parallel(environ)
    changed = {"upstream": ollama, "history": history, "keys": keys, "ollama_num_parallel": parallel}
    return msgspec.structs.replace(settings, source=file, **changed)


def _apart(given: dict[str, Any], wrong: list[Problem]) -> list[Problem]:
    """Return the contradictions within sections that have nothing to do with what is wrong: all is told at once."""
    unsound = {problem.key_path.partition(".")[0] for problem in wrong}
    if "server" in unsound:  # it decides what the proxy's own address is
        return []
    sound = {section: given[section] for section in APART if section in given and section not in unsound}
    return [p for p in problems(msgspec.convert(sound, Settings)) if p.key_path.partition(".")[0] in sound]


def _refuse(wrong: list[Problem], file: str, origins: Mapping[str, str]) -> None:
    """Raise ConfigError if anything is wrong: a line for each, with where it stands."""
    if wrong:
        raise ConfigError("\n".join(_in_one_line(f"{origins.get(path, file)}: {path}: {text}") for path, text in wrong))


def _in_one_line(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


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
        raise ConfigError(f"{NUM_PARALLEL}: expected integer from 0 to {MOST_PARALLEL}, got {text!r}")
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
        values = strict_yaml.read(text)
    except Exception as error:  # beside its own errors it raises many others at values that are not what their tag says
        raise ConfigError(f"{path}: not valid YAML: {strict_yaml.explained(error)}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, as in `upstream: {{url: ...}}`")
    return str(path), {key: value for key, value in values.items() if not key.startswith(EXTENSION)}


def _scalar(text: str) -> Any:
    """An environment variable's value: a number where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _put(values: dict[str, Any], section: str, key: str, value: Any) -> None:
    before = values.get(section)
    values[section] = {**(before if isinstance(before, dict) else {}), key: value}


def _wrong_in_file(values: dict[str, Any]) -> list[Problem]:
    """All keys that are unknown, missing or of a wrong kind."""
    known = {key: kind for key, kind in fields(Settings).items() if key not in NOT_IN_FILES}
    found: list[Problem] = []
    for key, value in values.items():
        if key not in known:
            found.append(_homeless(key, known))
        elif value is not None:
            found += wrongs(value, known[key], key)
    return found


def _homeless(key: str, sections: Mapping[str, Any]) -> Problem:
    """Say that there is no such section, or that the key belongs into one."""
    for section, kind in sections.items():
        if key in getattr(kind, "__struct_fields__", ()):
            return Problem(key, f"unknown key; did you mean {section}.{key}?")
    problem = unknown(key, "", sections)
    if "did you mean" in problem.wrong:
        return problem
    return Problem(key, f"unknown key; if it is only there to be merged, call it {EXTENSION}{key}")
