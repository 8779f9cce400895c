"""Workloads made from a seed: the same seed gives the same workload.  All times are seconds.

Unless said otherwise a load takes 5-30 s, an unload 1 s, a request 2-10 s, one model is resident and serves one
request at a time; what is released within an hour is run to its end.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, count, takewhile
from random import Random

from msgspec import structs

from swapper_proxy.core.types import Priority
from swapper_proxy.replay.workload import Model, Step, Workload

HOUR = 3600.0
Client = Sequence[Step]


def two_open(random: Random) -> Workload:
    """Two models in turn, a request every 10 s, whatever became of those before."""
    return work(slow(random, "ab"), [request(random, "ab"[i % 2], 10.0 * i) for i in range(360)])


def two_closed(random: Random) -> Workload:
    """Two clients, each with its own model, that ask again 0.3-3 s after each answer."""
    return work(slow(random, "ab"), [loop(random, model, lambda: random.uniform(0.3, 3)) for model in "ab"])


def zipf(random: Random) -> Workload:
    """Eight models of which the first is asked for most; Poisson, 0.08 a second."""
    models = "abcdefgh"
    return work(slow(random, models), poisson(random, 0.08, lambda: random.choices(models, ranks(8))[0]))


def agents(random: Random) -> Workload:
    """A chat user, a coding agent and an embedder, each with its own model."""
    models = slow(random, ("chat", "code", "embed"))
    return work(models, [chat(random), code(random), embed(random)])


def agents_parallel(random: Random) -> Workload:
    """Three chat users, two coding agents and an embedder; each model serves four requests at once."""
    models = slow(random, ("chat", "code", "embed"), parallel=4)
    clients = [chat(random), chat(random), chat(random), code(random), code(random), embed(random)]
    return work(models, clients)


def starve(random: Random) -> Workload:
    """A hot model (Poisson, 0.10 a second) and a rare one (every 60 s)."""
    hot = poisson(random, 0.10, lambda: "hot")
    return work(slow(random, ("hot", "rare")), [*hot, *every(random, "rare", 60.0)])


def multi_active(random: Random) -> Workload:
    """Eight models of 4-12 GB in a budget of 24 GB; Zipf, Poisson, 0.15 a second."""
    names = "abcdefgh"
    models = {name: Model(load_s=random.uniform(5, 30), unload_s=1.0, size_gb=random.uniform(4, 12)) for name in names}
    clients = poisson(random, 0.15, lambda: random.choices(names, ranks(8))[0])
    return structs.replace(work(models, clients), mode="multi-active", memory_budget_gb=24.0)


def rare_and_short(random: Random) -> Workload:
    """Loads of 0.3 s; four clients never leave the hot model idle, the rare one is wanted every 60 s."""
    models = {name: Model(load_s=0.3, unload_s=0.1, size_gb=0.3) for name in ("hot", "rare")}
    return work(models, [*(loop(random, "hot", float) for _ in range(4)), *every(random, "rare", 60.0)])


def behind_a_queue(random: Random) -> Workload:
    """Loads of 10 s; 200 requests of medium priority for one model at once, a second later one of high for another."""
    models = dict.fromkeys(("queued", "urgent"), Model(load_s=10.0, unload_s=1.0, size_gb=16.0))
    urgent = [Step(model="urgent", service_s=random.uniform(2, 10), after_s=1.0, priority=Priority.HIGH)]
    return work(models, [*(request(random, "queued", 0.0) for _ in range(200)), urgent])


def late_returns(random: Random) -> Workload:
    """Four clients with a model each that all come back a little later than anybody would hold it for them."""
    models = slow(random, "abcd")
    return work(models, [loop(random, name, pause(random, 1.3 * (models[name].load_s + 1.0))) for name in models])


def pairs(random: Random) -> Workload:
    """Three clients with a model each that ask twice, 1-4 s apart, then not for 20-60 s: every second hold is lost."""
    gaps = [chain.from_iterable((random.uniform(20, 60), random.uniform(1, 4)) for _ in count()) for _ in "abc"]
    return work(slow(random, "abc"), [loop(random, name, gap.__next__) for name, gap in zip("abc", gaps, strict=True)])


def short_loads(random: Random) -> Workload:
    """Two clients with loads of 0.5 s that ask again after 0.2-1 s: holding saves little."""
    models = {name: Model(load_s=0.5, unload_s=0.1, size_gb=0.3) for name in "ab"}
    return work(models, [loop(random, name, lambda: random.uniform(0.2, 1)) for name in "ab"])


def uniform(random: Random) -> Workload:
    """Sixteen models, each as likely as any other; Poisson, 0.08 a second: more than can be served."""
    names = "abcdefghijklmnop"
    return work(slow(random, names), poisson(random, 0.08, lambda: random.choice(names)))


def overload(random: Random) -> Workload:
    """Four models, Poisson, 0.2 a second: far more than can be served; whoever is forced in costs the others."""
    return work(slow(random, "abcd"), poisson(random, 0.2, lambda: random.choice("abcd")))


WORKLOADS: Mapping[str, Callable[[Random], Workload]] = {
    "two-open": two_open,
    "two-closed": two_closed,
    "zipf-8": zipf,
    "agents": agents,
    "agents-parallel": agents_parallel,
    "starve": starve,
    "multi-active": multi_active,
    "rare-and-short": rare_and_short,
    "behind-a-queue": behind_a_queue,
    "late-returns": late_returns,
    "pairs": pairs,
    "short-loads": short_loads,
    "uniform-16": uniform,
    "overload": overload,
}


def small(random: Random) -> Workload:
    """10-14 requests for two or three models, known to be few enough for the optimum."""
    names = "abc"[: random.randint(2, 3)]
    times = accumulate(random.expovariate(0.1) for _ in range(random.randint(10, 14)))
    return work(slow(random, names), [request(random, random.choice(names), time) for time in times])


# Parts


def work(models: Mapping[str, Model], clients: Sequence[Client]) -> Workload:
    return Workload(models=models, clients=clients, mode="single-active", until_s=HOUR)


def slow(random: Random, names: Sequence[str], parallel: int = 1) -> dict[str, Model]:
    return {name: _slow(random, parallel) for name in names}


def _slow(random: Random, parallel: int) -> Model:
    """Of a size from which its load can be guessed (2 s + 0.5 s a GB), though not well."""
    load_s = random.uniform(5, 30)
    return Model(load_s=load_s, unload_s=1.0, size_gb=2 * (load_s - 2) * random.uniform(0.6, 1.6), parallel=parallel)


def ranks(number: int) -> list[float]:
    """Zipf's weights."""
    return [1 / rank for rank in range(1, number + 1)]


