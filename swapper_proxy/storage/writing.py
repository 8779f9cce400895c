"""How records become rows."""

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from swapper_proxy.runtime.ports import ProblemRecord, RequestRecord, StateRecord, SwapRecord
from swapper_proxy.storage.schema import transaction

REQUEST = "INSERT INTO requests VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
SWAP = "INSERT INTO swaps VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)"
STATE = "INSERT INTO states VALUES (NULL, ?, ?, ?, ?)"
SAME_PROBLEM = "time = ? AND model = ? AND code = ? AND status = ? AND sent = ?"
GROWN_PROBLEM = f"UPDATE problems SET until = ?, count = ?, message = ? WHERE {SAME_PROBLEM}"
PROBLEM = (
    "INSERT INTO problems (until, count, message, time, model, code, status, sent) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
TOTAL = """
    INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (model) DO UPDATE SET
    requests = requests + excluded.requests, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    generated_tokens = generated_tokens + excluded.generated_tokens,
    generated_timed = generated_timed + excluded.generated_timed, generation_s = generation_s + excluded.generation_s
"""
UPTIME = """
    INSERT INTO uptimes VALUES (?, ?, ?) ON CONFLICT (runner) DO UPDATE SET
    total_s = total_s + excluded.total_s, until = excluded.until
"""


class Uptime(NamedTuple):
    """So many seconds more in memory, until then."""

    runner: str
    seconds: float
    until: float


Record = RequestRecord | SwapRecord | StateRecord | ProblemRecord | Uptime


def write(db: sqlite3.Connection, batch: list[Record]) -> None:
    """All of it or nothing; on the disk when it returns, unless it is only uptimes: these come twice a second."""
    uptimes = [record for record in batch if isinstance(record, Uptime) and record.seconds]
    requests = [record for record in batch if isinstance(record, RequestRecord)]
    db.execute(f"PRAGMA synchronous = {'NORMAL' if len(uptimes) == len(batch) else 'FULL'}")
    with transaction(db):
        db.executemany(REQUEST, map(_request, requests))
        db.executemany(TOTAL, _totals(requests))
        db.executemany(SWAP, (_fields(record) for record in batch if isinstance(record, SwapRecord)))
        db.executemany(STATE, (_fields(record) for record in batch if isinstance(record, StateRecord)))
        _write_problems(db, [record for record in batch if isinstance(record, ProblemRecord)])
        db.executemany(UPTIME, uptimes)


def _write_problems(db: sqlite3.Connection, problems: list[ProblemRecord]) -> None:
    """One that has grown is written over itself; of one that comes more than once in a batch the last is whole."""
    latest = {row[3:]: row for row in map(_problem, problems)}
    for row in latest.values():
        if not db.execute(GROWN_PROBLEM, row).rowcount:
            db.execute(PROBLEM, row)


def _problem(r: ProblemRecord) -> tuple[object, ...]:
    until = max(r.time, r.until)
    return (round(until, 3), r.count, _text(r.message), _time(r), _text(r.model), _text(r.code), r.status, r.sent)


def _fields(record: SwapRecord | StateRecord) -> tuple[object, ...]:
    values = (getattr(record, name) for name in record.__struct_fields__ if name != "time")
    return _time(record), *_storable(values)


def _time(record: RequestRecord | SwapRecord | StateRecord | ProblemRecord) -> float:
    """To the millisecond, as it is shown: who asks for what was since then finds it."""
    return round(record.time, 3)


def _request(r: RequestRecord) -> tuple[object, ...]:
    times = (r.wait_s, r.first_byte_s, r.duration_s)
    figures = (r.usage.prompt_tokens, r.usage.generated_tokens, r.usage.load_s, r.usage.generation_s)
    return _time(r), *_storable((r.model, r.endpoint, r.status, *times, *figures))


def _storable(values: Iterable[object]) -> Iterable[object]:
    """A text that SQLite cannot hold must not cost the whole batch."""
    return (_text(value) if isinstance(value, str) else value for value in values)


def _text(value: str) -> str:
    return value.encode(errors="replace").decode()


def _totals(requests: list[RequestRecord]) -> list[tuple[object, ...]]:
    """What a batch adds, once for each model."""
    of: dict[str, list[float]] = {}
    for r in requests:
        usage = r.usage
        sums = of.setdefault(_text(r.model), [0, 0, 0, 0, 0.0])
        sums[0] += 1
        sums[1] += usage.prompt_tokens
        sums[2] += usage.generated_tokens
        if usage.generation_s > 0:
            sums[3] += usage.generated_tokens
            sums[4] += usage.generation_s
    return [(model, *sums) for model, sums in of.items()]
