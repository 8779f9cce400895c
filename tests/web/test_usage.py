"""What the two ends of an answer say, in every dialect, however it was cut into pieces."""

import json

import pytest

from swapper_proxy.observe.fanout import Fanout
from swapper_proxy.runtime.ledger import Ledger
from swapper_proxy.runtime.ports import Usage
from swapper_proxy.web.counting import Counted
from swapper_proxy.web.usage import HEAD_BYTES, MOST_NANOSECONDS, NANOSECONDS, TAIL_BYTES

LINE = b'{"model":"a","created_at":"2025-11-22T10:30:00.123456789Z","response":"word","done":false}\n'
NATIVE_END = (
    b'{"model":"a","response":"","done":true,"done_reason":"stop","context":[%s],"total_duration":3000000000,'
    b'"load_duration":1500000000,"prompt_eval_count":7,"prompt_eval_duration":1,"eval_count":11,"eval_duration":500000000}\n'
) % b",".join([b"123"] * 2000)
OPENAI_END = (
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\ndata: [DONE]\n\n'
)
MESSAGE_START = b'event: message_start\ndata: {"message":{"usage":{"input_tokens":3,"output_tokens":0}}}\n\n'
MESSAGE_END = b'event: message_delta\ndata: {"usage":{"output_tokens":4}}\n\nevent: message_stop\ndata: {}\n\n'


class Noted:
    """What the metrics were told."""

    def __init__(self) -> None:
        self.first_tokens = 0
        self.usages: list[Usage] = []

    def first_byte(self, model: str, after_hand_over_s: float) -> None:
        """Not looked at."""

    def first_token(self, model: str, seconds: float) -> None:
        self.first_tokens += 1

    def answered(self, model: str, seconds: float, usage: Usage) -> None:
        self.usages.append(usage)

    def rejected(self, reason: str) -> None:
        """Not looked at."""


def counted(content_type: str, *pieces: bytes) -> tuple[Usage, Noted, Ledger]:
    metrics, ledger = Noted(), Ledger()
    outcome = Counted(totals=ledger, metrics=metrics, recorder=Fanout(), model="a", endpoint="chat", arrived=0.0)
    outcome.sending()
    outcome.head(200, content_type)
    for piece in pieces:
        outcome.chunk(piece)
    outcome.count()
    (usage,) = metrics.usages
    return usage, metrics, ledger


@pytest.mark.parametrize("size", [1, 7, 100, TAIL_BYTES - 1, TAIL_BYTES, 1 << 20])
def test_native_streams(size: int) -> None:
    answer = LINE * 30 + NATIVE_END
    usage, metrics, ledger = counted(
        "application/x-ndjson", *(answer[i : i + size] for i in range(0, len(answer), size))
    )
    assert usage == Usage(7, 11, 1.5, 0.5)
    assert metrics.first_tokens == 1
    assert ledger.totals("a").tokens_per_second == 22


def test_native_in_one_piece() -> None:
    usage, metrics, ledger = counted("application/json; charset=utf-8", NATIVE_END)
    assert usage == Usage(7, 11, 1.5, 0.5)
    assert metrics.first_tokens == 0
    assert ledger.totals("a").mean_first_token_s is None


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_openai_streams_are_timed_here(size: int) -> None:
    answer = LINE * 30 + OPENAI_END
    usage, metrics, _ = counted("text/event-stream", *(answer[i : i + size] for i in range(0, len(answer), size)))
    assert (usage.prompt_tokens, usage.generated_tokens, usage.load_s) == (3, 4, 0.0)
    assert usage.generation_s > 0
    assert metrics.first_tokens == 1


def test_the_speed_of_a_stream_that_came_in_one_piece_is_not_known() -> None:
    usage, _, ledger = counted("text/event-stream", OPENAI_END)
    assert usage == Usage(3, 4)
    assert ledger.totals("a").tokens_per_second is None


def test_anthropic_tells_the_prompt_first() -> None:
    usage, _, _ = counted("text/event-stream", MESSAGE_START, *[b"data: {}\n\n"] * 500, MESSAGE_END)
    assert (usage.prompt_tokens, usage.generated_tokens) == (3, 4)


@pytest.mark.parametrize("pieces", [(), (LINE,), (b"no figures",)])
def test_nothing_said(pieces: tuple[bytes, ...]) -> None:
    assert counted("application/x-ndjson", *pieces)[0] == Usage()


def test_a_model_that_writes_such_words_is_not_believed() -> None:
    said = json.dumps({"response": '"load_duration": 9000000000, "eval_count": 5', "done": False}).encode()
    assert counted("application/x-ndjson", LINE, said)[0] == Usage()


