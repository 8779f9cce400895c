"""A small, faithful Ollama over aiohttp: for the demo, the tests and the benchmarks.

It keeps what a client or a proxy can observe of the real one: how requests are read and refused, when a model is
loaded, reloaded, shared or unloaded, who waits for whom, and what the streams look like.  Its answers are canned.

- `requests`: bodies read as Go reads them, with Go's error texts
- `options`: runner options, and which of them make Ollama load a model again
- `catalogue`: the models and what /api/tags and /api/show tell of them
- `memory`: what is resident, and the queue for it
- `faults`: what can be made to go wrong, also while it runs
- `inference`: answers, written by `dialects` (native, older /v1) and `events` (newer /v1)
- `native`, `transfers`, `openai`, `recent`: the routes
"""

from swapper_proxy.ollama.simulator.catalogue import SimulatedModel
from swapper_proxy.ollama.simulator.faults import Answers, Faults
from swapper_proxy.ollama.simulator.server import Simulator, serving

__all__ = ["Answers", "Faults", "SimulatedModel", "Simulator", "serving"]
