"""The models there are: those that Ollama has, those that the config names, and what is known of each."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from swapper_proxy import config
from swapper_proxy.config.keep_alive import FOREVER, KeepAlive, divided
from swapper_proxy.core.names import canonical, is_cloud
from swapper_proxy.core.types import Key, Priority, Profile, RunnerOption
from swapper_proxy.runtime.ports import Control, Installed, LoadSpec, Shown, UpstreamRefused

# A name that Ollama did not know is not asked for again so soon, however many clients ask.
UNKNOWN_FOR_S = 1.0
# The swap timeout where none is configured: a base, and what reading a GB from a slow disk takes.
SWAP_TIMEOUT_BASE_S = 30.0
SWAP_TIMEOUT_PER_GB_S = 2.0
# Ollama's default where neither the config nor OLLAMA_NUM_PARALLEL says otherwise (assumed).
ASSUMED_PARALLEL = 4
GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be asked for.

    `name` is what the proxy calls it (the configured name, else Ollama's), `shown` is None while it is configured
    but not in Ollama.  `size` is bytes on disk, 0 if unknown.
    """

    name: str
    ollama_name: str
    configured: config.Model | None = None
    shown: Shown | None = None
    size: int = 0

    @property
    def runner(self) -> str:
        return (self.shown and self.shown.runner) or canonical(self.ollama_name)

    @property
    def remote(self) -> bool:
        return is_cloud(self.ollama_name) or bool(self.shown and self.shown.remote)

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


