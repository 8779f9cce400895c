"""Records refused requests.  An outage may refuse thousands, so what repeats is one record that grows."""

import asyncio
import time

import msgspec

from swapper_proxy.runtime.ports import ProblemRecord, Recorder

# A record is of one minute of the clock at most: sums by hour and day stay exact, and a picture of them fine enough.
MINUTE_S = 60.0
# A record that grows is told again after so long, together with the pause of the writer less than a second.
AGAIN_S = 0.4
# Names can be made up without end: in each minute the refusals of all further ones are counted without a name.
MOST_NAMES = 50

_Key = tuple[str, str, int, bool]  # model, code, status, sent


class Refusals:
    """Tells the first refusal of a kind at once, and of those that follow in the same minute how many there are."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._minute = 0.0
        self._names: set[str] = set()
        self._records: dict[_Key, ProblemRecord] = {}
        self._grown: set[_Key] = set()
        self._timer: asyncio.TimerHandle | None = None

    def refused(self, model: str, code: str, message: str, status: int, sent: bool) -> None:
        """The proxy answered a request with an error; `sent`: Ollama had it."""
        now = time.time()
        self._begin(now // MINUTE_S)
        key = self._named(model), code, status, sent
        if known := self._records.get(key):
            self._records[key] = msgspec.structs.replace(known, message=message, count=known.count + 1, until=now)
            self._grown.add(key)
            self._timer = self._timer or asyncio.get_running_loop().call_later(AGAIN_S, self.flush)
        else:
            self._records[key] = ProblemRecord(now, key[0], code, message, status, sent, until=now)
            self._recorder.problem(self._records[key])

    def flush(self) -> None:
        """Tell how many there are by now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        grown, self._grown = self._grown, set()
        for key in grown:
            self._recorder.problem(self._records[key])

    def _begin(self, minute: float) -> None:
        if minute != self._minute:
            self.flush()
            self._minute = minute
            self._names.clear()
            self._records.clear()

    def _named(self, model: str) -> str:
        if len(self._names) < MOST_NAMES:
            self._names.add(model)
        return model if model in self._names else ""
