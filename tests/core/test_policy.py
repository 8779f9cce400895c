"""Which key is next and what goes for it."""

from swapper_proxy.core.policy import excess, next_load
from swapper_proxy.core.residency import BACKOFF_MOST_S, Backoff, Residency, Waiter
from swapper_proxy.core.types import Key, Limits, State

ONE, TWO = Limits(max_resident=1), Limits(max_resident=2)


def wanted(runner: str, *arrivals: float, manual: bool = False, options: tuple = ()) -> Residency:
    record = Residency(Key(runner, options))
    record.waiters = {n: Waiter(n, at, manual) for n, at in enumerate(arrivals)}
    return record


def resident(runner: str, last_used: float = 0, state: State = State.RESIDENT) -> Residency:
    return Residency(Key(runner), state=state, last_used=last_used)


def chosen(records: list[Residency], limits: Limits = ONE, now: float = 10) -> tuple[str, list[str]] | None:
    plan = next_load(records, limits, now)
    return plan and (plan.wanted.key.runner, [victim.key.runner for victim in plan.victims])


def test_nobody_waits() -> None:
    assert chosen([resident("a"), Residency(Key("b"))]) is None


def test_there_is_room() -> None:
    assert chosen([resident("a"), wanted("b", 1)], TWO) == ("b", [])


def test_the_oldest_waiter_is_first() -> None:
    assert chosen([wanted("a", 2), wanted("b", 1), wanted("c", 3)]) == ("b", [])


def test_a_manual_load_is_before_requests() -> None:
    assert chosen([wanted("a", 1), wanted("b", 2, manual=True)]) == ("b", [])


def test_a_manual_load_counts_wherever_it_stands_in_the_queue() -> None:
    behind = wanted("b", 2, 3)
    behind.waiters[1] = Waiter(1, 3, manual=True)
    assert chosen([wanted("a", 1), behind]) == ("b", [])


def test_a_key_in_back_off_is_no_candidate() -> None:
    failed = wanted("a", 1)
    failed.load_backoff.failed(9.5)
    assert chosen([failed, wanted("b", 2)]) == ("b", [])
    assert chosen([failed, wanted("b", 2)], now=10.5) == ("a", [])


def test_the_least_recently_used_goes() -> None:
    assert chosen([resident("a", 5), resident("b", 4), wanted("c", 9)], TWO) == ("c", ["b"])


def test_as_many_go_as_the_limit_asks_for() -> None:
    assert chosen([resident("a", 5), resident("b", 4), wanted("c", 9)], ONE) == ("c", ["b", "a"])


def test_the_same_runner_goes_even_where_there_is_room() -> None:
    assert chosen([resident("a"), wanted("a", 1, options=(("num_ctx", 1),))], TWO) == ("a", ["a"])


def test_the_same_runner_makes_the_room() -> None:
    records = [resident("b", 0), resident("a", 5), wanted("a", 1, options=(("num_ctx", 1),))]
    assert chosen(records, TWO) == ("a", ["a"])


def test_a_busy_resident_stays() -> None:
    busy = resident("a")
    busy.in_flight.add(1)
    assert chosen([busy, wanted("b", 1)]) is None
    assert chosen([busy, resident("c", 9), wanted("b", 1)], TWO) == ("b", ["c"])


def test_a_resident_somebody_waits_for_stays() -> None:
    awaited = wanted("a", 5)
    awaited.state = State.RESIDENT
    assert chosen([awaited, wanted("b", 1)]) is None


def test_a_resident_that_did_not_go_is_left_alone_for_a_while() -> None:
    stubborn = resident("a", 1)
    stubborn.unload_backoff.failed(9.5)
    assert chosen([stubborn, wanted("b", 1)]) is None
    assert chosen([stubborn, resident("c", 2), wanted("b", 1)], TWO) == ("b", ["c"])
    assert chosen([stubborn, wanted("b", 1)], now=10.5) == ("b", ["a"])


def test_the_first_that_can_be_helped_is_taken() -> None:
    busy = resident("a")
    busy.in_flight.add(1)
    assert chosen([busy, wanted("a", 1, options=(("num_ctx", 1),)), wanted("b", 2)], TWO) == ("b", [])


def test_excess() -> None:
    records = [resident("a", 3), resident("b", 1), resident("c", 2), Residency(Key("d"))]
    assert excess(records, Limits(max_resident=3)) == []
    assert [record.key.runner for record in excess(records, ONE)] == ["b", "c"]


def test_what_is_going_anyway_is_no_excess() -> None:
    assert excess([resident("a"), resident("b", state=State.DRAINING), resident("c", state=State.UNLOADING)], ONE) == []


def test_a_load_under_way_counts_and_stays() -> None:
    records = [resident("a", 9), resident("b", state=State.LOADING)]
    assert [record.key.runner for record in excess(records, ONE)] == ["a"]


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
