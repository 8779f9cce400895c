"""The ring of events: what it keeps, numbers and writes."""

import json

import pytest

from swapper_proxy.runtime.ports import ProblemRecord, RequestRecord, StateRecord, SwapRecord, Usage
from swapper_proxy.web.broadcast import KEPT, MOST_UNSENT_BYTES, Broadcast, Ring

TIME = 1763807400.1234


def state(number: int) -> StateRecord:
    return StateRecord(TIME, f"m{number}", "loaded", "idle")


def filled(number: int, size: int = 3) -> Ring:
    ring = Ring("run", size)
    for n in range(1, number + 1):
        ring.add(state(n))
    return ring


def ids(wire: bytes) -> list[str]:
    return [line.removeprefix("id: ") for line in wire.decode().splitlines() if line.startswith("id: ")]


@pytest.mark.parametrize(
    ("id_", "number"),
    [
        ("run-5", 5),
        ("run-4", 4),
        ("run-2", 2),  # 3 is the oldest that is kept
        ("run-1", None),
        ("run-6", None),  # was never given
        ("other-4", None),
        ("run", None),
        ("run-", None),
        ("run--4", None),
        ("run- 4", None),
        ("run-٤", None),
        ("run-" + "4" * 10_000, None),
        ("", None),
    ],
)
def test_which_ids_can_be_resumed(id_: str, number: int | None) -> None:
    assert filled(5).resumable(id_) == number


def test_before_anything_happened() -> None:
    ring = Ring("run")
    assert ring.latest_id == "run-0"
    assert ring.resumable("run-0") == 0
    assert ring.after(0) == b""


@pytest.mark.parametrize(
    ("number", "expected"),
    [(5, []), (4, ["run-5"]), (2, ["run-3", "run-4", "run-5"]), (0, ["run-3", "run-4", "run-5"])],
)
def test_what_came_after(number: int, expected: list[str]) -> None:
    ring = filled(5)
    assert ids(ring.after(number)) == expected
    assert ring.latest_id == "run-5"


@pytest.mark.parametrize(
    ("record", "kind", "data"),
    [
        (state(1), "state", {"model": "m1", "state": "loaded", "cause": "idle"}),
        (
            SwapRecord(TIME, "a", "b", "deadline", 0.5, 0.25, 2.0, False),
            "swap",
            {
                "from_model": "a",
                "to_model": "b",
                "reason": "deadline",
                "drain_s": 0.5,
                "unload_s": 0.25,
                "load_s": 2.0,
                "failed": False,
            },
        ),
        (
            RequestRecord(TIME, "a", "chat", 200, 0.1, None, 1.5, Usage(3, 4, 0.5, 1.0)),
            "request",
            {
                "model": "a",
                "endpoint": "chat",
                "status": 200,
                "wait_s": 0.1,
                "first_byte_s": None,
                "duration_s": 1.5,
                "prompt_tokens": 3,
                "generated_tokens": 4,
                "load_s": 0.5,
                "generation_s": 1.0,
            },
        ),
        (
            ProblemRecord(TIME, "a\n\nevent: x", "c", "two\r\nlines"),
            "problem",
            {
                **{"model": "a\n\nevent: x", "code": "c", "message": "two\r\nlines", "status": 0, "sent": False},
                **{"count": 1, "until": "2025-11-22T10:30:00.123+00:00"},
            },
        ),
    ],
)
def test_how_each_kind_is_written(record: StateRecord, kind: str, data: dict[str, object]) -> None:
    ring = Ring("run")
    ring.add(record)
    wire = ring.after(0).decode()
    id_, event, written, *end = wire.split("\n")
    assert (id_, event, end) == ("id: run-1", f"event: {kind}", ["", ""])
    assert json.loads(written.removeprefix("data: ")) == {"time": "2025-11-22T10:30:00.123+00:00"} | data
    assert "\r" not in wire


class Consumer:
    """What an exchange is to the broadcast."""

    def __init__(self) -> None:
        self.got = b""
        self.unsent = 0
        self.aborted = False

    def write(self, data: bytes) -> bool:
        self.got += data
        return True

    def abort(self) -> None:
        self.aborted = True


async def test_each_gets_what_happens_from_when_it_joined() -> None:
    broadcast, early, late = Broadcast(), Consumer(), Consumer()
    broadcast.state(state(1))
    broadcast.join(early)  # type: ignore[arg-type]
    broadcast.state(state(2))
    broadcast.join(late)  # type: ignore[arg-type]
    broadcast.state(state(3))
    broadcast.flush()
    broadcast.flush()
    assert [i.rpartition("-")[2] for i in ids(early.got)] == ["2", "3"]
    assert [i.rpartition("-")[2] for i in ids(late.got)] == ["3"]


async def test_who_does_not_read_is_dropped_and_the_others_are_not() -> None:
    broadcast, reads, sleeps = Broadcast(), Consumer(), Consumer()
    for consumer in (reads, sleeps):
        broadcast.join(consumer)  # type: ignore[arg-type]
    sleeps.unsent = MOST_UNSENT_BYTES + 1
    broadcast.state(state(1))
    broadcast.flush()
    assert (sleeps.aborted, sleeps.got) == (True, b"")
    assert (reads.aborted, len(ids(reads.got))) == (False, 1)
    assert broadcast.consumers == {reads}


async def test_nothing_is_written_out_while_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("swapper_proxy.web.broadcast.event", lambda kind, _, id_: written.append(kind) or b"x")
    broadcast = Broadcast()
    for number in range(KEPT + 500):
        broadcast.state(state(number))
    broadcast.flush()
    assert written == []
    assert broadcast.ring.after(0) == broadcast.ring.after(0) == b"x" * KEPT
    assert len(written) == KEPT  # once each
