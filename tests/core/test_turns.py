"""The clients that wait for a model are served in turn: one's 500 requests do not stand before another's first."""

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swapper_proxy.core import forecast
from swapper_proxy.core.commands import Answer, Command, Grant, StartLoad, StartUnload
from swapper_proxy.core.events import (
    Arrived,
    Cancelled,
    Event,
    Finished,
    Loaded,
    LoadRequested,
    Tick,
    Unloaded,
    UnloadRequested,
)
from swapper_proxy.core.types import MAX_WAIT_S, Key, Limits, Priority, Profile, State
from tests.core.talk import HIGH, LOW, A, B, Talk
from tests.core.witness import KEYS, Witness

LOAD_S, SERVICE_S = 10.0, 5.0


def requests(client: str, ids: Iterable[int], priority: Priority = Priority.MEDIUM) -> list[Event]:
    return [Arrived(id_, A, priority=priority, client=client) for id_ in ids]


def granted(commands: list[Command]) -> list[int]:
    return [command.id for command in commands if isinstance(command, Grant)]


def served(talk: Talk, now: float, first: int) -> list[int]:
    """Who is served after `first`, one after the other."""
    order = [first]
    while ids := granted(talk(now, Finished(order[-1]))):
        order += ids
        now += SERVICE_S
    return order[1:]


@pytest.fixture
def busy() -> Talk:
    """A, whose patience is not cut short, is resident and answers request 0 since 10."""
    talk = Talk()
    talk(0, Arrived(0, A))
    talk(LOAD_S, Loaded(A, 1))
    return talk


def test_five_hundred_requests_of_one_do_not_stand_before_anothers_first(busy: Talk) -> None:
    busy(11, *requests("script", range(1, 501)))
    busy(12, *requests("chat", [501, 502]))
    assert served(busy, 15, 0)[:5] == [1, 501, 2, 502, 3]


def test_also_if_they_are_long_overdue_and_the_other_is_more_urgent(busy: Talk) -> None:
    """Due first is the script until the end; but each turn of it counts as if it had come then."""
    busy(11, *requests("script", range(1, 501)))
    busy(1011, *requests("chat", [501], HIGH))
    assert served(busy, 1012, 0)[:3] == [1, 501, 2]


def test_those_without_a_client_are_one_client_in_order_of_due(busy: Talk) -> None:
    busy(11, *requests("", [1, 2], LOW), *requests("", [3, 4]), *requests("", [5], HIGH))
    assert served(busy, 15, 0) == [5, 3, 4, 1, 2]


def test_three_take_turns_and_who_comes_later_stands_behind_them(busy: Talk) -> None:
    busy(11, *requests("a", [1, 2, 3]), *requests("b", [4, 5]))
    busy(12, *requests("c", [6, 7]))
    assert granted(busy(15, Finished(0))) == [1]
    busy(16, *requests("d", [8]))
    assert served(busy, 17, 1) == [4, 6, 2, 8, 5, 7, 3]


def test_who_has_gone_and_comes_back_stands_behind_the_others(busy: Talk) -> None:
    busy(11, *requests("a", [1]), *requests("b", [2, 3]))
    busy(12, Cancelled(1))
    busy(13, *requests("a", [4]))
    assert served(busy, 15, 0) == [2, 4, 3]


def test_a_client_keeps_its_turn_when_its_first_request_leaves(busy: Talk) -> None:
    busy(11, *requests("a", [1, 2]), *requests("b", [3]))
    busy(12, Cancelled(1))
    assert served(busy, 15, 0) == [2, 3]


def test_the_more_urgent_client_is_served_until_the_patience_of_the_other_ends(busy: Talk) -> None:
    """45 s lie between the patience of high and medium: nine answers, and the one that is due just then."""
    busy(14, *requests("batch", [99]))
    busy(14, *requests("urgent", range(1, 31), HIGH))
    assert served(busy, 15, 0).index(99) == 10


def test_a_turn_is_spent_on_the_clients_own_request_that_is_due_first(busy: Talk) -> None:
    """One urgent request lends its urgency to what its client has waiting before it."""
    busy(11, *requests("a", [1, 3, 5]), *requests("b", [2, 4]))
    assert granted(busy(100, Finished(0))) == [1]
    assert granted(busy(105, Finished(1))) == [2]
    busy(106, *requests("b", [6], HIGH))
    assert served(busy, 110, 2) == [4, 6, 3, 5]


