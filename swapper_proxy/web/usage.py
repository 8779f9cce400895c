"""What an answer says at its end: tokens, and how long Ollama took.  Nothing is parsed on the way."""

import re

import msgspec

from swapper_proxy.runtime.ports import Usage

# The counts stand within the last few hundred bytes, after the text and the context of the answer ...
TAIL_BYTES = 1024
# ... but for Anthropic's input_tokens, which the first event tells.
HEAD_BYTES = 1024
# More than this counts as not said: no text is so long, and no load or answer takes a month.  What is less can be added
# up for ever, also in 64 bits.
MOST_TOKENS = 10**9
MOST_NANOSECONDS = 30 * 86_400 * 10**9

# What each dialect calls them, and what each can be at most.
_PROMPT, _ANSWER = ("prompt", MOST_TOKENS), ("answer", MOST_TOKENS)
_NAMES = {
    b"prompt_eval_count": _PROMPT,
    b"prompt_tokens": _PROMPT,
    b"input_tokens": _PROMPT,
    b"eval_count": _ANSWER,
    b"completion_tokens": _ANSWER,
    b"output_tokens": _ANSWER,
    b"load_duration": ("load", MOST_NANOSECONDS),
    b"eval_duration": ("generation", MOST_NANOSECONDS),
}
# A whole number, all of it: neither the beginning of a longer one nor that of 1.5 or 1e9.
_COUNTS = re.compile(rb'"(%b)":\s*(\d{1,18})[\s,}]' % b"|".join(_NAMES))
NANOSECONDS = 1e-9
# The end of an event stream.  In what a model writes the quotes and line ends are escaped there.
_LAST = rb"message_stop|response\.(?:completed|incomplete|failed)"
_END = re.compile(rb'^data: \[DONE\]|"type": ?"(?:%b)"' % _LAST, re.MULTILINE)
# The end of a last line that is longer than what is kept: after the context of the answer stand its counts.
_COUNTED = re.compile(rb'"(?:prompt_)?(?:eval|total|load)_(?:count|duration)": ?\d+\}$')


def read(head: bytes, tail: bytes, streamed_s: float) -> Usage:
    """From both ends of an answer; 0 where it does not say.  `streamed_s`: from its first to its last byte."""
    found = _counts(tail[-TAIL_BYTES:])
    prompt = found.get("prompt") or _counts(head).get("prompt", 0)
    generated = found.get("answer", 0)
    generation_s = found.get("generation", 0) * NANOSECONDS or (streamed_s if generated else 0.0)
    return Usage(prompt, generated, found.get("load", 0) * NANOSECONDS, generation_s)


class _Line(msgspec.Struct):
    done: bool = False


def is_whole(tail: bytes, *, events: bool) -> bool:
    """Return True if a stream of events, else of lines, that ends like this has come to its end."""
    if events:  # the first event of Anthropic's tells of no token yet
        return _counts(tail[-TAIL_BYTES:]).get("answer", 0) > 0 or _END.search(tail) is not None
    line = tail.rstrip().rpartition(b"\n")[2]
    try:
        return _last.decode(line).done
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return _COUNTED.search(line) is not None


_last = msgspec.json.Decoder(_Line)


def of_part(said: Usage, tokens: int, streamed_s: float) -> Usage:
    """Return the usage of a stream that was cut off before Ollama could tell it: what has come was generated."""
    return Usage(said.prompt_tokens, tokens, said.load_s, streamed_s if tokens else 0.0)


def _counts(text: bytes) -> dict[str, int]:
    """The last of each kind."""
    found = {}
    for name, digits in _COUNTS.findall(text):
        kind, most = _NAMES[name]
        if (value := int(digits)) <= most:
            found[kind] = value
    return found
