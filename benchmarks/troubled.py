"""A simulated Ollama with which now this, now that goes wrong, for `benchmarks.soak`.

    python -m benchmarks.troubled SEED HOST PORT FILE

It tells the id of a request back in the head of its answer.  SIGUSR1 mends it for good, SIGUSR2 has it forget all
connections, as a loss of power does; at SIGTERM it writes down how many ids came, and which came more than once.
"""

import asyncio
import json
import random
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from benchmarks.large import BROKEN
from benchmarks.lost import SLOW
from swapper_proxy.app import open_more_files
from swapper_proxy.ollama.simulator import SimulatedModel, Simulator, serving
from swapper_proxy.ollama.simulator.faults import Answers, Faults

MODELS = [f"m{number}" for number in range(6)]
EMBEDDER = "embedder"
ID = "X-Soak-Id"
# What befalls the simulated Ollama, each for a moment; nothing for two moments of three.
MOMENT_S = 1.0
TROUBLES: tuple[dict[str, Any], ...] = (
    {"load_s": 0.3},
    {"failing": 2},
    {"busy": 20},
    {"listing": "empty"},
    {"listing": "old"},
    {"listing": "error"},
    {"kept": True},
    {"stalled": True},
    *({"answers": answers, "share": 0.05} for answers in (Answers.RESET, Answers.RESET_INSIDE, Answers.CLOSED_INSIDE)),
    *({"answers": answers, "share": 0.05} for answers in (Answers.TOO_SHORT, Answers.BYTEWISE, Answers.GARBAGE)),
)


class Upstream:
    """Simulates, tells ids back, and breaks now and then; at its end it writes down which ids came more than once."""

    def __init__(self, seed: int) -> None:
        self._faults = Faults(dice=random.Random(seed))
        self._dice = random.Random(seed)
        self._came: Counter[str] = Counter()
        self._broken_until = 0.0
        self._excused: set[str] = set()  # came while answers broke: the proxy may have sent them once more

    async def serve(self, host: str, port: int) -> dict[str, Any]:
        """Until SIGTERM; what it found."""
        over, simulator = asyncio.Event(), self._simulator()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, lambda: self._lose_power(simulator))
        async with serving(simulator, host, port):
            befalling = asyncio.create_task(self._befall())
            await over.wait()
            befalling.cancel()
        twice = [number for number, times in self._came.items() if times > 1 and number not in self._excused]
        return {"came": len(self._came), "twice": twice}

    def _lose_power(self, simulator: "Signing") -> None:
        simulator.abort_connections()
        self._broken_until = time.monotonic() + 3 * MOMENT_S

    def _simulator(self) -> "Signing":
        models = [SimulatedModel(name, load_s=0.02, tokens_per_second=0) for name in MODELS]
        models.append(SimulatedModel(EMBEDDER, load_s=0.02, tokens_per_second=0, embedding_only=True))
        models.append(SimulatedModel(SLOW, load_s=0.02, tokens_per_second=5))
        models.append(SimulatedModel(BROKEN, load_s=0.02, broken=True))
        return Signing(self._note, models, max_loaded=5, faults=self._faults)

    def _note(self, number: str) -> None:
        self._came[number] += 1
        if self._faults.answers is not Answers.WHOLE or time.monotonic() < self._broken_until:
            self._excused.add(number)

    async def _befall(self) -> None:
        """Now this, now that, until somebody mends it for good (SIGUSR1)."""
        mended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, mended.set)
        while not mended.is_set():
            await asyncio.sleep(2 * MOMENT_S)
            trouble = self._dice.choice(TROUBLES)
            well = {name: getattr(self._faults, name) for name in trouble}
            self._set(trouble)
            await asyncio.sleep(MOMENT_S)
            self._set(well)
            if "answers" in trouble:  # those begun before still break
                self._broken_until = time.monotonic() + 3 * MOMENT_S

    def _set(self, fields: dict[str, Any]) -> None:
        for name, value in fields.items():
            setattr(self._faults, name, value)


class Signing(Simulator):
    """Puts the id of a request into the head of its answer."""

    def __init__(self, note: Callable[[str], None], models: list[SimulatedModel], **more: Any) -> None:
        super().__init__(models, **more)
        self._note_id = note
        self._server: web.Server | None = None  # since the first request

    def application(self) -> web.Application:
        app = super().application()
        app.on_response_prepare.append(self._sign)
        return app

    def abort_connections(self) -> None:
        """Forget them all: one RST each, and nothing is sent again (as a FIN would be)."""
        for handler in list(self._server.connections) if self._server else ():
            if handler.transport is not None:
                connection = handler.transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                handler.transport.abort()

    async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:
        self._server = request.protocol._manager
        if number := request.headers.get(ID):
            self._note_id(number)
            response.headers[ID] = number


if __name__ == "__main__":
    seed, host, port, report = sys.argv[1:]
    open_more_files()
    Path(report).write_text(json.dumps(uvloop.run(Upstream(int(seed)).serve(host, int(port)))))