def test_nothing_is_kept_of_clients_that_do_not_wait(busy: Talk) -> None:
    for number in range(1, 1000):
        busy(11, *requests(f"client {number}", [number], list(Priority)[number % 3]))
    busy(12, *(Cancelled(number) for number in range(1, 1000, 2)))
    served(busy, 15, 0)
    (record,) = busy.scheduler.residencies()
    assert len(record.waiters) == 0
    assert not any(record.waiters._lines.values())


def test_an_old_request_forces_a_swap_when_it_is_due_though_it_is_anothers_turn(busy: Talk) -> None:
    """The script's second came at 11 and is due at 71; the chat came later and is served before it."""
    busy(10.5, Arrived(3, B))
    busy(11, *requests("script", [1, 2]))
    busy(12, *requests("chat", [4]))
    assert granted(busy(15, Finished(0))) == [1]
    busy(16, UnloadRequested(9, "a"))
    busy(17, Finished(1))
    assert busy(18, Unloaded(A, 2)) == [Answer(9), StartLoad(B, 3, 3)]
    assert busy(28, Loaded(B, 3)) == [Grant(3)]
    assert busy(70.9, Tick()) == []
    assert busy.states == {B: State.RESIDENT}
    busy(71, Tick())
    assert busy.states == {B: State.DRAINING}
    assert busy(72, Finished(3)) == [StartUnload(B, 4)]
    assert busy(73, Unloaded(B, 4)) == [StartLoad(A, 5, 2)]
    assert busy(83, Loaded(A, 5)) == [Grant(4)]
    assert busy(84, Finished(4)) == [Grant(2)]


def test_who_only_wants_it_loaded_is_shown_first_and_takes_no_turn() -> None:
    talk = Talk()
    talk(0, Arrived(1, A, client="a"), LoadRequested(2, A, priority=LOW), Arrived(3, A, client="a"))
    shown = list(forecast.outlooks(talk.scheduler.host, 1))
    assert [(o.waiter.id, o.start) for o in shown] == [(2, LOAD_S), (1, LOAD_S), (3, LOAD_S + SERVICE_S)]


# Whatever happens

priorities = st.sampled_from(list(Priority))
arrivals = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 4), priorities, st.sampled_from((0.0, 1.0, 20.0, 90.0))),
    min_size=1,
    max_size=12,
)


@given(arrivals)
def test_the_forecast_is_the_order_in_which_they_are_served(arrivals: list[tuple[str, int, Priority, float]]) -> None:
    talk, now, ids = Talk(), LOAD_S, 0
    talk(0, LoadRequested(-1, A))
    talk(LOAD_S, Loaded(A, 1), Arrived(0, A))
    for client, number, priority, later in arrivals:
        now += later
        talk(now, *requests(client, range(ids + 1, ids + number + 1), priority))
        ids += number
    (first,) = granted(talk(now, Finished(0)))
    talk.scheduler.host.records[A].speed.service_s = SERVICE_S
    shown = [(o.waiter.id, o.start) for o in forecast.outlooks(talk.scheduler.host, now)]
    assert [id_ for id_, _ in shown] == served(talk, now + SERVICE_S, first)
    assert [start for _, start in shown] == [now + SERVICE_S * turn for turn in range(1, ids)]


class Turns:
    """Since when who waits with which priority, and who had a turn meanwhile."""

    def __init__(self) -> None:
        self.waiting: dict[int, tuple[str, Priority]] = {}
        self.since: dict[tuple[str, Priority], float] = {}
        self.others: dict[tuple[str, Priority], dict[str, float]] = {}  # who had a turn since then, and when

    def come(self, id_: int, client: str, priority: Priority, now: float) -> None:
        if (client, priority) not in self.waiting.values():
            self.begin(client, priority, now)
        self.waiting[id_] = (client, priority)

    def begin(self, client: str, priority: Priority, now: float) -> None:
        self.since[client, priority], self.others[client, priority] = now, {}

    def turn(self, id_: int, now: float) -> None:
        """Two turns before somebody's next are for the more urgent, and only while that one's patience is longer."""
        client = self.waiting[id_][0]
        best = min(MAX_WAIT_S[priority] for who, priority in self.waiting.values() if who == client)
        for who, priority in set(self.waiting.values()):
            if who == client:
                self.begin(who, priority, now)
                continue
            had = self.others[who, priority]
            if client in had:
                assert best < MAX_WAIT_S[priority]
                assert had[client] <= self.since[who, priority] + MAX_WAIT_S[priority] - best
            had[client] = now
        del self.waiting[id_]


