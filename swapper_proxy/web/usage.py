"""What an answer says at its end: tokens, and how long Ollama loaded for it.  Nothing is parsed on the way."""

import re
from collections.abc import Sequence

from swapper_proxy.runtime.ports import Usage

# The counts stand within the last few hundred bytes, after the text and the context of the answer.
TAIL_BYTES = 1024

_PROMPT = re.compile(rb'"(?:prompt_eval_count|prompt_tokens|input_tokens)":\s*(\d+)')
_GENERATED = re.compile(rb'"(?:eval_count|completion_tokens|output_tokens)":\s*(\d+)')
_LOAD = re.compile(rb'"load_duration":\s*(\d+)')
NANOSECONDS = 1e-9


def read(tail: Sequence[bytes]) -> Usage:
    """From the last chunks of an answer; 0 where it does not say."""
    end = b"".join(chunk[-TAIL_BYTES:] for chunk in tail)[-TAIL_BYTES:]
    return Usage(_last(_PROMPT, end), _last(_GENERATED, end), _last(_LOAD, end) * NANOSECONDS)


def _last(pattern: re.Pattern[bytes], text: bytes) -> int:
    found = pattern.findall(text)
    return int(found[-1]) if found else 0
