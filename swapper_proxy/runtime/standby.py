"""What is in memory without anybody asking: the models loaded at start, and the default model after a while."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Self

from swapper_proxy.config import Settings
from swapper_proxy.config.keep_alive import STAY_S, KeepAlive, divided
from swapper_proxy.core.errors import Rejected
from swapper_proxy.core.types import Cause, Priority
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.model import Model
from swapper_proxy.runtime.ports import UpstreamRefused, UpstreamUnreachable

log = logging.getLogger(__name__)

# How often is looked whether the pinned models are there; after a failure less and less often.
KEEP_FIRST_S = 5.0
KEEP_MOST_S = 60.0
# How often Ollama is told to go on keeping what stays: some times within STAY_S, since one of them may fail.
RENEW_S = STAY_S / 5

# What Ollama gives a model that nobody gives a time, unless its OLLAMA_KEEP_ALIVE says otherwise.  It has to be told: a
# call without a time leaves a runner the one it has.
OLLAMA_KEEP_ALIVE = "5m"
KEEP_TIMEOUT_S = 5.0  # of telling it, which takes no time if the model is there


class Standby:
    """A background task; `async with` it.  Its loads wait like everybody's, with the lowest priority."""

    def __init__(self, settings: Settings, catalog: Catalog, engine: Engine) -> None:
        self._catalog = catalog
        self._engine = engine
        self._staying: dict[str, Model] = {}  # by runner: what Ollama was told to keep
        self._renewed_at = -math.inf  # on the engine's clock; reading the configuration anew does not change it
        self._want(settings)
        self._missing = self._at_start

    def _want(self, settings: Settings) -> None:
        self._swapper = settings.swapper
        pinned = [name for name, model in settings.models.items() if model.pinned]
        wanted = [*pinned, *(name for name, m in settings.models.items() if m.preload and not m.pinned)]
        default = settings.swapper.default_model
        self._at_start = wanted if default is None or default in wanted else [*wanted, default]

    async def __aenter__(self) -> Self:
        self._renewed_at = self._engine.now
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def configure(self, settings: Settings) -> None:
        """Other settings hold from now on.

        The pinned models are asked for; what is only for a start as far as it was not loaded since the last one.
        """
        await self.__aexit__()
        self._want(settings)
        missing = self._missing if self._engine.reachable else self._at_start
        self._missing = [name for name in self._at_start if name in missing or settings.models[name].pinned]
        await self._let_go_of_others()
        self._task = asyncio.create_task(self._run())

    async def pin(self, model: Model) -> None:
        """Load the model and keep it until the proxy starts again.  If this raises an error, it is not pinned."""
        was_pinned, treatment = self._catalog.is_pinned(model), self._catalog.treatment
        self._pin(model, True)
        try:
            await self._load_to_stay(model, Priority.HIGH, Cause.MANUAL)
        except Exception:
            if self._catalog.treatment is treatment:  # else the pins are those of another configuration
                self._pin(model, was_pinned)
            raise

    async def unpin(self, model: Model) -> None:
        """It may go again, when another needs its room or a time to live is over."""
        self._catalog.pin(model, False)
        await self._let_go(model)  # while it surely stays: else it might be loaded anew
        self._engine.treat_afresh()

    async def hand_back(self) -> None:
        """The proxy goes: what stays only because of it gets the time that it would have without.

        To be called when no load is under way any more.  All at once: Ollama may be frozen.
        """
        await asyncio.gather(*map(self._let_go, (self._staying | self._here_to_stay()).values()))

    async def _load_to_stay(self, model: Model, priority: Priority, cause: Cause) -> None:
        """Raises Rejected.  With the load Ollama is told to keep it: that counts also if nobody waits for its end."""
        if self._stays(model) and not self._engine.holds(model.runner):
            self._staying[model.runner] = model
        await self._engine.load(model, priority, cause)
        await self._have_it_stay(model)

    async def _have_it_stay(self, model: Model) -> None:
        """Unless Ollama was told so: what was there before the proxy, or before the pin, has a time to live."""
        if self._stays(model) and model.runner not in self._staying and await self._keep(model, STAY_S):
            self._staying[model.runner] = model

    def _stays(self, model: Model) -> bool:
        return self._catalog.is_pinned(model) or self._catalog.treatment.stays_by_default(model)

    def _here_to_stay(self) -> dict[str, Model]:
        """By runner: what is in memory, or on its way in or out, and stays there because of the proxy.

        Of several names of one the pinned one counts: it may have a `keep_alive` of its own.
        """
        there = [self._catalog.serving(r.key.runner) for r in self._engine.residencies() if r.occupies]
        staying = [model for serving in there for model in reversed(serving) if self._stays(model)]
        staying.sort(key=lambda model: self._catalog.is_pinned_name(model.ollama_name))
        return {model.runner: model for model in staying}

    async def _let_go_of_others(self) -> None:
        """Of what was told to stay and need not any more."""
        staying = self._staying.items()
        gone = [model for runner, model in staying if not any(map(self._stays, self._catalog.serving(runner)))]
        await asyncio.gather(*map(self._let_go, gone))

    async def _let_go(self, model: Model) -> None:
        """Later, if it is on its way in."""
        keep_alive, _ = divided(self._catalog.treatment.usual_keep_alive(model))
        if await self._keep(model, OLLAMA_KEEP_ALIVE if keep_alive is None else keep_alive):
            self._staying.pop(model.runner, None)

    def _pin(self, model: Model, pinned: bool) -> None:
        self._catalog.pin(model, pinned)
        self._engine.treat_afresh()

    async def _keep(self, model: Model, keep_alive: KeepAlive) -> bool:
        """Whether that is done with: also if it failed."""
        try:
            async with asyncio.timeout(KEEP_TIMEOUT_S):
                return await self._engine.keep(model, keep_alive)
        except (UpstreamUnreachable, UpstreamRefused, TimeoutError) as error:
            log.warning("Ollama was not told how long to keep it: %s", error, extra={"model": model.name})
            return True
        except Exception:  # a bug here must not keep the others from it
            log.exception("Ollama was not told how long to keep it", extra={"model": model.name})
            return True

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for watch in (self._load_missing, self._keep_pinned, self._renew, self._bring_back_the_default):
                tasks.create_task(self._go_on(watch))

    async def _go_on(self, watch: Callable[[], Awaitable[None]]) -> None:
        """Begin the watch again if a bug ends it: nobody else would load or keep anything."""
        while True:
            try:
                return await watch()
            except Exception:
                log.exception("the watch over what is in memory failed, and goes on")
                await asyncio.sleep(KEEP_FIRST_S)

    async def _load_missing(self) -> None:
        """These now; and whenever Ollama starts, which may be after the proxy, what is to be there at the start."""
        while True:
            await self._engine.ollama.up.wait()
            falls = self._engine.ollama.falls
            while self._missing:
                await self._load(self._missing[0], Cause.PRELOAD)
                self._missing = self._missing[1:]
            if self._engine.ollama.falls == falls:  # else it went and came back meanwhile
                await self._engine.ollama.down.wait()
            self._staying.clear()
            self._missing = self._at_start

    async def _keep_pinned(self) -> None:
        """Ollama may have been away for a moment, or somebody unloaded one there."""
        pause_s = KEEP_FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            await self._engine.ollama.up.wait()
            there = [await self._load(name, Cause.PRELOAD) for name in self._catalog.treatment.pinned]
            await self._let_go_of_others()
            pause_s = KEEP_FIRST_S if all(there) else min(2 * pause_s, KEEP_MOST_S)

    async def _renew(self) -> None:
        """Have Ollama go on keeping what stays.  A proxy that is killed cannot, so Ollama lets go of it in minutes."""
        while True:
            await asyncio.sleep(self._renewed_at + RENEW_S - self._engine.now)
            await self._engine.ollama.up.wait()
            await asyncio.gather(*(self._keep(model, STAY_S) for model in self._to_renew()))
            self._renewed_at = self._engine.now

    def _to_renew(self) -> list[Model]:
        """What stays, but for what somebody else loaded and Ollama was not told to keep since.

        The options of such a one can only be guessed: a renewal with others would have Ollama load it again.
        """
        self._staying = {runner: model for runner, model in self._staying.items() if self._engine.holds(runner)}
        guessed = {r.key.runner for r in self._engine.residencies() if r.guessed} - self._staying.keys()
        return [model for runner, model in self._here_to_stay().items() if runner not in guessed]

    async def _bring_back_the_default(self) -> None:
        default, after = self._swapper.default_model, self._swapper.default_after
        while default is not None and after is not None:
            await asyncio.sleep(after - self._idle_s)
            if self._idle_s >= after:
                await self._load(default, Cause.DEFAULT)
                await asyncio.sleep(after)  # whether it worked or not

    @property
    def _idle_s(self) -> float:
        """How long nobody has wanted anything."""
        since = self._engine.idle_since
        return 0.0 if since is None else self._engine.now - since

    async def _load(self, name: str, cause: Cause) -> bool:
        """Unless it is there; whether it is."""
        try:
            model = await self._catalog.resolve(name)
            if model is not None and not self._engine.is_resident(model):
                await self._load_to_stay(model, Priority.LOW, cause)
            elif model is not None:
                await self._have_it_stay(model)
            why = "" if model else "Ollama does not have it"
        except (UpstreamUnreachable, UpstreamRefused, Rejected) as error:
            why = str(error)
        except Exception:  # a bug here must not end the watch over the others
            log.exception("loading failed", extra={"model": name})
            return False
        if why:
            log.warning("cannot be loaded: %s", why, extra={"model": name, "cause": cause})
        return not why
