"""Keys, and the errors that carry a status and a code."""

import pytest

from swapper_proxy.core.errors import Failure, ProxyError, Rejected, Rejection
from swapper_proxy.core.types import Key, State


def test_a_request_overrides_the_modelfile() -> None:
    key = Key.of("r", {"num_ctx": 4096, "num_batch": 256}, {"num_ctx": 8192})
    assert key == Key("r", (("num_batch", 256), ("num_ctx", 8192)))


def test_a_default_said_aloud_is_no_other_key() -> None:
    assert Key.of("r", {"num_batch": 512}, {"num_gpu": -1, "num_thread": 0}) == Key("r")


def test_the_order_of_options_does_not_matter() -> None:
    assert Key.of("r", {}, {"num_ctx": 1, "num_batch": 2}) == Key.of("r", {"num_batch": 2}, {"num_ctx": 1})


@pytest.mark.parametrize(
    ("wanted", "resident", "served"),
    [
        ({}, {}, True),
        ({"num_gpu": 5}, {"num_gpu": 5}, True),
        ({}, {"num_gpu": 5}, True),
        ({"num_ctx": 1}, {"num_ctx": 1, "num_gpu": 5}, True),
        ({"num_gpu": 5}, {}, False),
        ({"num_gpu": 5}, {"num_gpu": 6}, False),
        ({}, {"num_ctx": 1}, False),
        ({"num_ctx": 1}, {"num_gpu": 5}, False),
    ],
)
def test_who_is_served_without_a_reload(wanted: dict[str, int], resident: dict[str, int], served: bool) -> None:
    assert Key.of("r", {}, wanted).served_by(Key.of("r", {}, resident)) is served


def test_another_runner_serves_nobody_else() -> None:
    assert not Key("r").served_by(Key("s"))


def test_states_are_their_names() -> None:
    assert [str(state) for state in State] == ["absent", "loading", "resident", "draining", "unloading"]


def test_rejections_have_codes_of_their_own() -> None:
    assert len({reason.code for reason in Rejection}) == len(Rejection)
    assert {reason.status for reason in Rejection} <= {409, 500, 502, 503, 504, 507}


def test_an_error_of_the_proxy() -> None:
    error = ProxyError(418, "teapot", "short and stout", 3.0)
    assert (error.status, error.code, error.message, error.retry_after_s) == (418, "teapot", "short and stout", 3.0)
    assert str(error) == "short and stout"


def test_a_rejection_as_an_error() -> None:
    failure = Failure(500, b"out of memory", "text/plain")
    error = Rejected(Rejection.LOAD_FAILED, 2.0, failure)
    assert (error.status, error.code, error.message) == (503, "load_failed", "the model could not be loaded")
    assert (error.reason, error.retry_after_s, error.failure) == (Rejection.LOAD_FAILED, 2.0, failure)


def test_a_default_that_overrides_the_modelfile_is_said() -> None:
    key = Key.of("r", {"num_batch": 256}, {"num_batch": 512})
    assert key == Key("r", (("num_batch", 512),))
    assert not Key.of("r", {"num_batch": 256}, {}).served_by(key)
