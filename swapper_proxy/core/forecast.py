"""Guesses for people: when those who wait will be served.  The policy never looks at them."""

from swapper_proxy.core.host import Host
from swapper_proxy.core.residency import Residency


def wait_s(host: Host, record: Residency, now: float) -> float:
    """Seconds until a request that arrives now would be served."""
    return 5.0
