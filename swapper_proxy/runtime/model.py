"""A model that can be asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from swapper_proxy import config
from swapper_proxy.core.names import canonical, is_cloud
from swapper_proxy.core.types import Key, Priority, RunnerOption
from swapper_proxy.runtime.ports import Shown

GB = 1_000_000_000


@dataclass(frozen=True)
class Model:
    """A model that can be asked for.

    `name` is what the proxy calls it (the configured name, else Ollama's), `shown` is None while it is configured
    but not in Ollama.  `size` is bytes on disk, 0 if unknown.  `listed_remote` is None for what Ollama does not list.
    `digest` is that of its manifest, "" if unknown: a model that is made anew has another one.
    """

    name: str
    ollama_name: str
    configured: config.Model | None = None
    shown: Shown | None = None
    size: int = 0
    listed_remote: bool | None = None
    digest: str = ""

    @cached_property
    def runner(self) -> str:
        return (self.shown and self.shown.runner) or canonical(self.ollama_name)

    @cached_property
    def variant(self) -> str:
        """What tells it from the other models over the same weights, and from what its name meant before."""
        return f"{self.ollama_name}@{self.digest}"

    @cached_property
    def remote(self) -> bool:
        """Whether it runs on somebody else's machine."""
        listed = is_cloud(self.ollama_name) if self.listed_remote is None else self.listed_remote
        return listed or bool(self.shown and self.shown.remote)

    @property
    def size_gb(self) -> float | None:
        if self.configured is not None and self.configured.size_gb is not None:
            return self.configured.size_gb
        return round(self.size / GB, 3) if self.size else None

    @property
    def type(self) -> str:
        """The configured type, else what Ollama's capabilities say: "embedding" or "llm"."""
        if self.configured is not None:
            return self.configured.type
        return "embedding" if self.embedding_only else "llm"

    @cached_property
    def priority(self) -> Priority:
        return Priority(self.configured.priority) if self.configured else Priority.MEDIUM

    @property
    def embedding_only(self) -> bool:
        capabilities = self.shown.capabilities if self.shown else None
        return capabilities is not None and "embedding" in capabilities and "completion" not in capabilities

    def key(self, options: Mapping[str, RunnerOption]) -> Key:
        """The key of a request for this model with these runner options."""
        return Key.of(self.runner, self._own_options, options) if options else self._own_key

    @cached_property
    def _own_key(self) -> Key:
        return Key.of(self.runner, self._own_options, {})

    @property
    def _own_options(self) -> Mapping[str, RunnerOption]:
        return self.shown.runner_options if self.shown else {}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name that a client uses means, as far as it is known without asking Ollama.

    `spelling` is the canonical Ollama name; `alias` the Ollama name to send instead, if the name is one that only the
    config knows; `model` the configured or installed model.  `denied`: the config keeps the name from being used.
    """

    spelling: str
    alias: str | None
    model: Model | None
    denied: bool

    @property
    def elsewhere(self) -> bool:
        """Whether it is known to be of a model that runs on somebody else's machine."""
        return self.model.remote if self.model else is_cloud(self.spelling)


@dataclass(slots=True)
class Demand:
    """What a request asks of a model; `client` is the name of its key, "" without one."""

    model: Model
    options: dict[str, RunnerOption]
    keep_alive: int | float | str | None = None
    ttl_s: float | None = None
    priority: Priority = Priority.MEDIUM
    client: str = ""
