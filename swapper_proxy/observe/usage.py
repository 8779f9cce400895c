"""Tokens of an answer, read from the end of its stream: nothing is parsed on the way."""

import re
from collections.abc import Sequence

# The counts stand within the last few hundred bytes, after the text and the context of the answer.
TAIL_BYTES = 1024

_PROMPT = re.compile(rb'"(?:prompt_eval_count|prompt_tokens|input_tokens)":\s*(\d+)')
_GENERATED = re.compile(rb'"(?:eval_count|completion_tokens|output_tokens)":\s*(\d+)')


def tokens(tail: Sequence[bytes]) -> tuple[int, int]:
    """Prompt and generated tokens from the last chunks of an answer; 0 where it does not say."""
    end = b"".join(chunk[-TAIL_BYTES:] for chunk in tail)[-TAIL_BYTES:]
    return _last(_PROMPT, end), _last(_GENERATED, end)


def _last(pattern: re.Pattern[bytes], text: bytes) -> int:
    found = pattern.findall(text)
    return int(found[-1]) if found else 0
