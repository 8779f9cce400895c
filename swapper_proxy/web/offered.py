"""Names that only the config knows, where Ollama tells which models it has."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import quote

import msgspec

from swapper_proxy.core.names import canonical

Entry = dict[str, msgspec.Raw]
Edit = Callable[[bytes], bytes]

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
        answer = msgspec.json.decode(body, type=Entry)
        entries = msgspec.json.decode(answer[key], type=list[Entry] | None) or []
        known = {canonical(msgspec.json.decode(entry[fields[0]], type=str)): entry for entry in entries}
    except (msgspec.MsgspecError, KeyError):
        return body
    for name, meant in offered.items():
        entry = next((known[spelling] for spelling in map(canonical, meant) if spelling in known), None)
        if entry is not None and canonical(name) not in known:
            entries.append(entry | {field: _raw(name) for field in fields})
    return _encoded(answer | {key: _raw(entries)}, body)


def _reduced(body: bytes, key: str, field: str, may: Callable[[str], bool]) -> bytes:
    """Raises nothing that would let through what cannot be read: then the list is empty."""
    try:
        answer = msgspec.json.decode(body, type=Entry)
        entries = msgspec.json.decode(answer[key], type=list[Entry] | None) or []
        kept = [entry for entry in entries if may(msgspec.json.decode(entry[field], type=str))]
    except (msgspec.MsgspecError, KeyError):
        answer, kept = {}, []
    return _encoded(answer | {key: _raw(kept)}, body)


def _replaced(body: bytes, values: Mapping[str, object]) -> bytes:
    try:
        answer = msgspec.json.decode(body, type=Entry)
    except msgspec.MsgspecError:
        return body
    return _encoded(answer | {field: _raw(value) for field, value in values.items()}, body)


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _encoded(answer: Entry, before: bytes) -> bytes:
    """With the line end that it had."""
    return msgspec.json.encode(answer) + before[len(before.rstrip()) :]