def request(random: Random, model: str, time: float) -> Client:
    """An open-loop request."""
    return [Step(model=model, service_s=random.uniform(2, 10), after_s=time)]


def poisson(random: Random, rate: float, model: Callable[[], str]) -> list[Client]:
    times = accumulate(random.expovariate(rate) for _ in count())
    return [request(random, model(), time) for time in takewhile(HOUR.__gt__, times)]


def every(random: Random, model: str, period_s: float) -> list[Client]:
    return [request(random, model, period_s * i) for i in range(1, int(HOUR / period_s))]


def loop(random: Random, model: str, gap: Callable[[], float], service: tuple[float, float] = (2, 10)) -> Client:
    """A client that goes on for an hour at least."""
    return list(_steps(random, model, gap, service))


def _steps(random: Random, model: str, gap: Callable[[], float], service: tuple[float, float]) -> Iterator[Step]:
    at = 0.0
    while at <= HOUR:
        step = Step(model=model, service_s=random.uniform(*service), after_s=gap())
        at += step.after_s + step.service_s
        yield step


def pause(random: Random, mean_s: float) -> Callable[[], float]:
    return lambda: mean_s * random.uniform(0.9, 1.1)


def bursts(
    random: Random, calls: tuple[int, int], gap: tuple[float, float], rest: tuple[float, float]
) -> Iterator[float]:
    """The gaps of a client that calls many times in a row, then rests."""
    while True:
        yield random.uniform(*rest)
        for _ in range(random.randint(*calls) - 1):
            yield random.uniform(*gap)


def chat(random: Random) -> Client:
    """Thinks 15-60 s."""
    return loop(random, "chat", lambda: random.uniform(15, 60))


def code(random: Random) -> Client:
    """5-25 calls 0.3-3 s apart, then 30-180 s of pause."""
    return loop(random, "code", bursts(random, (5, 25), (0.3, 3), (30, 180)).__next__)


def embed(random: Random) -> Client:
    """20 calls of 0.2-1 s, 10-100 ms apart, then 60-240 s of pause."""
    return loop(random, "embed", bursts(random, (20, 20), (0.01, 0.1), (60, 240)).__next__, (0.2, 1))
