"""The least possible sum of waits, by somebody who knows the future.

One model is resident and serves one request at a time; the requests of one model are served in order of arrival.
A plan is then the order in which the models are served: it never pays to load a model without serving it, and to wait
idle is to serve one that comes later.  Who loads ahead has the model in memory before its request arrives, which nobody
can who does not know the future; who does not starts every swap when somebody waits for it.

The optimum is a dynamic program over how many requests of each model were served, and which model is resident.  A plan
that is further behind may have cost less, so each state keeps all pairs of time and sum of waits of which neither is
beaten in both.  `brute_force` tries every order, and is what the program is checked against.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swapper_proxy.replay.workload import Model, Workload


@dataclass(frozen=True, slots=True)
class Trace:
    """Per model: arrival and service of each request in order of arrival (seconds), and how it loads.

    `ahead`: whether a model may be loaded before its request arrives.
    """

    requests: Mapping[str, Sequence[tuple[float, float]]]
    models: Mapping[str, Model]
    ahead: bool = True


@dataclass(frozen=True, slots=True)
class Point:
    """When the host is free again, and the sum of the waits so far; seconds."""

    free_at: float
    waited: float


State = tuple[tuple[int, ...], str | None]  # served of each model, and who is resident


def trace(workload: Workload, *, ahead: bool = True) -> Trace:
    """The trace of open-loop clients (one step each)."""
    requests = defaultdict(list)
    for step in sorted((client[0] for client in workload.clients), key=lambda step: step.after_s):
        requests[step.model].append((step.after_s, step.service_s))
    return Trace(requests, workload.models, ahead)


def optimum(of: Trace) -> float:
    """The least sum of waits."""
    names = tuple(of.requests)
    states: dict[State, list[Point]] = {((0,) * len(names), None): [Point(0.0, 0.0)]}
    for _ in range(sum(map(len, of.requests.values()))):
        states = _after_one_more(of, names, states)
    return min(point.waited for points in states.values() for point in points)


def brute_force(of: Trace) -> float:
    """The same, by trying every order."""

    def best(served: Mapping[str, int], resident: str | None, point: Point) -> float:
        left = [name for name, requests in of.requests.items() if served[name] < len(requests)]
        if not left:
            return point.waited
        nexts = ((name, serve(of, name, served[name], resident, point)) for name in left)
        return min(best({**served, name: served[name] + 1}, name, after) for name, after in nexts)

    return best(dict.fromkeys(of.requests, 0), None, Point(0.0, 0.0))


def serve(of: Trace, name: str, index: int, resident: str | None, point: Point) -> Point:
    """Serve one more request of a model, after a swap if it is not resident."""
    arrival, service_s = of.requests[name][index]
    swap_s = 0.0
    if name != resident:
        swap_s = of.models[name].load_s + (of.models[resident].unload_s if resident else 0.0)
    start = max(arrival, point.free_at + swap_s) if of.ahead else max(arrival, point.free_at) + swap_s
    return Point(start + service_s, point.waited + start - arrival)


def _after_one_more(of: Trace, names: Sequence[str], states: Mapping[State, list[Point]]) -> dict[State, list[Point]]:
    found: dict[State, list[Point]] = defaultdict(list)
    for (served, resident), points in states.items():
        for place, name in enumerate(names):
            if served[place] < len(of.requests[name]):
                after = (*served[:place], served[place] + 1, *served[place + 1 :])
                found[after, name] += [serve(of, name, served[place], resident, point) for point in points]
    return {state: unbeaten(points) for state, points in found.items()}


def unbeaten(points: Sequence[Point]) -> list[Point]:
    """Those than which no other is both as early and as cheap."""
    front: list[Point] = []
    least = math.inf
    for point in sorted(points, key=lambda p: (p.free_at, p.waited)):
        if point.waited < least:
            front.append(point)
            least = point.waited
    return front
