"""Listeners that raise harm nobody."""

import pytest

from swapper_proxy.observe.fanout import Fanout


class Kept:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def changed(self, *what: object) -> None:
        self.heard.append(what)


class Broken:
    def changed(self, *what: object) -> None:
        raise RuntimeError("a bug")

    def upstream(self, reachable: bool) -> None:
        raise RuntimeError("another")


def test_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    before, after = Kept(), Kept()
    listeners = Fanout(before, Broken(), after)
    listeners.changed("a", 1)
    listeners.changed("b", 2)
    assert before.heard == after.heard == [("a", 1), ("b", 2)]
    assert [r.cause for r in caplog.records] == ["Broken.changed"] * 2
    assert "a bug" in caplog.text


def test_those_that_do_not_want_to_hear_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    Fanout(Kept(), Broken()).upstream(True)
    assert "another" in caplog.text


def test_what_nobody_has_is_a_mistake() -> None:
    with pytest.raises(AttributeError):
        Fanout(Kept()).chnaged("a")
    Fanout().changed("a")  # nobody listens
