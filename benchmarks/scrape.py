"""What a scrape of /metrics costs: CPU time with many models, each of which had requests since the scrape before.

    python -m benchmarks.scrape [--models M] [--scrapes N]

The models are all in the memory of a simulated Ollama, and each was loaded, held, drained and unloaded before.  Nothing
else is served while a scrape is written.  Target: at most 10 ms of CPU with 200 models.
"""

import argparse
import asyncio
import time
from collections.abc import Callable
from random import Random
from statistics import median

from swapper_proxy.config import Settings, Swapper
from swapper_proxy.observe.fanout import Fanout
from swapper_proxy.observe.metrics import Metrics
from swapper_proxy.observe.recording import Recording
from swapper_proxy.ollama.client import OllamaClient
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from swapper_proxy.runtime.board import Board
from swapper_proxy.runtime.catalog import Catalog
from swapper_proxy.runtime.engine import Engine
from swapper_proxy.runtime.lease import Lease
from swapper_proxy.runtime.ledger import Ledger
from swapper_proxy.runtime.model import Demand
from swapper_proxy.runtime.ports import Usage

ENDPOINTS = ("chat", "generate")


async def loaded(catalog: Catalog, engine: Engine) -> list[str]:
    """All models are in memory: their names."""
    await catalog.refresh()
    names = [model.ollama_name for model in catalog.models()]
    for name in names:
        model = await catalog.resolve(name)
        assert model is not None
        async with Lease(engine, Demand(model, {})):
            pass
    return names


def gone(metrics: Metrics, model: str, random: Random) -> None:
    """What is told of a model that was in memory before."""
    metrics.held(model, random.expovariate(1), paid=False)
    metrics.drained(model, random.expovariate(1))
    metrics.unloaded(model, random.expovariate(1), "idle")


def requests(metrics: Metrics, ledger: Ledger, model: str, random: Random) -> None:
    """What is told of requests for a model."""
    for endpoint in ENDPOINTS:
        usage = Usage(random.randrange(1000), random.randrange(1, 1000), 0.0, random.expovariate(0.1))
        metrics.waited(model, random.expovariate(1))
        metrics.first_byte(model, random.expovariate(1))
        metrics.first_token(model, random.expovariate(1))
        metrics.answered(model, random.expovariate(0.1), usage)
        ledger.count(model, endpoint, 200, usage)


async def scraped(models: int, scrapes: int) -> tuple[float, int]:
    """Milliseconds of CPU of the middle scrape, and how many series it has."""
    simulated = Simulator([SimulatedModel(f"model-{n}", load_s=0) for n in range(models)], max_loaded=models)
    settings, random = Settings(swapper=Swapper(mode="multi-active", max_concurrent_models=models)), Random(1)
    async with serving(simulated) as url, OllamaClient(url) as client:
        ledger, metrics, catalog = Ledger(), Metrics(), Catalog(client, settings)
        observer = Fanout(metrics, Recording(Fanout()))
        async with Engine(client, catalog, ledger, observer, settings.swapper, settings.limits) as engine:
            metrics.watch(Board(catalog, engine, ledger), ledger)
            names = await loaded(catalog, engine)
            for name in names:
                gone(metrics, name, random)
            spent = []
            for _ in range(scrapes):
                for name in names:
                    requests(metrics, ledger, name, random)
                began = time.process_time()
                text = metrics.exposition()
                spent.append(time.process_time() - began)
    return median(spent) * 1e3, sum(not line.startswith(b"#") for line in text.splitlines())


def main(show: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=200, metavar="M")
    parser.add_argument("--scrapes", type=int, default=21, metavar="N")
    options = parser.parse_args()
    ms, series = asyncio.run(scraped(options.models, options.scrapes))
    show(f"{options.models} models: {ms:5.1f} ms of CPU per scrape, {series:,} series")


if __name__ == "__main__":
    main()
