"""Who is turned away, and why: at once, or after a while.  Patience only forces a swap; these limits reject."""

import math
from collections.abc import Iterator

from swapper_proxy.core import forecast
from swapper_proxy.core.errors import Rejection
from swapper_proxy.core.host import Host
from swapper_proxy.core.residency import Residency
from swapper_proxy.core.shortage import Shortage
from swapper_proxy.core.types import Limits, State
from swapper_proxy.core.victims import Room, most_of, slot_of


def on_arrival(host: Host, record: Residency, variant: str, now: float) -> Rejection | Shortage | None:
    """Why nobody else may wait for this variant of the key; who would be served at once does not wait."""
    if record.state is State.RESIDENT and len(record.waiters) + len(record.in_flight) < record.profile.parallel:
        return None
    own = record.profile.max_queue
    if host.waiting >= host.limits.max_queue or (own is not None and len(record.waiters) >= own):
        return Rejection.QUEUE_FULL
    if record.occupies:
        return None
    return Rejection.BACKING_OFF if now < record.load_backoffs.until(variant) else hopeless(host, record)


def too_many(host: Host, record: Residency) -> bool:
    """Whether more requests wait than may, in all or for this key; loads that were asked for do not count."""
    own, mine = record.profile.max_queue, len(record.waiters) - len(record.waiters.loaders)
    if own is not None and mine > own:
        return True
    most = host.limits.max_queue
    return host.waiting > most and host.waiting - sum(len(r.waiters.loaders) for r in host.queued.values()) > most


def retry_after_s(host: Host, record: Residency, reason: Rejection, now: float, variant: str = "") -> float | None:
    """When it is worth another try, unless it is hopeless; None if there is no telling."""
    if reason is Rejection.BACKING_OFF:
        return record.load_backoffs.until(variant) - now
    return forecast.wait_s(host, record, now)


def hopeless(host: Host, record: Residency) -> Shortage | None:
    """Why this key cannot be loaded as long as pins and limits are as they are; no estimate refuses it."""
    pinned = [r for r in host.occupants.values() if r.profile.pinned and r is not record]
    for staying in ([], pinned) if pinned else ([],):
        if Room(staying, host.limits, sure=True).cheapest(record, ()) is None:
            return _shortage(record, staying, host.limits)
    return None


def _shortage(record: Residency, pinned: list[Residency], limits: Limits) -> Shortage:
    """If the pinned ones of its slot are as many as may be, these alone are in the way."""
    slot = slot_of(record, limits)
    same = [r for r in pinned if slot_of(r, limits) == slot]
    most = most_of(slot, limits)
    full = len(same) >= most
    staying = tuple((r.key, r.sure_gb) for r in (same if full else pinned))
    return Shortage(record.key, record.sure_gb, staying, slot, most if full else None, limits.memory_gb)


def limited(host: Host) -> list[Residency]:
    """The queues that may have somebody to turn away now: usually only that of the key being swapped in."""
    if host.limits.queue_timeout_s is None and not host.is_cut_off and host.closing_until is None:
        worked_for = [host.swap and host.swap.wanted, host.forced and host.forced[0]]
        return list(dict.fromkeys(record for record in worked_for if record and record.waiters))
    return list(host.queued.values())


def times(host: Host) -> Iterator[float]:
    """When somebody may have to be turned away."""
    return (due for record in limited(host) for due, _ in due_times(host, record))


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
    if host.blind_since is not None:
        yield max(arrived, host.blind_since) + limits.upstream_grace_s, Rejection.SCHEDULER_FAULT
    if host.swap is not None and host.swap.wanted is record:
        yield max(arrived, host.swap.since) + record.profile.swap_timeout_s, Rejection.SWAP_TIMEOUT
    if limits.drain_timeout_s is not None and host.forced is not None and host.forced[0] is record:
        finishing = host.find(lambda r: r.state is State.DRAINING and bool(r.in_flight))
        yield (host.forced[1] + limits.drain_timeout_s if finishing else math.inf), Rejection.DRAIN_TIMEOUT
    if limits.queue_timeout_s is not None:
        yield arrived + limits.queue_timeout_s, Rejection.QUEUE_TIMEOUT
