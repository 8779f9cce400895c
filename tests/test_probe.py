"""Whether Ollama is there: one silent moment does not mean that it is not."""

import asyncio

import pytest

from swapper_proxy.core.errors import Failure
from swapper_proxy.runtime.ports import UpstreamRefused, UpstreamSilent, UpstreamUnreachable
from swapper_proxy.runtime.probe import Probe

SILENT = UpstreamSilent("no answer")


class Control:
    """Answers or raises these, one after the other."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def version(self) -> str:
        self.asked += 1
        await self.go_on.wait()
        if error := self.answers.pop(0):
            raise error
        return "0.9.3"


@pytest.mark.parametrize(
    ("times", "answers", "there", "asked"),
    [
        (2, [None], True, 1),
        (2, [SILENT, None], True, 2),
        (2, [SILENT, SILENT], False, 2),
        (1, [SILENT], False, 1),
        (2, [UpstreamUnreachable("refused")], False, 1),
        (2, [SILENT, UpstreamUnreachable("refused")], False, 2),
        (2, [UpstreamRefused(Failure(404, b"", ""))], False, 1),
    ],
)
async def test_what_counts_as_there(times: int, answers: list[Exception | None], there: bool, asked: int) -> None:
    control = Control(*answers)
    assert await Probe(control).ask(times) is there
    assert control.asked == asked


async def test_all_who_want_to_know_ask_once() -> None:
    control = Control(None, UpstreamUnreachable("refused"))
    control.go_on.clear()
    probe = Probe(control)
    asking = [asyncio.create_task(probe.ask(2)) for _ in range(100)]
    asking[0].cancel()  # one of them leaves
    await asyncio.sleep(0)
    control.go_on.set()
    assert await asyncio.gather(*asking[1:]) == [True] * 99
    assert control.asked == 1
    assert await probe.ask(2) is False


async def test_it_is_closed_in_the_middle() -> None:
    control = Control(None)
    control.go_on.clear()
    probe = Probe(control)
    asking = asyncio.create_task(probe.ask(2))
    while not control.asked:
        await asyncio.sleep(0)
    await probe.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
