"""When those who wait are turned away, and why.  Patience (policy) forces a swap; only these limits reject."""

import math
from collections.abc import Iterator

from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.host import Host
from swapper_proxy.core.residency import Residency
from swapper_proxy.core.types import State


def limited(host: Host) -> list[Residency]:
    """The queues that may have somebody to turn away now: usually only that of the key being swapped in."""
    if host.limits.queue_timeout_s is None and host.down_since is None and host.closing_until is None:
        worked_for = [host.swap and host.swap.wanted, host.forced and host.forced[0]]
        return list(dict.fromkeys(record for record in worked_for if record and record.waiters))
    return list(host.queued.values())


def overdue(host: Host, record: Residency, now: float) -> Rejection | None:
    """Why whoever has waited longest for this key may not wait any longer."""
    return next((reason for due, reason in due_times(host, record) if now >= due), None)


def due_times(host: Host, record: Residency) -> Iterator[tuple[float, Rejection]]:
    """When whoever has waited longest for this key will be turned away, and why."""
    arrived = record.oldest.arrived_at
    limits = host.limits
    if host.closing_until is not None:
        granting = record.state is State.RESIDENT
        yield (host.closing_until if granting else arrived), Rejection.SHUTTING_DOWN
    if host.down_since is not None:
        yield max(arrived, host.down_since) + limits.upstream_grace_s, Rejection.UPSTREAM_DOWN
    if host.swap is not None and host.swap.wanted is record:
        yield max(arrived, host.swap.since) + record.profile.swap_timeout_s, Rejection.SWAP_TIMEOUT
    if limits.drain_timeout_s is not None and host.forced is not None and host.forced[0] is record:
        finishing = host.find(lambda r: r.state is State.DRAINING and bool(r.in_flight))
        yield (host.forced[1] + limits.drain_timeout_s if finishing else math.inf), Rejection.DRAIN_TIMEOUT
    if limits.queue_timeout_s is not None:
        yield arrived + limits.queue_timeout_s, Rejection.QUEUE_TIMEOUT
