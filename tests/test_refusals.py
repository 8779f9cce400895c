"""Refused requests are recorded as a few records that grow, however many there are."""

import pytest

from swapper_proxy.observe import refusals
from swapper_proxy.observe.refusals import MINUTE_S, MOST_NAMES, Refusals
from swapper_proxy.runtime.ports import ProblemRecord
from tests.waiting import until

NOON = 1_764_072_000.0  # on the minute


class Kept:
    """What was recorded: the last of each row, and how often anything was told."""

    def __init__(self) -> None:
        self.rows: dict[tuple[object, ...], ProblemRecord] = {}
        self.told = 0

    def problem(self, record: ProblemRecord) -> None:
        self.told += 1
        self.rows[record.time, record.model, record.code, record.status, record.sent] = record


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [NOON + 10]
    monkeypatch.setattr(refusals.time, "time", lambda: now[0])
    return now


def refused(told: Refusals, model: str = "a", status: int = 502, *, sent: bool = False, message: str = "away") -> None:
    told.refused(model, "upstream_unreachable", message, status, sent)


async def test_the_first_is_told_at_once_and_more_of_them_soon(clock: list[float]) -> None:
    kept = Kept()
    told = Refusals(kept)  # type: ignore[arg-type]
    refused(told, message="refused")
    (first,) = kept.rows.values()
    assert (first.count, first.time, first.until, first.message) == (1, NOON + 10, NOON + 10, "refused")
    for _ in range(10_000):
        clock[0] += 0.001
        refused(told, message="timed out")
    assert kept.told == 1

    async def grown() -> bool:
        return kept.told == 2

    await until(grown)
    (all_of_them,) = kept.rows.values()
    assert (all_of_them.count, all_of_them.time, all_of_them.message) == (10_001, NOON + 10, "timed out")
    assert all_of_them.until == pytest.approx(NOON + 20)


async def test_each_minute_begins_another_and_none_is_lost(clock: list[float]) -> None:
    kept = Kept()
    told = Refusals(kept)  # type: ignore[arg-type]
    for _ in range(3):
        refused(told)
        refused(told)
        clock[0] += MINUTE_S
    told.flush()
    assert [(row.count, row.time) for row in kept.rows.values()] == [
        (2, NOON + 10),
        (2, NOON + 10 + MINUTE_S),
        (2, NOON + 10 + 2 * MINUTE_S),
    ]


async def test_a_clock_that_is_set_back_begins_another(clock: list[float]) -> None:
    kept = Kept()
    told = Refusals(kept)  # type: ignore[arg-type]
    refused(told)
    clock[0] -= 3600
    refused(told)
    assert [row.count for row in kept.rows.values()] == [1, 1]


async def test_what_differs_is_told_apart(clock: list[float]) -> None:
    kept = Kept()
    told = Refusals(kept)  # type: ignore[arg-type]
    for _ in range(2):
        refused(told)
        refused(told, "b")
        refused(told, status=504)
        refused(told, sent=True)
        told.refused("a", "queue_full", "full", 502, False)
    told.flush()
    assert [row.count for row in kept.rows.values()] == [2] * 5


async def test_names_without_end_are_counted_without_a_name(clock: list[float]) -> None:
    kept = Kept()
    told = Refusals(kept)  # type: ignore[arg-type]
    for number in range(10 * MOST_NAMES):
        refused(told, f"model-{number}")
    refused(told, "model-0")
    told.flush()
    assert len(kept.rows) == MOST_NAMES + 1
    assert sum(row.count for row in kept.rows.values()) == 10 * MOST_NAMES + 1
    counts = {row.model: row.count for row in kept.rows.values()}
    assert (counts["model-0"], counts[""]) == (2, 9 * MOST_NAMES)
    clock[0] += MINUTE_S
    refused(told, "model-499")
    assert [row.model for row in kept.rows.values()][-1] == "model-499"
