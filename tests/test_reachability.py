"""Whether Ollama is there: one silent moment does not mean that it is not."""

import asyncio

import pytest

from swapper_proxy.core.errors import Failure
from swapper_proxy.runtime.ports import UpstreamRefused, UpstreamSilent, UpstreamUnreachable
from swapper_proxy.runtime.reachability import Reachability

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
    ("before", "answers", "there", "asked"),
    [
        (True, [None], True, 1),
        (True, [SILENT, None], True, 2),
        (True, [SILENT, SILENT], False, 2),
        (False, [SILENT], False, 1),
        (False, [None], True, 1),
        (True, [UpstreamUnreachable("refused")], False, 1),
        (True, [SILENT, UpstreamUnreachable("refused")], False, 2),
        (True, [UpstreamRefused(Failure(404, b"", ""))], False, 1),
    ],
)
async def test_what_counts_as_there(before: bool, answers: list[Exception | None], there: bool, asked: int) -> None:
    control = Control(*answers)
    ollama = Reachability(control)
    ollama.turned(before)
    assert await ollama.ask() is there
    assert control.asked == asked


async def test_whether_it_is_new() -> None:
    ollama = Reachability(Control())
    assert not ollama.turned(True)
    assert ollama.turned(False)
    assert ollama.down.is_set()
    assert not ollama.turned(False)
    assert ollama.turned(True)
    assert not ollama.down.is_set()


async def test_who_waits_for_it() -> None:
    ollama = Reachability(Control())
    ollama.turned(False)
    waiting = [asyncio.create_task(ollama.is_back(3600)) for _ in range(3)]
    await asyncio.sleep(0)
    assert ollama.waiting == 3
    waiting[0].cancel()
    assert not await ollama.is_back(0)
    assert ollama.waiting == 2
    ollama.turned(True)
    assert await asyncio.gather(*waiting[1:]) == [True, True]
    assert ollama.waiting == 0


async def test_nobody_waits_for_it_at_the_end() -> None:
    ollama = Reachability(Control())
    ollama.turned(False)
    waiting = asyncio.create_task(ollama.is_back(3600))
    await asyncio.sleep(0)
    ollama.closing.set()
    assert not await waiting


async def test_all_who_want_to_know_ask_once() -> None:
    control = Control(None, UpstreamUnreachable("refused"))
    control.go_on.clear()
    ollama = Reachability(control)
    asking = [asyncio.create_task(ollama.ask()) for _ in range(100)]
    asking[0].cancel()  # one of them leaves
    await asyncio.sleep(0)
    control.go_on.set()
    assert await asyncio.gather(*asking[1:]) == [True] * 99
    assert control.asked == 1
    assert await ollama.ask() is False


async def test_it_is_closed_in_the_middle() -> None:
    control = Control(None)
    control.go_on.clear()
    ollama = Reachability(control)
    asking = asyncio.create_task(ollama.ask())
    while not control.asked:
        await asyncio.sleep(0)
    await ollama.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
