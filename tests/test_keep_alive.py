"""keep_alive as Ollama reads it, and who keeps it."""

import math

import pytest

from swapper_proxy.config.keep_alive import InvalidKeepAlive, KeepAlive, divided, seconds_of


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (5, 5),
        (1.9, 1),
        (-1, math.inf),
        (10**12, math.inf),
        ("5m", 300),
        ("1h30m", 5400),
        ("0", 0),
        ("0s", 0),
        ("-1m", math.inf),
        (".5s", 0.5),
        ("300ms", 0.3),
    ],
)
def test_seconds(value: KeepAlive, seconds: float) -> None:
    assert seconds_of(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "300", "-1", "1d", "x", "5m x", "99999999h", math.nan, math.inf])
def test_what_ollama_refuses(value: KeepAlive) -> None:
    with pytest.raises(InvalidKeepAlive):
        seconds_of(value)


@pytest.mark.parametrize(
    ("value", "sent", "ttl_s"),
    [(None, None, None), (0, 60, 0), ("30s", 60, 30), (60, 60, math.inf), ("5m", "5m", math.inf), (-1, -1, math.inf)],
)
def test_a_short_one_is_for_the_scheduler(value: KeepAlive | None, sent: object, ttl_s: float | None) -> None:
    assert divided(value) == (sent, ttl_s)
