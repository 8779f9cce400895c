"""What is added up of residencies."""

import time

import pytest

from swapper_proxy.core.commands import Changed
from swapper_proxy.core.types import Cause, Key, State
from swapper_proxy.runtime.ledger import Ledger, Past


def test_a_clock_that_is_set_right_adds_nothing_to_the_uptime(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small machine starts in the past and learns the time from the network; the sum is kept for ever."""
    ledger, monotonic = Ledger(), time.monotonic()
    ledger.recall(Past(uptime_s={"w": 50.0}))
    for later, epoch, state in ((0, 0.0, State.RESIDENT), (2, 1.8e9, State.UNLOADING), (3, 9e8, State.ABSENT)):
        monkeypatch.setattr(time, "monotonic", lambda later=later: monotonic + later)
        monkeypatch.setattr(time, "time", lambda epoch=epoch: epoch)
        assert ledger.uptimes_s() == pytest.approx({"w": 50.0 + later})
        ledger.changed(Changed(Key("w"), state, Cause.IDLE))
    residence = ledger.residence("w")
    assert ledger.uptimes_s() == pytest.approx({"w": 53.0})
    assert (residence.loaded_at, residence.unloaded_at, residence.uptime_s) == (0.0, 9e8, 0.0)
