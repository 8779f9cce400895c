"""Who takes turns with whom across keys: a client with all that it waits for, and those without a name by weights."""

import pytest

from swapper_proxy.core.commands import Grant, StartLoad
from swapper_proxy.core.events import Arrived, Cancelled, Event, Finished, Loaded, Tick, Unloaded
from swapper_proxy.core.types import Key, Priority, Rules, State
from tests.core.talk import LOW, WIDE, A, B, Talk

KAPPA = Rules(kappa=3.0)
MANY = [1, 64, 900]


def variant(number: int) -> Key:
    return Key("a", (("num_ctx", 1000 + number),))


def gives_way_at(talk: Talk, time: float) -> bool:
    """Return True if what is in memory drains then, and not a moment earlier."""
    talk(time - 0.1, Tick())
    before = State.DRAINING in talk.states.values()
    talk(time, Tick())
    return not before and State.DRAINING in talk.states.values()


def with_others(others: list[Event], priority: Priority = Priority.MEDIUM) -> Talk:
    """A is answering for long since 10, these have come at 11, and B was asked for at 12, by "y"."""
    talk = Talk(rules=KAPPA, max_queue=10_000)
    talk(0, Arrived(1, A, client="w"))
    talk(10, Loaded(A, 1))
    talk(11, *others)
    talk(12, Arrived(2, B, client="y", priority=priority))
    return talk


@pytest.mark.parametrize("client", ["", "x"])
@pytest.mark.parametrize("number", MANY)
def test_variants_count_once_for_the_deadline_of_another(number: int, client: str) -> None:
    talk = with_others([Arrived(10 + i, variant(i), priority=LOW, client=client) for i in range(number)])
    assert gives_way_at(talk, 12 + 3 * (11 + 11))


@pytest.mark.parametrize("number", MANY)
def test_the_models_of_one_client_count_once_for_the_deadline_of_another(number: int) -> None:
    models = [Key(f"m{i}") for i in range(number)]
    talk = with_others([Arrived(10 + i, key, priority=LOW, client="x") for i, key in enumerate(models)])
    assert gives_way_at(talk, 12 + 3 * (11 + 11 + 11))


@pytest.mark.parametrize(("priority", "most_s"), [(Priority.HIGH, 150.0), (Priority.MEDIUM, 600.0)])
def test_many_models_of_many_people_put_nobody_off_beyond_a_multiple_of_max_wait(
    priority: Priority, most_s: float
) -> None:
    models = [Key(f"m{i}") for i in range(900)]
    talk = with_others([Arrived(10 + i, key, priority=LOW) for i, key in enumerate(models)], priority)
    assert gives_way_at(talk, 12 + most_s)


def loads(talk: Talk, first: Key, number: int, service_s: float = 5.0) -> list[tuple[float, Key]]:
    """Carry out what is wanted until so many loads have begun; `first` is being loaded as generation 1."""
    now, key, generation = 0.0, first, 1
    found: list[tuple[float, Key]] = []
    while len(found) < number:
        now += 10.0
        grants = [c for c in talk(now, Loaded(key, generation)) if isinstance(c, Grant)]
        now += service_s
        commands = talk(now, *(Finished(grant.id) for grant in grants), Tick())
        while not (started := [c for c in commands if isinstance(c, StartLoad)]):
            unloads = [c for c in commands if not isinstance(c, Grant)]
            now += 1.0
            commands = talk(
                now, *(Unloaded(c.key, c.generation) for c in unloads if not isinstance(c, StartLoad)), Tick()
            )
        key, generation = started[0].key, started[0].generation
        found.append((now, key))
    return found


@pytest.mark.parametrize("client", ["", "x"])
def test_after_its_turn_a_party_stands_behind_who_came_before(client: str) -> None:
    talk = Talk(rules=KAPPA)
    talk(0, *(Arrived(10 + i, variant(i), client=client) for i in range(64)))
    talk(1, Arrived(2, B, client="" if client == "" else "y"))
    assert [key for _, key in loads(talk, variant(0), 3)] == [B, variant(1), variant(2)]


def test_a_client_is_not_put_off_by_the_variants_of_another_of_the_weights_that_it_wants() -> None:
    talk = Talk(rules=KAPPA)
    talk(0, *(Arrived(10 + i, variant(i), client="x") for i in range(64)))
    talk(1, Arrived(2, A, client="y"))
    assert [key for _, key in loads(talk, variant(0), 2)] == [A, variant(1)]


def test_who_waits_behind_a_client_that_had_its_turn_is_not_put_off_with_it() -> None:
    """The head of the queue is the one that is due first, and the turns of others do not count for it."""
    talk = Talk(rules=KAPPA)
    talk(0, *(Arrived(10 + i, variant(i), WIDE, client="x") for i in range(3)))
    talk(1, Arrived(2, variant(2), WIDE, client="y"))
    assert [key for _, key in loads(talk, variant(0), 2)] == [variant(2), variant(1)]


def test_a_turn_does_not_put_off_another_priority() -> None:
    """Else who is patient would stand behind all that the less patient want of the same weights, for ever."""
    talk = Talk(rules=KAPPA)
    talk(0, Arrived(1, A))
    talk(1, Arrived(2, variant(1), priority=LOW))
    talk(10, Loaded(A, 1))
    record = talk.scheduler.host.records[variant(1)]
    assert (record.arrived_at, record.due) == (1, 241)


def test_a_load_that_is_left_was_a_turn() -> None:
    """Else a client that leaves during its loads would have one after the other."""
    talk = Talk(rules=KAPPA)
    talk(3, Arrived(1, A, client="x"), Arrived(2, variant(1), client="x"))
    talk(5, Cancelled(1))
    talk(13, Loaded(A, 1))
    assert talk.scheduler.host.records[variant(1)].due == 63
