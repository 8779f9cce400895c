"""A workload: models, clients and the steps they take; and its JSON file (DESIGN: "Workload replay").

What a file leaves out is None here and taken from the configuration, or from the defaults (`host`).  All times are
seconds.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from swapper_proxy.core.types import Priority

# Bounded only so that sums of them stay finite.
Number = Annotated[float, Meta(ge=0, le=1e12)]
Count = Annotated[int, Meta(ge=1)]


class WorkloadError(Exception):
    """The workload cannot be used; the message is one line: file, line, field, what was expected."""


class Model(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A model as it really behaves.  The scheduler is told size, priority and parallel, never the times."""

    load_s: Number
    unload_s: Number = 0.0
    size_gb: Number | None = None
    priority: Priority | None = None
    parallel: Count | None = None


class Step(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, gc=False):
    """A request, released `after_s` after the client's previous one was answered (the first, after time 0)."""

    model: str
    service_s: Number
    after_s: Number = 0.0
    priority: Priority | None = None


class Arrivals(Protocol):
    """Requests in order of time, each of a client that asks once; made while one goes through them."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Step]: ...


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is released after `until_s`.  `memory_budget_gb` may be said to be None: no budget."""

    models: Mapping[str, Model]
    clients: Sequence[Sequence[Step]] = ()
    arrivals: Arrivals = ()
    mode: Literal["single-active", "multi-active"] | None = None
    memory_budget_gb: float | UnsetType | None = UNSET
    max_concurrent_models: int | None = None
    until_s: float | None = None

    @property
    def requests(self) -> int:
        """How many requests there are at most."""
        return sum(map(len, self.clients)) + len(self.arrivals)


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    models: dict[str, msgspec.Raw]
    clients: list[list[Step]]
    mode: Literal["single-active", "multi-active"] | None = None
    memory_budget_gb: Number | UnsetType | None = UNSET
    max_concurrent_models: Count | None = None
    until_s: Number | None = None


Kind = TypeVar("Kind")
Field = tuple[str | int, ...]  # the way from the top of the document to a value


def read(path: str | Path) -> Workload:
    """The workload in a file.  Raises WorkloadError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(data, str(path))


def parse(data: bytes, source: str) -> Workload:
    """The workload in a JSON text; `source` names it in errors.  Raises WorkloadError."""
    file = _decoded(data, _File, data, source, ())
    models = {name: _decoded(raw, Model, data, source, ("models", name)) for name, raw in file.models.items()}
    for client, steps in enumerate(file.clients):
        for step, request in enumerate(steps):
            if request.model not in models:
                _refuse(data, source, ("clients", client, step, "model"), "expected one of the models")
    said = {name: getattr(file, name) for name in _File.__struct_fields__ if name not in ("models", "clients")}
    return Workload(models=models, clients=file.clients, **said)


def _decoded(part: bytes | msgspec.Raw, kind: type[Kind], data: bytes, source: str, path: Field) -> Kind:
    try:
        return msgspec.json.decode(part, type=kind)
    except msgspec.ValidationError as error:
        try:
            _explain(error, data, source, path)
        except (ValueError, IndexError, RecursionError) as worse:  # what follows is not even JSON
            raise WorkloadError(f"{source}: not valid JSON: {worse}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WorkloadError(_malformed(error, data, source)) from None


def _malformed(error: Exception, data: bytes, source: str) -> str:
    """`FILE:LINE:COLUMN: not valid JSON: ...`."""
    try:
        data.decode()
    except UnicodeDecodeError as wrong:
        at, message = wrong.start, "not UTF-8"
    else:
        found = re.search(r"^(?:JSON is malformed: )?(.*?)(?: \(byte (\d+)\))?$", str(error))
        message = found[1] if found else str(error)
        at = int(found[2]) if found and found[2] else len(data)
    line, column = data.count(b"\n", 0, at) + 1, at - data.rfind(b"\n", 0, at)
    return f"{source}:{line}:{column}: not valid JSON: {message[:1].lower()}{message[1:]}"


def _explain(error: msgspec.ValidationError, data: bytes, source: str, path: Field) -> NoReturn:
    """Say msgspec's "Expected `float` >= 0.0 - at `$.clients[3][17].after_s`" in the words of the file."""
    message, _, where = str(error).partition(" - at `$")
    path += tuple(field or int(index) for field, index in re.findall(r"\.(\w+)|\[(\d+)]", where))
    message = message.replace("`", "")
    if field := re.fullmatch(r"Object contains unknown field (.+)", message):
        _refuse(data, source, (*path, field[1]), "unknown key", show=False)
    if field := re.fullmatch(r"Object missing required field (.+)", message):
        raise WorkloadError(f"{source}:{_line(data, path)}: {_spelled((*path, field[1]))}: is required")
    if message.startswith("Invalid enum value"):
        message = _CHOICES.get(path[-1], message)
    expected = message.partition(", got")[0].replace("float", "number").replace(".0", "")
    _refuse(data, source, path, expected[:1].lower() + expected[1:])


_CHOICES: Mapping[str | int, str] = {
    "priority": "expected high, medium or low",
    "mode": "expected single-active or multi-active",
}


def _refuse(data: bytes, source: str, path: Field, message: str, show: bool = True) -> NoReturn:
    text, at = _located(data, path)
    if show:
        got = " ".join(text[at : _end(text, at)].split())
        message += f", got {got if len(got) <= 40 else got[:37] + '...'}"
    where = _spelled(path) or "the document"
    raise WorkloadError(f"{source}:{text.count(chr(10), 0, at) + 1}: {where}: {message}")


def _line(data: bytes, path: Field) -> int:
    text, at = _located(data, path)
    return text.count("\n", 0, at) + 1


def _spelled(path: Field) -> str:
    """`clients[3][17].service_s`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _located(data: bytes, path: Field) -> tuple[str, int]:
    """The text of a valid document, and where in it the value of a field begins."""
    text = data.decode()
    at = _skip(text, 0)
    for part in path:
        at = next((start for name, start in _children(text, at) if name == part), at)
    return text, at


def _children(text: str, at: int) -> Iterator[tuple[Any, int]]:
    """Name or index of each value in the object or array that begins at `at`, and where the value begins."""
    is_object = text[at] == "{"
    at = _skip(text, at + 1)
    for index in count():
        if text[at] in "}]":
            return
        name: Any = index
        if is_object:
            name, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at)
        yield name, at
        at = _skip(text, _end(text, at))


def _end(text: str, at: int) -> int:
    return _DECODER.raw_decode(text, at)[1]


def _skip(text: str, at: int) -> int:
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


_DECODER = json.JSONDecoder()
_BETWEEN = re.compile(r"[\s,:]*")
