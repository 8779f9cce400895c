"""What the keys take, in the words of YAML, and what is wrong with values that they do not take."""

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

MOST_SHOWN = 60  # characters of a value
HUGE = 1e300  # Python writes no number of any length
# In a message these could tell a key or a password.
_SECRETS = ("key", "key_sha256")
_SECRET_PATHS = ("upstream.url", "upstream.headers")


class Problem(NamedTuple):
    """A key path and what is wrong with it."""

    key_path: str
    wrong: str


def words(kind: Any) -> str:
    """Say what a key takes."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        described = [meta.description for meta in parts[1:] if meta.description]
        return described[0] if described else " ".join((words(parts[0]), *map(_range, parts[1:])))
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if _is_union(kind):
        each = dict.fromkeys(words(part) for part in parts if part is not type(None))
        return " or ".join(each).replace("integer or number", "number")
    if origin is tuple:
        return f"list of {words(parts[0])}s"
    if origin is dict or _is_struct(kind):
        return "mapping"
    return {int: "integer", float: "number", str: "text", bool: "true, false"}.get(kind, "anything")


def wrongs(value: Any, kind: Any, key_path: str) -> Iterator[Problem]:
    """All that keeps the value from being of this kind.  Entries of lists count from 1."""
    kind = _meant(value, kind)
    if _is_struct(kind):
        yield from _in_struct(value, kind, key_path)
    elif get_origin(kind) is dict and isinstance(value, dict):
        for name, entry in value.items():
            yield from wrongs(entry, get_args(kind)[1], f"{key_path}.{name}")
    elif get_origin(kind) is tuple and isinstance(value, list):
        for number, entry in enumerate(value, 1):
            yield from wrongs(entry, get_args(kind)[0], f"{key_path}.{number}")
    elif not _fits(value, kind):
        yield Problem(key_path, f"expected {_expected(kind)}, got {_given(value, key_path)}")


def _expected(kind: Any) -> str:
    """Say what a key takes, in a sentence."""
    text = words(kind).replace("`", "").strip()
    first, _, last = text.rpartition(", ")
    return f"{first} or {last}" if first and '"' not in text else text


def fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the keys of a mapping, and the kind of each."""
    return get_type_hints(struct, include_extras=True)


def unknown(key: str, key_path: str, known: Mapping[str, Any]) -> Problem:
    """Say that there is no such key, and which one may be meant."""
    near = difflib.get_close_matches(key.lower(), known, n=1)
    return Problem(_joined(key_path, key), f"unknown key{f'; did you mean {near[0]}?' if near else ''}")


def _in_struct(value: Any, struct: type[msgspec.Struct], key_path: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield Problem(key_path, f"expected mapping, got {_type(value)}")  # it may be a secret in the wrong place
        return
    known = fields(struct)
    for key in value:
        if key not in known:
            yield unknown(key, key_path, known)
    for field in msgspec.structs.fields(struct):
        if field.name in value:
            yield from wrongs(value[field.name], known[field.name], _joined(key_path, field.name))
        elif field.required:
            yield Problem(_joined(key_path, field.name), "is required")


def _joined(key_path: str, key: str) -> str:
    return f"{key_path}.{key}" if key_path else key


def _meant(value: Any, kind: Any) -> Any:
    """Return which part of a union a list or a mapping is meant for; else the kind itself."""
    if not _is_union(kind):
        return kind
    for part in get_args(kind):
        if isinstance(value, dict) and (_is_struct(part) or get_origin(part) is dict):
            return part
        if isinstance(value, list) and get_origin(part) is tuple:
            return part
    return kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) is Union or type(kind).__name__ == "UnionType"


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _range(meta: msgspec.Meta) -> str:
    if meta.ge is None and meta.gt is None:
        return "that is not empty" if meta.min_length else ""
    low = f"above {meta.gt}" if meta.gt is not None else f"from {meta.ge}"
    return low if meta.le is None else f"{low} to {meta.le}"


def _given(value: Any, key_path: str) -> str:
    """Say what the value is, as it stands in YAML."""
    if value is None or isinstance(value, dict | list):
        return _type(value)
    if key_path.startswith(_SECRET_PATHS) or key_path.rpartition(".")[2] in _SECRETS:
        return _type(value)
    return _number(value) if isinstance(value, int | float) else f"the {_type(value)[2:]} {_cut(repr(value))}"


def _number(value: float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if math.isnan(value) or value in (math.inf, -math.inf):
        return f"{'-' if value < 0 else ''}.{'nan' if math.isnan(value) else 'inf'}"
    return _cut(str(value)) if abs(value) < HUGE else "a number of hundreds of digits"


def _type(value: Any) -> str:
    """Say of what type a value is, and not what it is."""
    if value is None:
        return "nothing"
    if isinstance(value, int | float):
        return "true or false" if isinstance(value, bool) else "a number"
    for kind, name in ((dict, "mapping"), (list, "list"), (str, "text")):
        if isinstance(value, kind):
            return f"a {name}"
    return f"a {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
