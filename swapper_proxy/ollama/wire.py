"""What Ollama says about itself, as far as the proxy reads it.

1. An answer that is no list of models, no object, or tells no version does not come from Ollama: reading it raises.
2. All else is read field by field.  A field of a wrong type, or with a value beyond all sense, counts as absent.
3. An entry of a list without a usable name is left out; the others stay.
"""

import math
from functools import cache
from itertools import islice
from typing import Annotated, Any, TypeVar

import msgspec

from swapper_proxy.core.names import is_plausible
from swapper_proxy.core.types import FLOATS, INTEGERS, RUNNER_OPTIONS, RunnerOption

# Models that are read of a list.  Nobody has so many, and each takes a few lines of /metrics.
MOST_MODELS = 10_000
MOST_TEXT = 4096  # characters of a digest, a date, a host, the names of the blobs of a runner
# A petabyte: what says more of its size does not know it.
Size = Annotated[int, msgspec.Meta(ge=0, le=2**50)]
Text = Annotated[str, msgspec.Meta(max_length=MOST_TEXT)]

# What cannot be read raises one of these; the latter where arrays or objects are nested without end.
UNREADABLE = (msgspec.MsgspecError, RecursionError)

# Of layers, heads, widths and tokens of context no model has more.
MOST_COUNT = 1 << 30


class TagEntry(msgspec.Struct):
    """An entry of /api/tags; `size` is bytes on disk, `remote_host` is set for models that run elsewhere."""

    name: Text = ""
    size: Size = 0
    digest: Text = ""
    modified_at: Text = ""
    remote_host: Text = ""


class PsEntry(msgspec.Struct):
    """An entry of /api/ps; sizes are bytes, `size_vram` the part on the GPU, `expires_at` is only compared."""

    name: Text = ""
    size: Size = 0
    size_vram: Size = 0
    digest: Text = ""
    expires_at: Text = ""


class Show(msgspec.Struct):
    """/api/show of one model."""

    modelfile: str = ""
    parameters: str = ""
    modified_at: Text = ""
    capabilities: list[Text] | None = None
    remote_host: Text = ""
    model_info: Any = None

    @property
    def context(self) -> tuple[int, int]:
        """Bytes of memory for a token of context and the longest context of the model; 0: unknown.

        As Ollama 0.9.3 reckons (fs/ggml, GraphSize): keys and values of 2 bytes in every layer, and the attention of a
        batch of 512 tokens in 4 bytes.  Newer ones may take less for the second.
        """
        info = self.model_info if isinstance(self.model_info, dict) else {}
        prefix = f"{info.get('general.architecture')}."
        layers, width, heads, longest = (
            _count(info.get(prefix + name))
            for name in ("block_count", "embedding_length", "attention.head_count", "context_length")
        )
        of_layers = info.get(prefix + "attention.head_count_kv", heads)  # one number, or one for each layer
        in_all = sum(_counts(of_layers)) if isinstance(of_layers, list) else _count(of_layers) * layers
        key = _count(info.get(prefix + "attention.key_length")) or width // max(1, heads)
        value = _count(info.get(prefix + "attention.value_length")) or key
        if not (in_all and heads and key):
            return 0, longest
        return 2 * in_all * (key + value) + 4 * (512 * (1 + heads) + key * _count(of_layers)), longest

    @property
    def runner(self) -> str:
        """Weights, adapters and projectors: what identifies a runner.

        Empty if the modelfile names none, or if Ollama will not run the model: its failures are not those of others
        that are made of the same.  Ollama writes these first.  All that follows may be what people wrote, in blocks
        whose quotes it does not escape: any line of that may look like one of these.
        """
        parts = []
        for line in self.modelfile.splitlines():
            command, *argument = line.split(maxsplit=1)[:2] or ("#",)
            if command.upper() in ("FROM", "ADAPTER", "DRAFT"):
                parts += [text.rpartition("/")[2].rpartition("\\")[2] for text in argument]
            elif not command.startswith("#"):
                break
        runner = " ".join(parts)
        return "" if self.wrong_parameters or len(runner) > MOST_TEXT else runner

    @property
    def runner_options(self) -> dict[str, RunnerOption]:
        """The PARAMETERs of the Modelfile that decide about reloads, as far as they can be read."""
        found = ((name, _option(name, text)) for name, text in self._parameters if name in RUNNER_OPTIONS)
        return {name: value for name, value in found if value is not None}

    @property
    def wrong_parameters(self) -> list[str]:
        """The PARAMETERs with a value that Ollama takes when the model is made, and refuses when it is to run."""
        return [f"{name} {text}" for name, text in self._parameters if _is_wrong(name, text)]

    @property
    def _parameters(self) -> list[tuple[str, str]]:
        lines = (line.partition(" ") for line in self.parameters.splitlines())
        return [(name, text.strip()) for name, _, text in lines]


