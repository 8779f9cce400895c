"""A model that can be asked for."""

from collections.abc import Mapping
from dataclasses import dataclass

from swapper_proxy import config
from swapper_proxy.core.names import canonical, is_cloud
from swapper_proxy.core.types import Key, Priority, RunnerOption
from swapper_proxy.runtime.ports import Shown

GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be asked for.

    `name` is what the proxy calls it (the configured name, else Ollama's), `shown` is None while it is configured
    but not in Ollama.  `size` is bytes on disk, 0 if unknown.  `listed_remote` is None for what Ollama does not list.
    """

    name: str
    ollama_name: str
    configured: config.Model | None = None
    shown: Shown | None = None
    size: int = 0
    listed_remote: bool | None = None

    @property
    def runner(self) -> str:
        return (self.shown and self.shown.runner) or canonical(self.ollama_name)

    @property
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

    @property
    def priority(self) -> Priority:
        return Priority(self.configured.priority) if self.configured else Priority.MEDIUM

    @property
    def embedding_only(self) -> bool:
        capabilities = self.shown.capabilities if self.shown else None
        return capabilities is not None and "embedding" in capabilities and "completion" not in capabilities

    def key(self, options: Mapping[str, RunnerOption]) -> Key:
        """The key of a request for this model with these runner options."""
        return Key.of(self.runner, self.shown.runner_options if self.shown else {}, options)
