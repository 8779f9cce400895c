"""What the config says of models: their names, and how they are to be treated."""

from collections.abc import Mapping
from typing import Literal

from swapper_proxy import config
from swapper_proxy.config.keep_alive import STAY_S, KeepAlive
from swapper_proxy.core.names import canonical
from swapper_proxy.core.types import RunnerOption
from swapper_proxy.runtime.model import Model
from swapper_proxy.runtime.ports import LoadSpec

# The swap timeout where none is configured: a base, and what reading a GB from a slow disk takes.
SWAP_TIMEOUT_BASE_S = 30.0
SWAP_TIMEOUT_PER_GB_S = 2.0
# Ollama's default where neither the config nor OLLAMA_NUM_PARALLEL says otherwise (assumed).
ASSUMED_PARALLEL = 4

Source = Literal["config", "OLLAMA_NUM_PARALLEL", "assumed"]


class Treatment:
    """Of one reading of the config; only the pins can change, by hand.  Names are canonical Ollama names."""

    def __init__(self, settings: config.Settings) -> None:
        self._swapper = settings.swapper
        self._num_parallel = settings.ollama_num_parallel
        self.configured = {canonical(m.ollama_name): (name, m) for name, m in settings.models.items()}
        self.aliases = {canonical(name): canonical(m.ollama_name) for name, m in settings.models.items()}
        self.routes = {canonical(name): rules for name, rules in settings.routes.items()}
        self.exposed = (*settings.models, *settings.routes) if settings.swapper.expose_aliases else ()
        self.pinned = dict.fromkeys(canonical(m.ollama_name) for m in settings.models.values() if m.pinned)

    def is_denied(self, spelling: str) -> bool:
        """Whether the model may not be used, because it is not configured."""
        return self._swapper.unlisted_models == "deny" and spelling not in self.configured

    def names(self, spelling: str) -> tuple[str, ...]:
        """The canonical names of the model that Ollama knows by this one: this, and that of the settings."""
        configured = self.configured.get(spelling)
        return (spelling, canonical(configured[0])) if configured else (spelling,)

    def parallel(self, model: Model) -> tuple[int, Source]:
        """The limit of requests at once, and where it comes from."""
        own = model.configured.parallel if model.configured else None
        if limit := own or self._swapper.parallel:
            return limit, "config"
        if self._num_parallel:
            return self._num_parallel, "OLLAMA_NUM_PARALLEL"
        return ASSUMED_PARALLEL, "assumed"

    def swap_timeout_s(self, model: Model) -> float:
        if self._swapper.model_swap_timeout is not None:
            return self._swapper.model_swap_timeout
        reading_s = SWAP_TIMEOUT_PER_GB_S * (model.size_gb or 0)  # by a size that Ollama told, which may be absurd
        return SWAP_TIMEOUT_BASE_S + min(reading_s, self._swapper.load_stall_timeout)

    @property
    def keep_alive_fixed(self) -> bool:
        """Whether clients have no say in how long a model stays."""
        return self._swapper.ignore_client_keep_alive

    @property
    def priority_header(self) -> Literal["ignore", "lower", "any"]:
        """What X-Swapper-Priority may do against a model's own priority."""
        return self._swapper.priority_header

    def options(self, model: Model, asked: Mapping[str, RunnerOption]) -> dict[str, RunnerOption]:
        """The runner options that hold for a request with these; none asked for: for a load by itself."""
        policy = model.configured.runner_options if model.configured else None
        if policy is None or policy.policy == "pass":
            return {**asked}
        return {} if policy.policy == "strip" else {**asked, **policy.values}

    def keep_alive(self, model: Model, asked: KeepAlive | None, *, pinned: bool) -> KeepAlive | None:
        """The keep_alive that holds for a request with this one; None leaves it to Ollama.

        1. A pinned model stays: Ollama keeps it until the proxy tells it so again.  2. The client's.  3. The model's
        own.  4. The default model stays, if it comes back by itself (`default_after`).  5. The one for all.
        """
        if pinned:
            return STAY_S
        if asked is not None and not self.keep_alive_fixed:
            return asked
        return STAY_S if self.stays_by_default(model) else self.usual_keep_alive(model)

    def usual_keep_alive(self, model: Model) -> KeepAlive | None:
        """That of a model that need not stay, and of which no client says how long."""
        own = model.configured.keep_alive if model.configured else None
        return self._swapper.keep_alive if own is None else own

    def stays_by_default(self, model: Model) -> bool:
        """Return True for the default model if it comes back by itself and has no `keep_alive` of its own."""
        own = model.configured.keep_alive if model.configured else None
        comes_back = self._swapper.default_after is not None and model.name == self._swapper.default_model
        return comes_back and own is None

    def load_spec(self, model: Model, options: Mapping[str, RunnerOption], keep_alive: KeepAlive | None) -> LoadSpec:
        """How to load it with these options."""
        options = options if self._swapper.gpu else {"num_gpu": 0, **options}
        return LoadSpec(model.ollama_name, options, keep_alive, model.embedding_only)
