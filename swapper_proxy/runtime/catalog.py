"""The models there are: those that Ollama has, those that the config names, and what is known of each."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from swapper_proxy import config
from swapper_proxy.config.keep_alive import STAY_S, KeepAlive, divided
from swapper_proxy.core.names import canonical, is_cloud, is_plausible
from swapper_proxy.core.types import Key, Profile, RunnerOption
from swapper_proxy.runtime.model import Meaning, Model
from swapper_proxy.runtime.ports import (
    Control,
    Installed,
    LoadSpec,
    Running,
    Shown,
    UpstreamRefused,
    UpstreamUnreachable,
)
from swapper_proxy.runtime.sizes import Size, Sizes
from swapper_proxy.runtime.treatment import Treatment

log = logging.getLogger(__name__)

# A name that Ollama did not know or show is not asked for again so soon, however many clients ask.
UNKNOWN_FOR_S = 1.0
# The same for what Ollama lists and again and again does not show: each try may take as long as an answer may.
UNSHOWN_FOR_S = 30.0
# What Ollama lists is asked for so often at once: without an answer, two names of one runner would be two runners.
SHOW_TRIES = 2
# How often a model is asked for that is another one after each answer.
MOST_TRIES = 3
NOT_FOUND = 404
# Clients can make up names and options without end.
MOST_MEANINGS = MOST_PROFILES = 1000
# So many versions of models are remembered; the runners of older ones are taken for strangers.
MOST_DIGESTS = 1000


class Catalog:
    """Names to models.  What Ollama has is looked at in `refresh`, and before the next answer after `forget`.

    A model is known until its digest is another one.  What is loaded is told by its digest, not by its name.
    """

    def __init__(self, control: Control, settings: config.Settings) -> None:
        self._control = control
        self.treatment = Treatment(settings)
        self._installed: dict[str, Installed] = {}
        self._models: dict[str, Model] = {}
        self._last: dict[str, Model] = {}  # as last seen, for what is configured but no longer there
        self._by_digest: dict[str, Model] = {}  # for what is loaded but was deleted or made anew
        self._changes, self._looked = 1, 0  # that somebody made, and how many of them were known at the last look
        self._asking: dict[str, asyncio.Future[Model | None]] = {}
        self._not_before: dict[str, float] = {}  # what Ollama did not know or show is not asked for again
        self._changing: dict[str, asyncio.Event] = {}  # by runner
        self._meanings: dict[str, Meaning] = {}  # until anything changes that they are made of, as the profiles
        self._profiles: dict[Key, tuple[Model, Profile]] = {}
        self._sizes = Sizes()
        self._left: dict[str, str] = {}  # runners that only others use, with the `expires_at` they had then

    def configure(self, settings: config.Settings) -> None:
        """Other settings hold from now on; what is known of Ollama's models stays known."""
        self.treatment = Treatment(settings)
        self._models, self._last = (
            {n: self._named_anew(n, m) for n, m in d.items()} for d in (self._models, self._last)
        )
        self._by_digest = {d: self._named_anew(canonical(m.ollama_name), m) for d, m in self._by_digest.items()}
        self._know_afresh()

    def _named_anew(self, spelling: str, model: Model) -> Model:
        name, ollama_name, configured = self._named(spelling)
        return replace(model, name=name, ollama_name=ollama_name, configured=configured)

    # Reading

    async def resolve(self, name: str) -> Model | None:
        """The model a client means by this name, None if Ollama would not know it (or it may not be used).

        Raises UpstreamUnreachable.
        """
        meaning = self.meaning(name)
        if meaning.denied or not is_plausible(name):
            return None
        if meaning.spelling not in self._installed and is_cloud(meaning.spelling):
            return Model(name, meaning.alias or name)
        return await self.find(meaning.spelling)

    def meaning(self, name: str) -> Meaning:
        """All that is known of a name, in any of its spellings, without asking Ollama."""
        if meaning := self._meanings.get(name):
            return meaning
        if len(self._meanings) >= MOST_MEANINGS:
            self._meanings.clear()
        meaning = self._meant(name)
        if is_plausible(name):
            self._meanings[name] = meaning
        return meaning

    def _meant(self, name: str) -> Meaning:
        given = canonical(name)
        spelling = self.treatment.aliases.get(given, given)
        configured = spelling in self.treatment.configured
        return Meaning(
            spelling,
            alias=None if spelling == given else self.treatment.configured[spelling][1].ollama_name,
            model=self._known(spelling) if configured or spelling in self._installed else None,
            denied=self.treatment.is_denied(spelling),
        )

    def stands_for(self, name: str) -> tuple[str, ...]:
        """The Ollama names behind a name that only the config knows: of a virtual model all that it may choose.

        What Ollama has comes first, and of this what it chooses for any request.  Empty if Ollama knows the name, or
        nobody does.
        """
        if rules := self.treatment.routes.get(canonical(name)):
            names = dict.fromkeys(self.meaning(name).alias or name for rule in reversed(rules) for name in rule.models)
            return tuple(sorted(names, key=lambda ollama_name: canonical(ollama_name) not in self._installed))
        ollama_name = self.meaning(name).alias
        return (ollama_name,) if ollama_name else ()

    @property
    def offered(self) -> dict[str, tuple[str, ...]]:
        """The names to list beside Ollama's own, with what each stands for."""
        return {name: meant for name in self.treatment.exposed if (meant := self.stands_for(name))}

    async def find(self, spelling: str) -> Model | None:
        """The installed model of this canonical name: known already, or asked for once for all who want it.

        One that Ollama lists and cannot show is known by its name alone.
        """
        model = self._models.get(spelling)
        if self.current and model and model.shown:
            return model
        if (self.current or model is None) and time.monotonic() < self._not_before.get(spelling, 0):
            return model
        asking = self._asking.get(spelling)
        if asking is None:
            asking = self._asking[spelling] = asyncio.ensure_future(self._ask(spelling))
            asking.add_done_callback(lambda done: self._asked(spelling, done))
        return await asyncio.shield(asking)

    def _asked(self, spelling: str, done: asyncio.Future[Model | None]) -> None:
        del self._asking[spelling]
        if not done.cancelled():
            done.exception()  # those who asked may all have left: then nobody else looks at it

    async def find_running(self, entry: Running) -> Model | None:
        """The model that a line of /api/ps means; None if no name leads to it any more.

        Such a one can neither be asked for nor unloaded.  Ollama lets it go when its time is over, or when it needs
        the room.
        """
        spelling = canonical(entry.name)
        if not entry.digest or self._digest(spelling) == "":
            return await self.find(spelling)  # the name is all that Ollama tells
        if entry.digest not in self._by_digest:
            if self._digest(spelling) != entry.digest:
                self.forget()  # it was made anew since the last look
            await self.find(spelling)
        model = self._by_digest.get(entry.digest)
        return model if model and await self.name_for(model.runner) else None

    def leave_to_others(self, runner: str, entry: Running) -> None:
        """The runner is to go, and stays because others use it: it counts as gone as long as /api/ps shows it so."""
        self._left[runner] = entry.expires_at

    def is_left_to_others(self, runner: str, entry: Running) -> bool:
        """Return True if it still only stays because others use it."""
        if self._left.get(runner) == entry.expires_at:
            return True
        self._left.pop(runner, None)  # it was loaded anew, or is to stay
        return False

    async def name_for(self, runner: str, besides: str = "") -> str | None:
        """An Ollama name, other than `besides`, that leads to this runner.

        Those known already are seen first; last are those that a newer Ollama may take for models that run elsewhere.
        """
        if not self.current:
            await self._look()
        for spelling in sorted(self._installed, key=lambda name: (is_cloud(name), name not in self._models)):
            model = None if spelling == besides else await self.find(spelling)
            if model is not None and model.runner == runner:
                return model.ollama_name
        return None

    def models(self) -> list[Model]:
        """The configured ones in their order, then the others that Ollama has."""
        return [self._known(name) for name in self._spellings()]

    def _spellings(self) -> list[str]:
        configured = self.treatment.configured
        return [*configured, *(name for name in self._installed if name not in configured)]

    def is_installed(self, model: Model) -> bool:
        return canonical(model.ollama_name) in self._installed

    def serving(self, runner: str) -> list[Model]:
        """The models that this runner serves, in the order of `models`: the first one is so whatever is asked for."""
        known = (self._models.get(name) for name in self._spellings())
        return [model for model in known if model is not None and model.runner == runner]

    # What the scheduler is told of a model

    def profile(self, model: Model, key: Key) -> Profile:
        """How this key of the model is to be treated."""
        known = self._profiles.get(key)
        if known is not None and known[0] is model:
            return known[1]
        if len(self._profiles) >= MOST_PROFILES:
            self._profiles.clear()
        profile = self._profiled(model, key)
        self._profiles[key] = model, profile
        return profile

    def _profiled(self, model: Model, key: Key) -> Profile:
        size = self._size(model, key)
        return Profile(
            parallel=self.treatment.parallel(model)[0],
            swap_timeout_s=self.treatment.swap_timeout_s(model),
            size_gb=size.gb,
            least_gb=size.least_gb,
            slot=model.type,
            pinned=any(key.served_by(own) or own.served_by(key) for own in self._pinned_keys(model)),
            max_queue=model.configured.max_queue if model.configured else None,
        )

    def size_gb(self, model: Model) -> float | None:
        """Memory that the model takes with its own options: as configured, else as measured, else as on disk."""
        return self._size(model, self.own_key(model)).gb

    def _size(self, model: Model, key: Key) -> Size:
        return self._sizes.of(model, key, self.own_key(model), self.treatment.parallel(model)[0])

    def measured(self, key: Key, size_bytes: int) -> None:
        """/api/ps shows a runner with so many bytes, and it was loaded as this key."""
        if size_bytes > 0 and self._sizes.measured(key, size_bytes):
            self._profiles.clear()

    def measure_again(self, key: Key) -> None:
        """The operator wants it loaded: how much it took before does not refuse it."""
        self._sizes.forget(key)
        self._profiles.pop(key, None)

    def in_memory_gb(self, model: Model, key: Key, size_bytes: int) -> float | None:
        """What a loaded key counts for if /api/ps shows so many bytes; None: as its profile says."""
        return self._sizes.in_memory(model, key, self.own_key(model), size_bytes)

    # What stays

    def pin(self, model: Model, pinned: bool) -> None:
        """By hand: until the config is read again."""
        names = [name for name in self.treatment.pinned if self._known(name).runner != model.runner]
        self.treatment.pinned = dict.fromkeys([*names, canonical(model.ollama_name)] if pinned else names)
        self._profiles.clear()

    def is_pinned_name(self, name: str) -> bool:
        """Whether the model of this Ollama name itself is pinned."""
        return canonical(name) in self.treatment.pinned

    def is_pinned(self, model: Model) -> bool:
        """Whether this or another model of the same runner is pinned."""
        return model.runner in {self._known(name).runner for name in self.treatment.pinned}

    def _pinned_keys(self, model: Model) -> list[Key]:
        """The keys of its runner that are pinned: those with the options that the config or the Modelfile gives."""
        pinned = (self._known(name) for name in self.treatment.pinned)
        return [self.own_key(other) for other in pinned if other.runner == model.runner]

    def own_key(self, model: Model) -> Key:
        """The key of the model when nobody asks for other options."""
        return model.key(self.treatment.options(model, {}))

    def keep_alive(self, model: Model, asked: KeepAlive | None) -> KeepAlive | None:
        """The keep_alive that holds for a request with this one; None leaves it to Ollama."""
        return self.treatment.keep_alive(model, asked, pinned=self.is_pinned(model))

    def ttl_s(self, model: Model) -> float | None:
        """The idle time to live that the config gives it, as the scheduler keeps it."""
        return divided(self.keep_alive(model, None))[1]

    def load_spec(
        self, model: Model, options: Mapping[str, RunnerOption], keep_alive: KeepAlive | None = None
    ) -> LoadSpec:
        """How to load it; `keep_alive` is what the request that needs it sends, if any."""
        if self.is_pinned(model) or self.treatment.stays_by_default(model):
            keep_alive = STAY_S
        elif keep_alive is None:
            keep_alive, _ = divided(self.keep_alive(model, None))
        return self.treatment.load_spec(model, options, keep_alive)

    # Following Ollama

    async def refresh(self) -> None:
        """Look at what is installed; what changed or went is known no more.

        Raises UpstreamUnreachable, UpstreamRefused.
        """
        await self._refresh()
        # Of the pinned, too: so that other names of their runners are known to be pinned.
        for name in (*self.treatment.pinned, *self._last):
            if name in self._installed:
                await self.find(name)

    async def learn(self, most: int) -> None:
        """Ask for some of the models that nobody has asked for yet: they may be names of what is in memory.

        Raises UpstreamUnreachable.
        """
        now = time.monotonic()
        unknown = (n for n in self._installed if n not in self._models and now >= self._not_before.get(n, 0))
        for name in list(itertools.islice(unknown, most)):
            await self.find(name)

    async def _refresh(self) -> None:
        changes = self._changes
        installed = {canonical(entry.name): entry for entry in await self._control.installed()}
        for name, before in self._installed.items():
            after = installed.get(name)
            if after is None or after.digest != before.digest:
                self._models.pop(name, None)
                self._not_before.pop(name, None)
        self._installed, self._looked = installed, changes
        self._know_afresh()
        if len(self._by_digest) > MOST_DIGESTS:
            known = {entry.digest for entry in installed.values()}
            self._by_digest = {digest: model for digest, model in self._by_digest.items() if digest in known}

    def _know_afresh(self) -> None:
        self._meanings.clear()
        self._profiles.clear()

    async def _look(self) -> None:
        with contextlib.suppress(UpstreamRefused):
            await self._refresh()

    @contextlib.contextmanager
    def changing(self, runner: str) -> Iterator[None]:
        """A model of this runner is being made anew or deleted: nobody is to load it until that is over."""
        over = self._changing[runner] = asyncio.Event()
        try:
            yield
        finally:
            if self._changing.get(runner) is over:
                del self._changing[runner]
            over.set()

    def is_changing(self, runner: str) -> bool:
        return runner in self._changing

    async def changed(self, model: Model) -> Model:
        """What has become of the model, once nobody is changing it.  Raises UpstreamUnreachable."""
        while over := self._changing.get(model.runner):
            await over.wait()
        return await self.find(canonical(model.ollama_name)) or model

    def forget(self) -> None:
        """Somebody created, copied, pulled or deleted a model: look before anything is said of any."""
        self._changes += 1
        self._not_before = {name: until for name, until in self._not_before.items() if name in self._models}

    @property
    def looked(self) -> bool:
        """Return True if it is known what Ollama has: it was asked at least once."""
        return self._looked > 0

    @property
    def current(self) -> bool:
        """Whether there was a look at what is installed since the last `forget`."""
        return self._looked == self._changes

    def _digest(self, spelling: str) -> str | None:
        entry = self._installed.get(spelling)
        return entry.digest if entry else None

    async def _ask(self, spelling: str) -> Model | None:
        if not self.current:
            await self._look()
            if model := self._models.get(spelling):
                return model
        shown, known = await self._tried(spelling)
        if not known:
            return None
        model = replace(self._unasked(spelling), shown=shown)
        if entry := self._installed.get(spelling):
            self._models[spelling] = self._by_digest[entry.digest] = model
            if shown:
                self._last[spelling] = model
            self._know_afresh()
        return model

    async def _tried(self, spelling: str) -> tuple[Shown | None, bool]:
        """Return what Ollama shows of it, if anything, and whether Ollama knows it.  Raises UpstreamUnreachable."""
        for _ in range(SHOW_TRIES):
            try:
                return await self._shown(spelling), True
            except (UpstreamRefused, UpstreamUnreachable) as caught:
                error = caught
            if not await self._is_there(spelling, error):
                self._wait(spelling, UNKNOWN_FOR_S)
                return None, False
        again = spelling in self._models
        if not again:
            log.warning("Ollama has this model and does not show it: %s", error, extra={"model": spelling})
        self._wait(spelling, UNSHOWN_FOR_S if again else UNKNOWN_FOR_S)
        return None, True

    async def _is_there(self, spelling: str, error: UpstreamRefused | UpstreamUnreachable) -> bool:
        """Return True if Ollama lists a model that it did not show.  Raises UpstreamUnreachable if it does not list."""
        if isinstance(error, UpstreamRefused):
            return spelling in self._installed and error.failure.status != NOT_FOUND
        await self._look()
        return spelling in self._installed

    def _wait(self, spelling: str, seconds: float) -> None:
        """Do not ask Ollama for this name for so long."""
        now = time.monotonic()
        self._not_before = {name: until for name, until in self._not_before.items() if until > now}
        self._not_before[spelling] = now + seconds

    async def _shown(self, spelling: str) -> Shown:
        """What Ollama shows of it, once that belongs to the digest that is known: it did not change meanwhile."""
        for _ in range(MOST_TRIES):
            before = self._installed.get(spelling)
            shown = await self._control.show(self._named(spelling)[1])
            if before is not None and shown.modified and shown.modified == before.modified:
                break
            await self._look()
            if self._digest(spelling) == (before.digest if before else None):
                break
        return shown

    def _named(self, spelling: str) -> tuple[str, str, config.Model | None]:
        if spelling in self.treatment.configured:
            name, configured = self.treatment.configured[spelling]
            return name, configured.ollama_name, configured
        entry = self._installed.get(spelling)
        ollama_name = entry.name if entry else spelling
        return ollama_name, ollama_name, None

    def _known(self, spelling: str) -> Model:
        last = None if spelling in self._installed else self._last.get(spelling)
        return self._models.get(spelling) or last or self._unasked(spelling)

    def _unasked(self, spelling: str) -> Model:
        name, ollama_name, configured = self._named(spelling)
        entry = self._installed.get(spelling)
        if entry is None:
            return Model(name, ollama_name, configured)
        return Model(name, ollama_name, configured, None, entry.size, entry.remote, entry.digest)
