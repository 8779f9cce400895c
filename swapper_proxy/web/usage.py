"""What an answer says at its end: tokens, and how long Ollama took.  Nothing is parsed on the way."""

import re

from swapper_proxy.runtime.ports import Usage

# The counts stand within the last few hundred bytes, after the text and the context of the answer ...
TAIL_BYTES = 1024
# ... but for Anthropic's input_tokens, which the first event tells.
HEAD_BYTES = 1024

_PROMPT = re.compile(rb'"(?:prompt_eval_count|prompt_tokens|input_tokens)":\s*(\d+)')
_GENERATED = re.compile(rb'"(?:eval_count|completion_tokens|output_tokens)":\s*(\d+)')
_LOAD = re.compile(rb'"load_duration":\s*(\d+)')
_GENERATION = re.compile(rb'"eval_duration":\s*(\d+)')
NANOSECONDS = 1e-9


def end_of(tail: bytes, data: bytes) -> bytes:
    """The end of an answer, after one more piece of it; pieces may be of any size."""
    return data if len(data) >= TAIL_BYTES else tail[len(data) - TAIL_BYTES :] + data


def read(head: bytes, tail: bytes, streamed_s: float) -> Usage:
    """From both ends of an answer; 0 where it does not say.  `streamed_s`: from its first to its last byte."""
    end = tail[-TAIL_BYTES:]
    generated = _last(_GENERATED, end)
    generation_s = _last(_GENERATION, end) * NANOSECONDS or (streamed_s if generated else 0.0)
    prompt = _last(_PROMPT, end) or _last(_PROMPT, head)
    return Usage(prompt, generated, _last(_LOAD, end) * NANOSECONDS, generation_s)


def _last(pattern: re.Pattern[bytes], text: bytes) -> int:
    found = pattern.findall(text)
    return int(found[-1]) if found else 0
