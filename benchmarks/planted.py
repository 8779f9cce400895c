"""The proxy with faults planted in it, for `benchmarks.soak`: now and then a part of it raises.

    python -m benchmarks.planted SEED FILE serve ...

Every handler of the scheduler and every method by which its parts are told what happens raises after a while, and again
and again.  SIGUSR1 ends that; at its end the proxy writes down which raised, and how often.
"""

import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swapper_proxy.cli import main
from swapper_proxy.core.scheduler import Scheduler
from swapper_proxy.observe.logs import SwapLog
from swapper_proxy.observe.metrics import Metrics
from swapper_proxy.runtime.ledger import Ledger
from swapper_proxy.runtime.ports import Observer, Recorder
from swapper_proxy.storage.history import History
from swapper_proxy.web.broadcast import Broadcast
from swapper_proxy.web.counting import RequestMetrics, RequestTotals

SAID = "planted by the soak"
FIRST_S, LATER_S = (3.0, 20.0), (20.0, 60.0)  # until a part raises, and again: from, to
TOLD = (Observer, Recorder, RequestMetrics, RequestTotals)
HOOKS = [name for protocol in TOLD for name in vars(protocol) if not name.startswith("_")] + ["changed"]

Function = Callable[..., Any]


class Fuses:
    """Makes functions raise, each at its own times; `blown` counts."""

    def __init__(self, seed: int) -> None:
        self.blown: Counter[str] = Counter()
        self.mended = False
        self._dice = random.Random(seed)

    def plant(self, name: str, function: Function) -> Function:
        due = time.monotonic() + self._dice.uniform(*FIRST_S)

        def planted(*given: Any, **named: Any) -> Any:
            nonlocal due
            if not self.mended and time.monotonic() >= due:
                due = time.monotonic() + self._dice.uniform(*LATER_S)
                self.blown[name] += 1
                raise RuntimeError(SAID)
            return function(*given, **named)

        return planted

    def plant_in(self, owner: type, names: list[str] | tuple[str, ...]) -> None:
        for name in filter(owner.__dict__.__contains__, names):
            setattr(owner, name, self.plant(f"{owner.__name__}.{name}", getattr(owner, name)))

    def mend(self, *_: object) -> None:
        self.mended = True


def planted(seed: int) -> Fuses:
    """Plant faults in the classes that the proxy is made of."""
    fuses = Fuses(seed)
    handlers: dict[type, Function] = dict(Scheduler._HANDLERS)
    Scheduler._HANDLERS = {kind: fuses.plant(kind.__name__, handler) for kind, handler in handlers.items()}
    for listener in (SwapLog, Metrics, Broadcast, History, Ledger):
        fuses.plant_in(listener, HOOKS)
    return fuses


if __name__ == "__main__":
    seed, report, *arguments = sys.argv[1:]
    fuses = planted(int(seed))
    signal.signal(signal.SIGUSR1, fuses.mend)
    try:
        main(arguments)
    finally:
        Path(report).write_text(json.dumps(fuses.blown))
