"""Checks that what those who wait are told is true, whatever state the host is in."""

import math

from swapper_proxy.core import forecast
from swapper_proxy.core.forecast import NO_TELLING, Outlook, Why
from swapper_proxy.core.host import Host
from swapper_proxy.core.residency import IN_MEMORY, Residency
from swapper_proxy.core.types import State

ON_ITS_WAY_OUT = (State.DRAINING, State.UNLOADING)


def check_what_is_told(host: Host, now: float) -> None:
    told = list(forecast.outlooks(host, now))
    assert len(told) == host.waiting
    for outlook in told:
        assert is_true(host, outlook, now), (outlook, list(host.records.values()))
        assert math.isinf(outlook.start) == (outlook.why in NO_TELLING)
        assert outlook.start >= now


def is_true(host: Host, outlook: Outlook, now: float) -> bool:
    own = host.records[outlook.key]
    blocker = host.records[outlook.blocker] if outlook.blocker else None
    if outlook.why in (Why.BUSY, Why.LOADING, Why.LEAVING, Why.UNLOADING):
        return blocker is own and is_true_of_its_own(outlook.why, own)
    if outlook.why is Why.DOWN:
        return host.down_since is not None
    if outlook.why is Why.BLIND:
        return host.blind_since is not None
    if own.state is not State.ABSENT or host.is_cut_off:
        return False
    if outlook.why is Why.BACKOFF:
        return now < own.loadable_at()
    if blocker is None:
        return outlook.why is Why.TURN
    if outlook.why is Why.SWAPPING:
        return blocker.in_transition
    return not blocker.profile.pinned and is_true_of_another(outlook.why, blocker, now)


def is_true_of_its_own(why: Why, own: Residency) -> bool:
    if why is Why.BUSY:
        return own.state is State.RESIDENT and len(own.in_flight) >= own.profile.parallel
    return own.state is State.LOADING if why is Why.LOADING else own.state in ON_ITS_WAY_OUT


def is_true_of_another(why: Why, blocker: Residency, now: float) -> bool:
    return blocker.state in IN_MEMORY and {
        Why.DRAINING: blocker.state is State.DRAINING,
        Why.GATE: blocker.gate_open(now),
        Why.HOLD: blocker.idle and not blocker.past_hold(now),
        Why.STUCK: now < blocker.unload_backoff.until,
        Why.TURN: bool(blocker.in_flight or blocker.waiters),
    }.get(why, False)
