"""How long Ollama is left alone after a failure."""

from swapper_proxy.core.backoff import BACKOFF_MOST_S, Backoff, LoadBackoffs


def test_back_off_doubles_up_to_a_minute_and_is_forgotten() -> None:
    backoff, now, waits = Backoff(), 100.0, []
    for _ in range(9):
        backoff.failed(now)
        waits.append(backoff.until - now)
        now = backoff.until
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    now += BACKOFF_MOST_S
    assert backoff.forgotten(now)
    backoff.failed(now)
    assert backoff.until == now + 1
    backoff.clear()
    assert backoff.forgotten(now)


def test_what_one_variant_may_not_another_may() -> None:
    backoffs = LoadBackoffs()
    assert [backoffs.failed("mine", now) for now in (0, 1)] == [1, 2]
    assert (backoffs.until("mine"), backoffs.until("alpha")) == (3, 0)
    assert (backoffs.earliest(["mine"]), backoffs.earliest(["mine", "alpha"])) == (3, 0)
    assert backoffs.failed(None, 1) == 1
    assert (backoffs.until("mine"), backoffs.until("alpha")) == (3, 2)
    backoffs.clear("alpha", 1)  # it was loaded: what held for all is over, what is wrong with the other is not
    assert (backoffs.until("mine"), backoffs.until("alpha")) == (3, 0)
    backoffs.clear("mine", 1)
    assert backoffs.until("mine") == 0


def test_what_was_long_ago_is_not_kept() -> None:
    backoffs = LoadBackoffs()
    for n in range(100):
        backoffs.failed(f"mine{n}", 0)
    assert not backoffs.forgotten(60)
    assert backoffs.forgotten(61)
    backoffs.failed("mine", 61)
    assert [backoffs.until(f"mine{n}") for n in range(100)] == [0] * 100
    backoffs.clear_all()
    assert backoffs.forgotten(61)
