"""How each endpoint writes its answers: Ollama's lines and OpenAI's chunks."""

import itertools
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from swapper_proxy.ollama.simulator.catalogue import stamp
from swapper_proxy.ollama.simulator.inference import NOT_LOADED, Generation

JSON = "application/json; charset=utf-8"
PLAIN_JSON = "application/json"  # what the OpenAI side sends
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"

_ids = itertools.count(1)


def encode(value: object, *, sort_keys: bool = False) -> bytes:
    """JSON as Go writes it: compact, UTF-8, with <, > and & escaped; the keys of a struct in order, of a map sorted."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e").encode()


def _now() -> str:
    return stamp(datetime.now(UTC))


class _Lines:
    """Native answers: an object in one piece or one per line."""

    json_type = JSON
    stream_headers: Mapping[str, str] = {"Content-Type": NDJSON}

    def __init__(self, name: str, remote: Mapping[str, str] = MappingProxyType({})) -> None:
        self._names = {"model": name, **remote}
        self._head = encode(self._names)[:-1] + b',"created_at":"'

    def opening(self, _: Generation, /) -> bytes:
        return b""

    def broken(self) -> bytes | None:
        return encode({"error": NOT_LOADED}) + b"\n"

    def nothing(self, reason: str, _: bool, /) -> tuple[str, bytes]:
        return JSON, encode(self._done("", reason, {}))

    def whole(self, generation: Generation, text: str) -> bytes:
        return encode(self._done(text, generation.reason, self._costs(generation)))

    def closing(self, generation: Generation) -> bytes:
        return encode(self._done("", generation.reason, self._costs(generation))) + b"\n"

    def _costs(self, generation: Generation) -> dict[str, Any]:
        return generation.costs()

    def _done(self, text: str, reason: str, costs: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


class GenerateLines(_Lines):
    """/api/generate."""

    def token(self, text: str) -> bytes:
        return self._head + f'{_now()}","response":{json.dumps(text)},"done":false}}\n'.encode()

    def _costs(self, generation: Generation) -> dict[str, Any]:
        return {"context": list(range(1, 1 + generation.prompt_tokens)), **generation.costs()}

    def _done(self, text: str, reason: str, costs: dict[str, Any]) -> dict[str, Any]:
        head = {**self._names, "created_at": _now(), "response": text}
        return {**head, "done": True, "done_reason": reason, **costs}


class ChatLines(_Lines):
    """/api/chat."""

    def token(self, text: str) -> bytes:
        message = f'"message":{{"role":"assistant","content":{json.dumps(text)}}}'
        return self._head + f'{_now()}",{message},"done":false}}\n'.encode()

    def _done(self, text: str, reason: str, costs: dict[str, Any]) -> dict[str, Any]:
        head = {**self._names, "created_at": _now(), "message": {"role": "assistant", "content": text}}
        return {**head, "done_reason": reason, "done": True, **costs}


class _Chunks:
    """OpenAI's answers: one object, or server-sent events that end with [DONE]."""

    json_type = PLAIN_JSON
    stream_headers: Mapping[str, str] = {"Content-Type": EVENTS}
    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, name: str, *, usage: bool) -> None:
        self._usage = usage  # stream_options.include_usage
        self._head = {"id": f"{self.prefix}-{next(_ids)}", "object": self.whole_object, "created": int(time.time())}
        self._tail = {"model": name, "system_fingerprint": "fp_ollama"}
        before, _, after = self._event(self._choice("\0", None)).partition(rb"\u0000")
        self._before, self._after = before, after

    def opening(self, _: Generation, /) -> bytes:
        return b""

    def token(self, text: str) -> bytes:
        return self._before + json.dumps(text)[1:-1].encode() + self._after

    def closing(self, generation: Generation) -> bytes:
        last = self._event(self._choice("", generation.reason))
        if self._usage:
            last += _data(self._object({**self._chunk(), "choices": [], "usage": _usage(generation)}))
        return last + b"data: [DONE]\n\n"

    def whole(self, generation: Generation, text: str) -> bytes:
        return self._answer(text, generation.reason, _usage(generation))

    def nothing(self, reason: str, streamed: bool, /) -> tuple[str, bytes]:
        if streamed:
            return EVENTS, self._event(self._choice("", reason)) + b"data: [DONE]\n\n"
        return PLAIN_JSON, self._answer("", reason, dict.fromkeys(_USAGE, 0))

    def broken(self) -> bytes | None:
        return None

    def _answer(self, text: str, reason: str, usage: dict[str, int]) -> bytes:
        choices = [self._whole_choice(text, reason)]
        return encode({**self._head, **self._tail, "choices": choices, "usage": usage}) + b"\n"

    def _event(self, choice: dict[str, Any]) -> bytes:
        return _data(self._object({**self._chunk(), "choices": [choice]}))

    def _chunk(self) -> dict[str, Any]:
        return {**self._head, "object": self.chunk_object}

    def _object(self, chunk: dict[str, Any]) -> dict[str, Any]:
        return {**chunk, **self._tail}

    def _choice(self, text: str, reason: str | None) -> dict[str, Any]:
        return {"text": text, "index": 0, "finish_reason": reason}

    def _whole_choice(self, text: str, reason: str) -> dict[str, Any]:
        return self._choice(text, reason)


class CompletionChunks(_Chunks):
    """/v1/completions."""


class ChatChunks(_Chunks):
    """/v1/chat/completions."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def broken(self) -> bytes | None:
        empty = {**self._chunk(), **self._tail, "model": "", "choices": [self._choice("", None)]}
        return _data(empty)  # the error is lost, and there is no [DONE]

    def _object(self, chunk: dict[str, Any]) -> dict[str, Any]:
        choices, usage = chunk.pop("choices"), {key: chunk.pop(key) for key in ("usage",) if key in chunk}
        return {**chunk, **self._tail, "choices": choices, **usage}

    def _choice(self, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": reason}

    def _whole_choice(self, text: str, reason: str) -> dict[str, Any]:
        return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}


_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


def _usage(generation: Generation) -> dict[str, int]:
    prompt, answer = generation.prompt_tokens, generation.tokens
    return dict(zip(_USAGE, (prompt, answer, prompt + answer), strict=True))


def _data(value: object) -> bytes:
    return b"data: " + encode(value) + b"\n\n"
