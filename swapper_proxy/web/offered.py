"""Names that only the config knows, where Ollama tells which models it has."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import quote

import msgspec

from swapper_proxy.core.names import canonical

Entry = dict[str, msgspec.Raw]
Edit = Callable[[bytes], bytes]
# RecursionError: arrays or objects are nested without end.
_UNREADABLE = (msgspec.MsgspecError, KeyError, RecursionError)

# Lists of models: where the entries are, and in which of their fields the name stands.
LISTS = {"/api/tags": ("models", ("name", "model")), "/v1/models": ("data", ("id",))}
IN_MEMORY = {"/api/ps": LISTS["/api/tags"]}
ONE = "/v1/models/"


def listing(path: str, offered: Mapping[str, Sequence[str]], may: Callable[[str], bool] | None = None) -> Edit | None:
    """What adds the offered names (name -> Ollama names) to the answer of this path, and leaves out those that the
    client `may` not use; None if there is nothing to do."""
    more = path in LISTS and bool(offered)
    less = may is not None and path in LISTS | IN_MEMORY
    if not (more or less):
        return None
    key, fields = (LISTS | IN_MEMORY)[path]

    def edit(body: bytes) -> bytes:
        body = _extended(body, key, fields, offered) if more else body
        return _reduced(body, key, fields[0], may) if may is not None else body

    return edit


def asked_for(path: str) -> str | None:
    """The model that a question for one model means."""
    return path.removeprefix(ONE) if path.startswith(ONE) else None


def one(name: str, ollama_name: str) -> tuple[str, Edit]:
    """The path to ask for instead, and what puts the asked name back into the answer."""
    return ONE + quote(ollama_name, safe="/:"), lambda body: _replaced(body, {"id": name})


def able(capabilities: Iterable[str]) -> Edit:
    """What makes a shown model able to do all this."""
    return lambda body: _replaced(body, {"capabilities": sorted(capabilities)})


def _extended(body: bytes, key: str, fields: tuple[str, ...], offered: Mapping[str, Sequence[str]]) -> bytes:
    """Entries are repeated under the other names; what Ollama does not have is not listed."""
    try:
        answer, entries = _read(body, key)
    except _UNREADABLE:
        return body
    named = ((_name(entry, fields[0]), entry) for entry in entries)
    known = {canonical(name): entry for name, entry in named if name}
    for name, meant in offered.items():
        raw = next((known[spelling] for spelling in map(canonical, meant) if spelling in known), None)
        if raw is not None and canonical(name) not in known:
            entries.append(_raw(msgspec.json.decode(raw, type=Entry) | {field: _raw(name) for field in fields}))
    return _encoded(answer | {key: _raw(entries)}, body)


def _reduced(body: bytes, key: str, field: str, may: Callable[[str], bool]) -> bytes:
    """Raises nothing that would let through what cannot be read: then the list is empty."""
    try:
        answer, entries = _read(body, key)
    except _UNREADABLE:
        answer, entries = {}, []
    kept = [entry for entry in entries if (name := _name(entry, field)) is not None and may(name)]
    return _encoded(answer | {key: _raw(kept)}, body)


def _read(body: bytes, key: str) -> tuple[Entry, list[msgspec.Raw]]:
    """The answer, and the entries of its list.  Raises what is _UNREADABLE."""
    answer = msgspec.json.decode(body, type=Entry)
    return answer, msgspec.json.decode(answer[key], type=list[msgspec.Raw] | None) or []


def _name(entry: msgspec.Raw, field: str) -> str | None:
    """None if it has none that can be read."""
    try:
        return msgspec.json.decode(msgspec.json.decode(entry, type=Entry)[field], type=str)
    except _UNREADABLE:
        return None


def _replaced(body: bytes, values: Mapping[str, object]) -> bytes:
    try:
        answer = msgspec.json.decode(body, type=Entry)
    except _UNREADABLE:
        return body
    return _encoded(answer | {field: _raw(value) for field, value in values.items()}, body)


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _encoded(answer: Entry, before: bytes) -> bytes:
    """With the line end that it had."""
    return msgspec.json.encode(answer) + before[len(before.rstrip()) :]
