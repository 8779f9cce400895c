"""GET /history/*: what was kept of requests, swaps, states and problems.  Every parameter is checked."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from swapper_proxy.core.errors import ProxyError

Value = str | int | float
Row = dict[str, object]

DEFAULT_LIMIT, MOST = 100, 1000  # rows
STRETCHES = {"hour": 3600, "day": 86_400}  # seconds
LAST_ID = 2**63 - 1  # that SQLite can hold
END_OF_TIME = 253_402_300_800  # the year 10000, in seconds since the epoch


class Archive(Protocol):
    """Where it is kept (see storage.history).  Both raise ProxyError where nothing is kept."""

    async def page(self, table: str, wanted: Mapping[str, Value], limit: int) -> tuple[list[Row], int | None]: ...
    async def usage(self, seconds: int, wanted: Mapping[str, Value]) -> list[Row]: ...


class History:
    """The pages."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def page(self, name: str, query: Iterable[tuple[str, str]]) -> object:
        """The answer to GET /history/NAME.  Raises ProxyError."""
        if name not in PARAMETERS:
            pages = ", ".join(f"/history/{page}" for page in PARAMETERS)
            raise ProxyError(404, "not_found", f"there is no such page; there are {pages}")
        wanted = _read(name, query)
        if name == "usage":
            stretch = STRETCHES[str(wanted.pop("by", "hour"))]
            return {"usage": await self._archive.usage(stretch, wanted)}
        limit = int(wanted.pop("limit", DEFAULT_LIMIT))
        rows, following = await self._archive.page(name, wanted, limit)
        return {name: rows, "next": following}


def _read(name: str, query: Iterable[tuple[str, str]]) -> dict[str, Value]:
    readers, wanted = PARAMETERS[name], dict[str, Value]()
    for parameter, text in query:
        if parameter not in readers:
            raise _invalid(f"{parameter!r} is unknown; there are {', '.join(readers)}")
        if parameter in wanted:
            raise _invalid(f"{parameter} is given twice")
        wanted[parameter] = readers[parameter](parameter, text)
    return wanted


def _invalid(message: str) -> ProxyError:
    return ProxyError(400, "invalid_parameter", message.encode(errors="backslashreplace").decode())


def _word(parameter: str, text: str) -> str:
    if not text or not text.isprintable():  # a lone surrogate is not, either
        raise _invalid(f"{parameter}: expected a name, got {text!r}")
    return text


def _code(parameter: str, text: str) -> str:
    if not re.fullmatch("[a-z_]{1,64}", text):
        raise _invalid(f"{parameter}: expected a code like queue_full, got {text!r}")
    return text


def _number(least: int, most: int) -> Callable[[str, str], int]:
    def number(parameter: str, text: str) -> int:
        if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or not least <= int(text) <= most:
            raise _invalid(f"{parameter}: expected a number from {least} to {most}, got {text!r}")
        return int(text)

    return number


def _stretch(parameter: str, text: str) -> str:
    if text not in STRETCHES:
        raise _invalid(f"{parameter}: expected {' or '.join(STRETCHES)}, got {text!r}")
    return text


def _moment(parameter: str, text: str) -> float:
    try:
        return moment(text)
    except ValueError as error:
        raise _invalid(f"{parameter}: {error}") from None


def moment(text: str) -> float:
    """Seconds since the epoch, of themselves or of an ISO time, which is UTC if it does not say.  Raises ValueError."""
    try:
        seconds = float(text) if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII) else _iso(text)
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < END_OF_TIME:
        raise ValueError(f"expected a time like 2025-11-22T10:30:00+00:00 or epoch seconds, got {text!r}")
    return seconds


def _iso(text: str) -> float:
    """In a query a + that is not encoded means a space."""
    moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


_PERIOD: dict[str, Callable[[str, str], Value]] = {"model": _word, "since": _moment, "until": _moment}
_PAGED: dict[str, Callable[[str, str], Value]] = _PERIOD | {"limit": _number(1, MOST), "before": _number(1, LAST_ID)}
# Page -> parameter -> who reads its value.
PARAMETERS: Mapping[str, Mapping[str, Callable[[str, str], Value]]] = {
    "requests": {**_PAGED, "endpoint": _word, "status": _number(100, 599)},
    "swaps": _PAGED,
    "states": _PAGED,
    "problems": {**_PAGED, "code": _code, "status": _number(0, 599)},
    "usage": {**_PERIOD, "by": _stretch},
}