class Catalog:
    """Names to models.  What Ollama has is asked anew when `refresh` finds another digest, or after `forget`."""

    def __init__(self, control: Control, settings: config.Settings) -> None:
        self._control = control
        self._swapper = settings.swapper
        self._num_parallel = settings.ollama_num_parallel
        self._configured = {canonical(m.ollama_name): (name, m) for name, m in settings.models.items()}
        self._aliases = {canonical(name): canonical(m.ollama_name) for name, m in settings.models.items()}
        self._pinned = [canonical(m.ollama_name) for m in settings.models.values() if m.pinned]
        self._installed: dict[str, Installed] = {}
        self._models: dict[str, Model] = {}
        self._last: dict[str, Model] = {}  # as last seen, for what is loaded but no longer there
        self._asking: dict[str, asyncio.Future[Model | None]] = {}
        self._unknown: dict[str, float] = {}
        self._in_memory: dict[str, int] = {}  # bytes that a runner was seen to take

    # Reading

    async def resolve(self, name: str) -> Model | None:
        """The model a client means by this name, None if Ollama would not know it (or it may not be used).

        Raises UpstreamUnreachable.
        """
        asked = canonical(name)
        spelling = self._aliases.get(asked, asked)
        if self.denied(name):
            return None
        return await self.find(spelling)

    def denied(self, name: str) -> bool:
        """Whether the config keeps this name from being used."""
        spelling = self._aliases.get(canonical(name), canonical(name))
        return self._swapper.unlisted_models == "deny" and spelling not in self._configured

    def alias(self, name: str) -> str | None:
        """The Ollama name to send instead, if the name is one that only the config knows."""
        spelling = self._aliases.get(canonical(name))
        if spelling is None or spelling == canonical(name):
            return None
        return self._configured[spelling][1].ollama_name

    async def find(self, spelling: str) -> Model | None:
        """The installed model of this canonical name: known already, or asked for once for all who want it."""
        if model := self._models.get(spelling):
            return model
        if time.monotonic() < self._unknown.get(spelling, 0):
            return None
        asking = self._asking.get(spelling)
        if asking is None:
            asking = self._asking[spelling] = asyncio.ensure_future(self._ask(spelling))
            asking.add_done_callback(lambda done: self._asked(spelling, done))
        return await asyncio.shield(asking)

    def _asked(self, spelling: str, done: asyncio.Future[Model | None]) -> None:
        del self._asking[spelling]
        if not done.cancelled():
            done.exception()  # those who asked may all have left: then nobody else looks at it

    async def find_running(self, ollama_name: str) -> Model | None:
        """The model that /api/ps means; None if it was deleted while it is loaded.  Raises UpstreamUnreachable."""
        return await self.find(canonical(ollama_name))

    def models(self) -> list[Model]:
        """The configured ones in their order, then the others that Ollama has."""
        names = [*self._configured, *(n for n in self._installed if n not in self._configured)]
        return [self._known(name) for name in names]

    def by_name(self, name: str) -> Model | None:
        """A configured or installed model, by any of its spellings, without asking Ollama."""
        spelling = self._aliases.get(canonical(name), canonical(name))
        if spelling not in self._configured and spelling not in self._installed:
            return None
        return self._known(spelling)

    def is_installed(self, model: Model) -> bool:
        return canonical(model.ollama_name) in self._installed

    def serving(self, runner: str) -> list[Model]:
        """The models that this runner serves."""
        return [model for model in self._models.values() if model.runner == runner]

    # What the scheduler is told of a model

    def profile(self, model: Model, key: Key) -> Profile:
        """How this key of the model is to be treated."""
        return Profile(
            parallel=self._parallel(model)[0],
            swap_timeout_s=self._swap_timeout(model),
            size_gb=self.size_gb(model),
            slot=model.type,
            pinned=any(key.served_by(pinned) for pinned in self._pinned_keys(model)),
            max_queue=model.configured.max_queue if model.configured else None,
        )

    def size_gb(self, model: Model) -> float | None:
        """Memory that the model takes: as configured, else as measured, else as on disk."""
        measured = self._in_memory.get(model.runner)
        if measured is None or (model.configured and model.configured.size_gb is not None):
            return model.size_gb
        return round(measured / GB, 3)

    def measured(self, model: Model, size: int) -> None:
        """/api/ps shows this model with so many bytes: remembered for all that its runner serves."""
        if size > 0:
            self._in_memory[model.runner] = size

    def is_pinned(self, model: Model) -> bool:
        """Whether this or another model of the same runner is pinned."""
        return bool(self._pinned_keys(model))

    def _pinned_keys(self, model: Model) -> list[Key]:
        """The keys of its runner that are pinned: those with the options that the config or the Modelfile gives."""
        pinned = (self._known(name) for name in self._pinned)
        return [self.own_key(other) for other in pinned if other.runner == model.runner]

    def own_key(self, model: Model) -> Key:
        """The key of the model when nobody asks for other options."""
        return model.key(self.options(model, {}))

    def parallel_source(self, model: Model) -> Literal["config", "OLLAMA_NUM_PARALLEL", "assumed"]:
        """Where the limit of requests at once comes from."""
        return self._parallel(model)[1]

    def _parallel(self, model: Model) -> tuple[int, Literal["config", "OLLAMA_NUM_PARALLEL", "assumed"]]:
        own = model.configured.parallel if model.configured else None
        if limit := own or self._swapper.parallel:
            return limit, "config"
        if self._num_parallel:
            return self._num_parallel, "OLLAMA_NUM_PARALLEL"
        return ASSUMED_PARALLEL, "assumed"

    def _swap_timeout(self, model: Model) -> float:
        if self._swapper.model_swap_timeout is not None:
            return self._swapper.model_swap_timeout
        return SWAP_TIMEOUT_BASE_S + SWAP_TIMEOUT_PER_GB_S * (model.size_gb or 0)

    # What the config makes of a request

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
        policy = model.configured.runner_options if model.configured else config.RunnerOptions()
        if policy.policy == "strip":
            return {}
        return {**asked, **policy.values}

    def keep_alive(self, model: Model, asked: KeepAlive | None) -> KeepAlive | None:
        """The keep_alive that holds for a request with this one; None leaves it to Ollama.

        1. A pinned model stays.  2. The client's.  3. The model's own.  4. The default model stays, if it comes back
        by itself (`default_after`).  5. The one for all.
        """
        if self.is_pinned(model):
            return FOREVER
        if asked is not None and not self.keep_alive_fixed:
            return asked
        if model.configured is not None and model.configured.keep_alive is not None:
            return model.configured.keep_alive
        return FOREVER if self._comes_back(model) else self._swapper.keep_alive

    def ttl_s(self, model: Model) -> float | None:
        """The idle time to live that the config gives it, as the scheduler keeps it."""
        return divided(self.keep_alive(model, None))[1]

    def _comes_back(self, model: Model) -> bool:
        return self._swapper.default_after is not None and model.name == self._swapper.default_model

    def load_spec(
        self, model: Model, options: Mapping[str, RunnerOption], keep_alive: KeepAlive | None = None
    ) -> LoadSpec:
        """How to load it; `keep_alive` is what the request that needs it sends, if any."""
        options = options if self._swapper.gpu else {"num_gpu": 0, **options}
        own = model.configured.keep_alive if model.configured else None
        if self.is_pinned(model) or (own is None and self._comes_back(model)):
            keep_alive = FOREVER
        elif keep_alive is None:
            keep_alive, _ = divided(self.keep_alive(model, None))
        return LoadSpec(model.ollama_name, options, keep_alive, model.embedding_only)

    # Following Ollama

    async def refresh(self) -> None:
        """Ask what is installed; forget what changed or went.  Raises UpstreamUnreachable, UpstreamRefused."""
        await self._refresh()
        for name in self._pinned:  # so that other names of their runners are known to be pinned too
            if name in self._installed:
                await self.find(name)

    async def _refresh(self) -> None:
        installed = {canonical(entry.name): entry for entry in await self._control.installed()}
        for name, before in self._installed.items():
            after = installed.get(name)
            if after is None or after.digest != before.digest:
                self._models.pop(name, None)
        self._installed = installed

    def forget(self) -> None:
        """Somebody created, copied, pulled or deleted a model: ask again for all."""
        self._models.clear()
        self._unknown.clear()

    async def _ask(self, spelling: str) -> Model | None:
        name, ollama_name, configured = self._named(spelling)
        try:
            shown = await self._control.show(ollama_name)
        except UpstreamRefused:
            now = time.monotonic()
            self._unknown = {n: until for n, until in self._unknown.items() if until > now}
            self._unknown[spelling] = now + UNKNOWN_FOR_S
            return None
        if spelling not in self._installed:
            with contextlib.suppress(UpstreamRefused):
                await self._refresh()
        entry = self._installed.get(spelling)
        model = Model(name, ollama_name, configured, shown, entry.size if entry else 0)
        if entry is not None:
            self._models[spelling] = self._last[spelling] = model
        return model

    def _named(self, spelling: str) -> tuple[str, str, config.Model | None]:
        if spelling in self._configured:
            name, configured = self._configured[spelling]
            return name, configured.ollama_name, configured
        entry = self._installed.get(spelling)
        ollama_name = entry.name if entry else spelling
        return ollama_name, ollama_name, None

    def _known(self, spelling: str) -> Model:
        return self._models.get(spelling) or self._last.get(spelling) or self._unasked(spelling)

    def _unasked(self, spelling: str) -> Model:
        name, ollama_name, configured = self._named(spelling)
        entry = self._installed.get(spelling)
        return Model(name, ollama_name, configured, size=entry.size if entry else 0)
