"""A real Prometheus on a free loopback port, with the shipped configuration."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.e2e.conftest import Client, until
from tests.observability.binaries import find
from tests.observability.shipped import PROMETHEUS, read
from tests.real.server import free_port


class Prometheus(Client):
    """Its HTTP API."""

    async def api(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer; a query that Prometheus refuses fails the test."""
        async with self.session.get(f"{self.url}/api/v1/{path}", params=parameters) as answer:
            told = await answer.json()
        assert told["status"] == "success", (parameters, told)
        return told["data"]

    async def values(self, query: str) -> list[float]:
        """Those of an instant query, one for each series."""
        return [float(series["value"][1]) for series in (await self.api("query", query=query))["result"]]


def configuration(target: str) -> dict[str, Any]:
    """As shipped, but of that target, each second."""
    chosen: dict[str, Any] = read(PROMETHEUS / "prometheus.yml")
    chosen["global"] = dict.fromkeys(chosen["global"], "1s")
    chosen["rule_files"] = [str(PROMETHEUS / name) for name in chosen["rule_files"]]
    chosen["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    return chosen


@contextlib.asynccontextmanager
async def scraping(session: aiohttp.ClientSession, proxy: Client, folder: Path) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes this proxy, once it is ready; what it logs is in the folder."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration(proxy.url.removeprefix("http://"))))
    prometheus = Prometheus(session, f"http://127.0.0.1:{free_port()}")
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            find("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={prometheus.url.removeprefix('http://')}",
            stdout=log,
            stderr=log,
        )

    async def ready() -> bool:
        assert process.returncode is None, (folder / "prometheus.log").read_text()
        with contextlib.suppress(aiohttp.ClientConnectionError):
            return (await prometheus.get("/-/ready"))[0] == 200
        return False

    try:
        await until(ready)
        yield prometheus
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
