"""The models a simulated Ollama has: found by any spelling, listed, shown, copied and deleted."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from types import MappingProxyType

from swapper_proxy.core import names

_HOST = r"[a-zA-Z0-9_][\w.:-]{0,349}"
_NAMESPACE = r"\w[\w-]{0,79}"
_PART = r"\w[\w.-]{0,79}"
_VALID = re.compile(rf"(?:https?://(?={_HOST}/))?(?:(?:{_HOST}/)?{_NAMESPACE}/)?{_PART}(?::{_PART})?", re.ASCII)


@dataclass(frozen=True)
class SimulatedModel:
    """One model.  `size` in bytes, `load_s` in seconds; a speed of 0 or less is as fast as it goes.

    Models with equal `weights` share one runner (default: the name, so none do).  `capabilities` are those beyond
    completion or embedding: `tools`, `thinking`, `vision`, `insert`, `audio`; one with `image` paints, and does nothing
    else.  One with a `remote_host` runs there, as `remote_model`, and takes no memory here.
    """

    name: str
    size: int = 1_000_000_000
    load_s: float = 1.0
    tokens_per_second: float = 50.0
    embedding_only: bool = False
    weights: str | None = None
    parameters: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    system: str = ""
    capabilities: tuple[str, ...] = ()
    remote_host: str = ""
    remote_model: str = ""
    parent: str = ""  # the model it was made of
    broken: bool = False  # its load ends in an error

    @property
    def paints(self) -> bool:
        return "image" in self.capabilities

    @property
    def remote(self) -> dict[str, str]:
        """How lists and answers tell where it runs."""
        return {"remote_model": self.remote_model, "remote_host": self.remote_host} if self.remote_host else {}

    @property
    def full_name(self) -> str:
        """With its tag, as lists show it."""
        return self.name if ":" in self.name.rpartition("/")[2] else f"{self.name}:latest"

    @property
    def blob(self) -> str:
        """The identity of its weights, and so of its runner."""
        return "sha256-" + sha256(names.canonical(self.weights or self.name).encode()).hexdigest()

    @property
    def digest(self) -> str:
        manifest = f"{self.blob}\n{sorted(self.parameters.items())}\n{self.system}"
        return sha256(manifest.encode()).hexdigest()

    @property
    def all_capabilities(self) -> tuple[str, ...]:
        if self.paints:
            return self.capabilities
        return ("embedding" if self.embedding_only else "completion", *self.capabilities)

    def named(self, name: str) -> "SimulatedModel":
        """The same weights under another name."""
        return replace(self, name=name, weights=self.weights or self.name)

    def details(self, parent: str = "") -> dict[str, object]:
        return {
            "parent_model": parent,
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": f"{self.size / 2e9:.1f}B",
            "quantization_level": "F16",
        }


def is_valid(name: str) -> bool:
    """Whether Ollama takes it for a model name at all."""
    return _VALID.fullmatch(name) is not None


class Catalogue:
    """Models by name, in any spelling."""

    def __init__(self, models: Iterable[SimulatedModel]) -> None:
        self._models = {names.canonical(model.name): model for model in models}
        self._modified = datetime.now(UTC)

    def find(self, name: str) -> SimulatedModel | None:
        if not is_valid(name):
            return None
        return self._models.get(names.canonical(name.removeprefix("https://").removeprefix("http://")))

    def find_exact(self, name: str) -> SimulatedModel | None:
        """As the legacy /api/embeddings looks: by the defaults, but not in another case."""
        return self.find(name) if name == name.lower() else None

    def add(self, model: SimulatedModel) -> None:
        self._models[names.canonical(model.name)] = model

    def delete(self, model: SimulatedModel) -> None:
        self._models.pop(names.canonical(model.name), None)

    def __iter__(self) -> Iterator[SimulatedModel]:
        return iter(self._models.values())

    def tags(self) -> dict[str, object]:
        return {"models": [self._tag(model) for model in self._models.values()]}

    def _tag(self, model: SimulatedModel) -> dict[str, object]:
        return {
            "name": model.full_name,
            "model": model.full_name,
            **model.remote,
            "modified_at": stamp(self._modified),
            "size": model.size,
            "digest": model.digest,
            "details": model.details(),
        }

    def show(self, model: SimulatedModel) -> dict[str, object]:
        path = f"/usr/share/ollama/.ollama/models/blobs/{model.blob}"
        shown: dict[str, object] = {"modelfile": _modelfile(model, path)}
        if model.parameters:
            shown["parameters"] = "\n".join(f"{name:<30} {_written(model, name)}" for name in sorted(model.parameters))
        shown["template"] = "{{ .Prompt }}"
        if model.system:
            shown["system"] = model.system
        shown["details"] = model.details(model.parent or ("" if model.remote else path))
        shown.update(model.remote)
        shown["model_info"] = {"general.architecture": "llama", "llama.context_length": 131072}
        shown["capabilities"] = list(model.all_capabilities)
        shown["modified_at"] = stamp(self._modified)
        return shown

    def openai(self, name: str) -> dict[str, object]:
        """An entry of /v1/models."""
        return {"id": name, "object": "model", "created": int(self._modified.timestamp()), "owned_by": "library"}


def _modelfile(model: SimulatedModel, path: str) -> str:
    head = '# Modelfile generated by "ollama show"\n# To build a new Modelfile based on this, replace FROM with:\n'
    system = f"SYSTEM {model.system}\n" if model.system else ""
    parameters = "".join(f"PARAMETER {name} {_written(model, name)}\n" for name in sorted(model.parameters))
    source = model.remote_model or path
    return f"{head}# FROM {model.full_name}\n\nFROM {source}\nTEMPLATE {{{{ .Prompt }}}}\n{system}{parameters}"


def _written(model: SimulatedModel, parameter: str) -> str:
    value = model.parameters[parameter]
    return str(value).lower() if isinstance(value, bool) else str(value)


def stamp(moment: datetime) -> str:
    """RFC 3339 in UTC with nanoseconds, as Go writes it."""
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}000Z"
