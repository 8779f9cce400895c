"""How soon all is well again after a fault, as a client sees it.

    python -m benchmarks.recovery [--rounds 3] [--only NAME] [--json FILE]

Each fault befalls the proxy as it ships, a process of its own, or the real or simulated Ollama behind it, while a
client asks again as soon as it has its answer.  Measured are the seconds from the end of the fault to the first whole
answer, the load of the model included.  A limit that ends a fault is set short; what comes beyond it counts.
"""

import argparse
import asyncio
import json
import math
import tempfile
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from statistics import median

import aiohttp
import uvloop

from benchmarks import processes
from benchmarks.faults import LASTS_S, LIMIT_S, Scene, Step, wrong
from benchmarks.processes import Process
from swapper_proxy.ollama.simulator import Answers, SimulatedModel, Simulator, serving
from tests.real.install import find
from tests.real.models import Model, Weights
from tests.real.server import OllamaServer

NAMES = ("alpha", "beta", "slow")
SIMULATED = [SimulatedModel(name, size=1, load_s=0.1, tokens_per_second=0) for name in NAMES]
SLOW = Model(Weights(seed=8, layers=40, feed_forward=2048))  # so slow that it can be caught while it is loaded
REAL: dict[str, tuple[Step, ...]] = {
    "nothing, for comparison": (Scene.at_rest,),
    "killed in mid-load": (Scene.mid_load, Scene.killed),
    "killed in mid-stream": (Scene.mid_stream, Scene.killed),
    "killed in mid-unload": (Scene.mid_unload, Scene.killed),
    "stopped in mid-load": (Scene.mid_load, Scene.stopped),
    "stopped in mid-stream": (Scene.mid_stream, Scene.stopped),
    "stopped in mid-unload": (Scene.mid_unload, Scene.stopped),
    "its runner killed in mid-load": (Scene.mid_load, Scene.runner_killed),
    "its runner killed in mid-stream": (Scene.mid_stream, Scene.runner_killed),
    "its runner stopped in mid-load": (Scene.mid_load, Scene.runner_stopped),
    "back with other models": (Scene.resident, Scene.other_models),
    "something else on its port": (Scene.resident, Scene.port_taken),
    "the proxy killed": (Scene.resident, Scene.proxy_killed),
}
FAULTS = REAL | {
    "silent": (Scene.resident, Scene.silent),
    "reset before the answer": (Scene.resident, wrong("answers", Answers.RESET)),
    "reset in the answer": (Scene.resident, wrong("answers", Answers.RESET_INSIDE)),
    "503": (Scene.resident, wrong("busy", math.inf)),
    "one load fails": (Scene.one_load_fails,),
    "loads fail": (wrong("failing", math.inf),),
    "a load never ends": (Scene.load_never_ends,),
    "an unload does not happen": (Scene.resident, wrong("kept", True, "beta")),
    "a list that is empty": (Scene.resident, wrong("listing", "empty", "beta")),
    "a list that is old": (Scene.resident, wrong("listing", "old", "beta")),
    "a list that is an error": (Scene.resident, wrong("listing", "error", "beta")),
}
SHORT_S = 2.0
LIMITS = {  # shorter than the default ones
    "its runner stopped in mid-load": {"load_stall_timeout": LASTS_S},
    "a load never ends": {"load_stall_timeout": LASTS_S},
    "an unload does not happen": {"unload_timeout": SHORT_S},
    "a list that is old": {"unload_timeout": SHORT_S},
    "a list that is an error": {"unload_timeout": SHORT_S},
}


async def one_round(name: str, ollama: OllamaServer, folder: Path) -> dict[str, float]:
    """A proxy, and an Ollama, that were started for it."""
    config = {
        "swapper": {"unload_settle": 0, **LIMITS.get(name, {})},
        "models": {model: {"path": f"ollama:{model}", "size_gb": 1} for model in NAMES},
        "server": {"shutdown_grace": 1},
    }
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S)))
        started = ExitStack()
        stack.push_async_callback(asyncio.to_thread, started.close)

        async def start() -> Process:
            """In a thread: the simulated Ollama has to answer meanwhile."""
            return await asyncio.to_thread(started.enter_context, processes.proxy(port, config, folder))

        scene, port = Scene(ollama, session, start), ollama.port
        if name in REAL:
            await asyncio.to_thread(ollama.stop)
            await asyncio.to_thread(ollama.start)
        else:
            url = await stack.enter_async_context(serving(Simulator(SIMULATED, faults=scene.faults)))
            port = int(url.rpartition(":")[2])
        return await scene.run(*FAULTS[name])


def measured(name: str, ollama: OllamaServer, number: int) -> dict[str, float]:
    done, models = [], ollama.models
    for _ in range(number):
        with tempfile.TemporaryDirectory() as folder:
            done.append(uvloop.run(one_round(name, ollama, Path(folder))))
        ollama.models = models
    seconds = [round(figures["seconds"], 2) for figures in done]
    found = {"median_s": median(seconds), "worst_s": max(seconds)}
    return found | {figure: sum(figures[figure] for figures in done) for figure in ("kept", "of")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=FAULTS, metavar="NAME", help=f"one of: {', '.join(FAULTS)}")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    names, found = [given.only] if given.only else list(FAULTS), {}
    print(processes.described())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ollama = OllamaServer(find(), Path(folder), OLLAMA_MAX_LOADED_MODELS="1")
        if REAL.keys() & names:
            stack.enter_context(ollama.holding(("alpha", "beta")))
            ollama.create_model("slow", SLOW)
        for name in names:
            found[name] = figures = measured(name, ollama, given.rounds)
            kept = f"; {figures['kept']} of {figures['of']} who waited got their answer" if figures["of"] else ""
            print(f"{name}: {figures['median_s']:.1f} s / {figures['worst_s']:.1f} s{kept}", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"machine": processes.machine(), "faults": found}, indent=1))


if __name__ == "__main__":
    main()
