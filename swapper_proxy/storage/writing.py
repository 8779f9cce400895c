"""How records become rows."""

import math
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from swapper_proxy.runtime.ports import RequestRecord, StateRecord, SwapRecord
from swapper_proxy.storage.schema import MOST_TOKENS, transaction

LONGEST_S = 1e12  # what says more says nothing

REQUEST = "INSERT INTO requests VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
SWAP = "INSERT INTO swaps VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)"
STATE = "INSERT INTO states VALUES (NULL, ?, ?, ?, ?)"
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


Record = RequestRecord | SwapRecord | StateRecord | Uptime


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
        db.executemany(UPTIME, uptimes)


def _fields(record: SwapRecord | StateRecord) -> tuple[object, ...]:
    values = (getattr(record, name) for name in record.__struct_fields__ if name != "time")
    return _time(record), *_storable(values)


def _time(record: RequestRecord | SwapRecord | StateRecord) -> float:
    """To the millisecond, as it is shown: who asks for what was since then finds it."""
    return round(record.time, 3)


def _request(r: RequestRecord) -> tuple[object, ...]:
    times = (r.wait_s, r.first_byte_s, r.duration_s, *_tokens(r), r.usage.load_s, r.usage.generation_s)
    return _time(r), *_storable((r.model, r.endpoint, r.status, *times))


def _storable(values: Iterable[object]) -> Iterable[object]:
    """A number that SQLite takes for none, or a text that it cannot hold, must not cost the whole batch."""
    for value in values:
        if isinstance(value, float):
            yield _seconds(value)
        elif isinstance(value, str):
            yield value.encode(errors="replace").decode()
        else:
            yield value


def _seconds(value: float) -> float:
    return max(-LONGEST_S, min(value, LONGEST_S)) if not math.isnan(value) else 0.0


def _totals(requests: list[RequestRecord]) -> list[tuple[object, ...]]:
    """What a batch adds, once for each model."""
    of: dict[str, list[float]] = {}
    for r in requests:
        prompt, generated = _tokens(r)
        generation_s = _seconds(r.usage.generation_s)
        sums = of.setdefault(r.model.encode(errors="replace").decode(), [0, 0, 0, 0, 0.0])
        sums[0] += 1
        sums[1] += prompt
        sums[2] += generated
        if generation_s > 0:
            sums[3] += generated
            sums[4] += generation_s
    return [(model, *sums) for model, sums in of.items()]


def _tokens(r: RequestRecord) -> tuple[int, int]:
    """Of the prompt and generated; SQLite could not add up what an Ollama out of its mind may say."""
    return _count(r.usage.prompt_tokens), _count(r.usage.generated_tokens)


def _count(tokens: int) -> int:
    return max(0, min(tokens, MOST_TOKENS))
