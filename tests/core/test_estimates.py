"""What is learned of loads and unloads, and the formula of holds against its definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swapper_proxy.core.estimates import BLIND_HOLD, HOLD_MARGIN, HOLD_MARGIN_S, Speed, hold_s

times = st.floats(0, 100)
WELL = pytest.approx


def test_before_anything_is_known() -> None:
    speed = Speed()
    assert (speed.load_s, speed.unload_s, speed.swap_s) == (10, 1, 11)


def test_a_size_is_worth_a_guess_until_a_load_was_measured() -> None:
    speed = Speed()
    speed.sized(None)
    assert speed.load_s == 10
    speed.sized(8)
    assert speed.load_s == 6
    speed.loaded(3)
    speed.sized(100)
    assert speed.load_s == 3


def test_answers_are_measured_too() -> None:
    speed = Speed()
    speed.served(2)
    assert speed.service_s == 2
    speed.served(12)
    assert speed.service_s == WELL(5)


def test_what_takes_half_as_long_as_a_load_is_a_load() -> None:
    speed = Speed()
    speed.loaded(4)
    assert speed.is_load(2)
    assert not speed.is_load(1.9)
    for _ in range(50):
        speed.loaded(0.01)
    assert not speed.is_load(0.09)
    assert speed.is_load(0.1)


def test_the_first_measurement_counts_alone_and_the_next_three_tenths() -> None:
    speed = Speed()
    speed.loaded(4)
    speed.unloaded(2)
    assert speed.swap_s == 6
    speed.loaded(14)
    speed.unloaded(12)
    assert (speed.load_s, speed.unload_s) == (WELL(7), WELL(5))


@given(st.lists(times, min_size=1))
def test_the_average_stays_within_what_was_measured(seconds: list[float]) -> None:
    speed = Speed()
    for s in seconds:
        speed.loaded(s)
        speed.unloaded(s)
    assert min(seconds) - 1e-9 <= speed.load_s <= max(seconds) + 1e-9
    assert speed.load_s == speed.unload_s


def pays(h: float, gaps: list[float], swap_s: float, waiting: int) -> float:
    """By definition: the chance to be right times half of a swap, less what all who wait may be expected to wait."""
    samples = [*gaps, math.inf]
    chance = sum(gap <= h for gap in samples) / len(samples)
    return chance * swap_s / 2 - waiting * sum(min(gap, h) for gap in samples) / len(samples)


@given(st.lists(times, min_size=1, max_size=32), st.floats(0.1, 100), st.integers(1, 8), st.sampled_from((0, 0.5, 1)))
def test_a_hold_is_the_gap_that_pays_best(gaps: list[float], swap_s: float, waiting: int, theta: float) -> None:
    longest = theta * swap_s
    best = max((pays(h, gaps, swap_s, waiting) for h in gaps if h <= longest), default=0)
    held = hold_s(gaps, swap_s, waiting, theta)
    if best < 1e-9:
        assert held == 0 or best > -1e-9
    else:
        hits = [h for h in gaps if h <= longest and pays(h, gaps, swap_s, waiting) >= best - 1e-9]
        assert any(held == WELL(min(longest, HOLD_MARGIN * h + HOLD_MARGIN_S)) for h in hits)
    assert 0 <= held <= longest


@given(st.floats(0.1, 100), st.integers(1, 50))
def test_without_experience_all_who_wait_lose_a_part_of_a_swap(swap_s: float, waiting: int) -> None:
    assert hold_s([], swap_s, waiting, 1) * waiting == WELL(swap_s * BLIND_HOLD)
    assert hold_s([], swap_s, waiting, 0) == 0


def test_a_client_that_is_always_slow_is_not_held() -> None:
    assert hold_s([50.0] * 32, 10, 1, 1) == 0


def test_a_habit_with_an_exception_is_held_for_the_habit() -> None:
    assert hold_s([0.2] * 30 + [90.0], 10, 1, 1) == WELL(0.3)
