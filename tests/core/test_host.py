"""The records of a host."""

from swapper_proxy.core.host import Host
from swapper_proxy.core.residency import Waiter
from swapper_proxy.core.types import Cause, Limits, Profile, State
from tests.core.talk import A_GPU, A_LONG, A


def test_a_record_is_made_once_and_is_treated_as_was_said_last() -> None:
    host = Host(Limits())
    record = host.record(A, Profile(parallel=3), 0)
    assert host.record(A, Profile(parallel=4), 0) is record
    assert record.profile.parallel == 4


def test_the_keys_of_a_runner_share_what_is_known_of_its_speed() -> None:
    host = Host(Limits())
    assert host.record(A, Profile(), 0).speed is host.record(A_LONG, Profile(), 0).speed


def test_the_loaded_key_that_serves_a_request_is_its_record() -> None:
    host = Host(Limits())
    loaded = host.record(A_GPU, Profile(), 0)
    assert host.record(A, Profile(), 0) is not loaded
    host.change(loaded, State.RESIDENT, Cause.IDLE, 1)
    assert host.record(A, Profile(), 0) is loaded
    assert host.record(A_LONG, Profile(), 0) is not loaded
    host.change(loaded, State.UNLOADING, Cause.IDLE, 2)
    assert host.record(A, Profile(), 0) is not loaded


def test_the_speed_of_a_runner_changes_the_patience_of_those_who_wait_for_it_only() -> None:
    host = Host(Limits())
    for key in (A, A_LONG):
        host.record(key, Profile(), 0).speed.loaded(1)
    host.learned("b")
    assert host.queued == {}


def test_a_host_is_at_rest_when_nobody_wants_anything_and_nothing_is_done() -> None:
    host = Host(Limits())
    assert host.at_rest
    record = host.record(A, Profile(), 0)
    host.change(record, State.LOADING, Cause.IDLE, 1)
    assert not host.at_rest
    host.change(record, State.RESIDENT, Cause.IDLE, 2)
    assert host.at_rest
    host.enqueue(record, Waiter(1, 1, 3))
    assert not host.at_rest
    host.grant(record, 3)
    assert not host.at_rest
    host.finish(record, 1, 4)
    assert host.at_rest