@pytest.mark.parametrize(
    "number", ["9" * 900, "9" * 19, str(MOST_NANOSECONDS + 1), "1.5", "1e9", "-1", "null", '"5"', "5"]
)
def test_numbers_that_cannot_be_are_not_said(number: str) -> None:
    """Wherever they stand: the answer goes on, and all that shows or adds up the numbers can."""
    for field in ("load_duration", "prompt_eval_count", "eval_count", "eval_duration"):
        end = b'{"done":true,"%b":%b,"done_reason":"stop"}\n' % (field.encode(), number.encode())
        usage, _, ledger = counted("application/x-ndjson", LINE, end)
        said = 5 if number == "5" else 0
        counts = {"prompt_eval_count": usage.prompt_tokens, "eval_count": usage.generated_tokens}
        times = {"load_duration": usage.load_s, "eval_duration": usage.generation_s}
        assert (counts | times)[field] == pytest.approx(said if field in counts else said * NANOSECONDS)
        assert ledger.totals("a").generated_tokens == counts["eval_count"]


def test_a_number_is_read_to_its_end() -> None:
    start = b'event: message_start\ndata: {"message":{"usage":{"input_tokens":123456,"output_tokens":0}}}\n\n'
    inside = start.index(b"3456")
    for cut in range(HEAD_BYTES - inside - 10, HEAD_BYTES - inside + 10):
        pieces = (b" " * cut + start, b"data: {}\n\n" * 500, MESSAGE_END)
        assert counted("text/event-stream", *pieces)[0].prompt_tokens in (0, 123456)


CHAT = b'data: {"id":"chatcmpl-1","choices":[{"delta":{"content":"done\\": true\\n[DONE]"}}]}\n\n'


def cut(content_type: str, *pieces: bytes) -> Counted:
    """A stream that its client left."""
    outcome = Counted(totals=Ledger(), metrics=Noted(), recorder=Fanout(), model="a", endpoint="chat", arrived=0.0)
    outcome.sending()
    outcome.head(200, content_type)
    for piece in pieces:
        outcome.chunk(piece)
    outcome.cut(499)
    return outcome


@pytest.mark.parametrize(
    ("content_type", "event"),
    [("application/x-ndjson", LINE), ("text/event-stream", CHAT), ("text/event-stream; charset=utf-8", CHAT)],
)
def test_of_a_stream_that_is_cut_off_what_came_counts(content_type: str, event: bytes) -> None:
    outcome = cut(content_type, event * 2, event, event * 300)
    assert outcome.status == 499
    assert (outcome.usage.generated_tokens, outcome.usage.load_s) == (303, 0.0)
    assert outcome.usage.generation_s > 0
    assert cut(content_type).usage == Usage()
    assert cut("application/json", b'{"a').usage == Usage()


@pytest.mark.parametrize(
    ("content_type", "end", "tokens"),
    [
        ("application/x-ndjson", NATIVE_END, 11),
        ("text/event-stream", OPENAI_END, 4),
        ("text/event-stream", CHAT + b"data: [DONE]\n\n", 0),  # who does not ask for the usage is not told
        ("text/event-stream", MESSAGE_START + MESSAGE_END, 4),
        ("text/event-stream", b'event: message_stop\ndata: {"type":"message_stop"}\n\n', 0),
    ],
)
def test_a_stream_that_has_come_to_its_end_is_not_cut_off(content_type: str, end: bytes, tokens: int) -> None:
    outcome = cut(content_type, LINE * 3, end)
    assert (outcome.status, outcome.usage.generated_tokens) == (200, tokens)
    assert not outcome.ended_short()


LONG_END = b'{"done":true,"context":[%b],"eval_count":11,"eval_duration":5}\n' % b",".join([b"123"] * 1000)


@pytest.mark.parametrize(
    ("content_type", "end", "is_whole"),
    [
        ("application/x-ndjson", LONG_END, True),
        ("application/x-ndjson", b'{"done":true,"done_reason":"load"}\n', True),
        ("application/x-ndjson", b'{"message":{"tool_calls":[{"arguments":{"done":true}}]},"done":false}\n', False),
        ("application/x-ndjson", b'{"message":{"tool_calls":[{"arguments":{"eval_count":5}}]},"done":false}\n', False),
        ("application/x-ndjson", b'{"error":"the runner is gone"}\n', False),
        ("application/x-ndjson", LINE[:-9], False),
        ("application/x-ndjson", b"[" * 1000, False),
        ("text/event-stream", MESSAGE_START, False),
        ("text/event-stream", CHAT, False),
        (
            "text/event-stream",
            b'data: {"type":"response.completed","response":{"usage":{"output_tokens":7}}}\n\n',
            True,
        ),
    ],
)
def test_what_a_model_writes_is_not_taken_for_the_end(content_type: str, end: bytes, is_whole: bool) -> None:
    outcome = Counted(totals=Ledger(), metrics=Noted(), recorder=Fanout(), model="a", endpoint="chat", arrived=0.0)
    outcome.sending()
    outcome.head(200, content_type)
    for piece in (LINE if content_type == "application/x-ndjson" else CHAT, end):
        outcome.chunk(piece)
    assert outcome.ended_short() is not is_whole
