"""The models there are: those that Ollama has, those that the config names, and what is known of each."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

from swapper_proxy import config
from swapper_proxy.core.names import canonical, is_cloud
from swapper_proxy.core.types import Key, Profile, RunnerOption
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
        self._configured = {canonical(m.ollama_name): (name, m) for name, m in settings.models.items()}
        self._aliases = {canonical(name): canonical(m.ollama_name) for name, m in settings.models.items()}
        self._installed: dict[str, Installed] = {}
        self._models: dict[str, Model] = {}
        self._last: dict[str, Model] = {}  # as last seen, for what is loaded but no longer there
        self._asking: dict[str, asyncio.Future[Model | None]] = {}
        self._unknown: dict[str, float] = {}

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
        """The model that /api/ps means; also when it was deleted or made anew while it is loaded."""
        spelling = canonical(ollama_name)
        return self._last.get(spelling) or await self.find(spelling)

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

    def profile(self, model: Model) -> Profile:
        return Profile(self._parallel(model), self._swap_timeout(model))

    def load_spec(
        self, model: Model, options: Mapping[str, RunnerOption], keep_alive: int | float | str | None
    ) -> LoadSpec:
        gpu = self._swapper.gpu_enabled and self._swapper.metal_acceleration
        options = options if gpu else {"num_gpu": 0, **options}
        return LoadSpec(model.ollama_name, options, keep_alive, model.embedding_only)

    def _parallel(self, model: Model) -> int:
        own = model.configured.parallel if model.configured else None
        return own or self._swapper.parallel or ASSUMED_PARALLEL

    def _swap_timeout(self, model: Model) -> float:
        if self._swapper.model_swap_timeout is not None:
            return self._swapper.model_swap_timeout
        return SWAP_TIMEOUT_BASE_S + SWAP_TIMEOUT_PER_GB_S * (model.size_gb or 0)

    # Following Ollama

    async def refresh(self) -> None:
        """Ask what is installed; forget what changed or went.  Raises UpstreamUnreachable, UpstreamRefused."""
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
                await self.refresh()
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