steps = st.lists(
    st.tuples(
        st.sampled_from(("come", "come", "leave", "finish", "finish")),
        st.sampled_from("abcd"),
        st.integers(1, 5),
        priorities,
        st.sampled_from((0.0, 0.0, 1.0, 20.0, 90.0)),
    ),
    min_size=15,
    max_size=60,
)


@given(steps, st.integers(1, 3), st.sampled_from(([HIGH], list(Priority))))
def test_nobody_has_two_turns_before_anothers_next(
    steps: list[tuple[str, str, int, Priority, float]], parallel: int, allowed: list[Priority]
) -> None:
    """With one priority, before the k-th turn of a client that waits nobody else has more than k."""
    talk, turns, now, ids, profile = Talk(), Turns(), LOAD_S, 0, Profile(parallel=parallel)
    talk(0, LoadRequested(-1, A, profile))
    talk(LOAD_S, Loaded(A, 1))
    in_flight: list[int] = []
    for what, client, number, wished, later in steps:
        now += later
        events: list[Event] = []
        if what == "come":
            priority = wished if wished in allowed else allowed[0]
            for id_ in range(ids, ids + number):
                turns.come(id_, client, priority, now)
                events.append(Arrived(id_, A, profile, priority=priority, client=client))
            ids += number
        elif what == "finish" and in_flight:
            events.append(Finished(in_flight.pop(0)))
        elif what == "leave" and turns.waiting:
            id_ = sorted(turns.waiting)[number % len(turns.waiting)]
            del turns.waiting[id_]
            events.append(Cancelled(id_))
        for id_ in granted(talk(now, *events)):
            turns.turn(id_, now)
            in_flight.append(id_)


@example(
    [
        ("come", Key("a"), Priority.HIGH, 0.0),
        ("come", Key("a"), Priority.HIGH, 0.0),
        ("come", Key("b"), Priority.MEDIUM, 0.0),
        ("come", Key("a"), Priority.MEDIUM, 20.0),
        ("come", Key("b"), Priority.HIGH, 0.0),
        ("swap", Key("a"), Priority.HIGH, 0.0),
        ("come", Key("a"), Priority.HIGH, 20.0),
        ("finish", Key("a"), Priority.HIGH, 0.0),
        ("swap", Key("a"), Priority.HIGH, 0.0),
        ("swap", Key("a"), Priority.HIGH, 0.0),
    ]
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("come", "come", "come", "leave", "finish", "swap")),
            st.sampled_from(KEYS[::4]),
            priorities,
            st.sampled_from((0.0, 1.0, 20.0)),
        ),
        min_size=10,
        max_size=80,
    )
)
def test_one_client_is_served_as_if_there_were_no_turns(steps: list[tuple[str, Key, Priority, float]]) -> None:
    """The witness compares with a scheduler that knows nothing of clients."""
    witness = Witness(Limits(), one_client=True)
    for what, key, priority, later in steps:
        witness.now += later
        waiting = sorted(witness.asked.keys() - witness.outcomes.keys() - witness.cancelled)
        if what == "come":
            profile = witness.profiles[key.runner]
            witness.happen(Arrived(witness.ask(key), key, profile, None, priority, client="one"))
        elif what == "leave" and waiting:
            witness.happen(witness.leave(waiting[len(waiting) // 2], Cancelled))
        elif what == "finish" and witness.in_flight:
            witness.happen(witness.leave(min(witness.in_flight), Finished))
        elif what == "swap" and witness.under_way:
            (state, wanted, generation), witness.under_way = witness.under_way, None
            witness.happen((Loaded if state is State.LOADING else Unloaded)(wanted, generation))