_NULL = "<nil>"  # which Ollama takes for left out
_BOOLEANS = {"true": True, "false": False}
_NUMBERS = INTEGERS | FLOATS


def _option(name: str, text: str) -> RunnerOption | None:
    """None if it is none, or a number that does not fit into Go's."""
    if name == "use_mmap":
        return _BOOLEANS.get(text)
    number = _number(text)
    return int(number) if abs(number) < 2**63 else None  # not of nan


def _is_wrong(name: str, text: str) -> bool:
    if text == _NULL:
        return False
    if name == "use_mmap":
        return text not in _BOOLEANS
    return name in _NUMBERS and math.isnan(_number(text))


def _number(text: str) -> float:
    """Not a number if it is none: texts are in quotes."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _count(value: object) -> int:
    """Return a count of a plausible size; 0 for anything else.  Of a list, one for each layer, the largest."""
    return max(_counts(value if isinstance(value, list) else [value]), default=0)


def _counts(values: list[object]) -> list[int]:
    """Return each number of a plausible size, and 0 for anything else, a list included."""
    return [value if isinstance(value, int) and 0 <= value <= MOST_COUNT else 0 for value in values]


class _Version(msgspec.Struct):
    version: str


class _Models(msgspec.Struct):
    models: list[msgspec.Raw] | None


_decoder = cache(msgspec.json.Decoder)
Listed = TypeVar("Listed", TagEntry, PsEntry)
Told = TypeVar("Told", TagEntry, PsEntry, Show)


def version(answer: bytes) -> str:
    """Of /api/version.  Raises what is UNREADABLE, as the others below."""
    told: _Version = _decoder(_Version).decode(answer)
    return told.version


def tags(answer: bytes) -> tuple[list[TagEntry], int]:
    """The entries of /api/tags, and how many were left out."""
    return _entries(answer, TagEntry)


def ps(answer: bytes) -> tuple[list[PsEntry], int]:
    """The same of /api/ps."""
    return _entries(answer, PsEntry)


def show(answer: bytes) -> Show:
    """Of /api/show."""
    return _told(answer, Show)


def anything(answer: bytes) -> None:
    """Of a load or an unload, whose answer only has to be JSON."""
    _decoder(msgspec.Raw).decode(answer)


def _entries(answer: bytes, kind: type[Listed]) -> tuple[list[Listed], int]:
    listed: list[msgspec.Raw] = _decoder(_Models).decode(answer).models or []
    usable = [entry for raw in islice(listed, MOST_MODELS) if (entry := _entry(raw, kind)) is not None]
    return usable, len(listed) - len(usable)


def _entry(raw: msgspec.Raw, kind: type[Listed]) -> Listed | None:
    try:
        entry = _told(raw, kind)
    except UNREADABLE:
        return None
    return entry if entry.name and is_plausible(entry.name) else None


def _told(raw: bytes | msgspec.Raw, kind: type[Told]) -> Told:
    """All fields at once where they are as they should be, else each by itself."""
    try:
        told: Told = _decoder(kind).decode(raw)
    except UNREADABLE:
        fields: dict[str, msgspec.Raw] = _decoder(dict[str, msgspec.Raw]).decode(raw)
        readable = {f.name: _value(fields[f.name], f.type) for f in msgspec.structs.fields(kind) if f.name in fields}
        told = kind(**{name: value for name, value in readable.items() if value is not None})
    return told


def _value(raw: msgspec.Raw, kind: Any) -> Any:
    """None if it is of another kind."""
    try:
        return _decoder(kind).decode(raw)
    except UNREADABLE:
        return None
