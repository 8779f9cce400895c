"""How each endpoint writes its answers: Ollama's lines, OpenAI's chunks, and the newer event streams."""

import itertools
import json
import time
from datetime import UTC, datetime
from typing import Any

from swapper_proxy.ollama.simulator.catalogue import stamp
from swapper_proxy.ollama.simulator.inference import NOT_LOADED, Generation

JSON = "application/json; charset=utf-8"
PLAIN_JSON = "application/json"  # what the OpenAI side sends
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"

_ids = itertools.count(1)


def encode(value: object) -> bytes:
    """JSON as Go writes it: compact, UTF-8, with <, > and & escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e").encode()


def _now() -> str:
    return stamp(datetime.now(UTC))


class _Lines:
    """Native answers: an object in one piece or one per line."""

    json_type = JSON
    stream_type = NDJSON

    def __init__(self, name: str) -> None:
        self._model = name
        self._head = encode({"model": name})[:-1] + b',"created_at":"'

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
        head = {"model": self._model, "created_at": _now(), "response": text}
        return {**head, "done": True, "done_reason": reason, **costs}


class ChatLines(_Lines):
    """/api/chat."""

    def token(self, text: str) -> bytes:
        message = f'"message":{{"role":"assistant","content":{json.dumps(text)}}}'
        return self._head + f'{_now()}",{message},"done":false}}\n'.encode()

    def _done(self, text: str, reason: str, costs: dict[str, Any]) -> dict[str, Any]:
        head = {"model": self._model, "created_at": _now(), "message": {"role": "assistant", "content": text}}
        return {**head, "done_reason": reason, "done": True, **costs}


class _Chunks:
    """OpenAI's answers: one object, or server-sent events that end with [DONE]."""

    json_type = PLAIN_JSON
    stream_type = EVENTS
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


def _named_event(value: dict[str, Any]) -> bytes:
    return f"event: {value['type']}\n".encode() + _data(value)


class _Events:
    """What the newer endpoints share: named events, and only streams that end well."""

    json_type = PLAIN_JSON
    stream_type = EVENTS

    def __init__(self, name: str) -> None:
        self._model = name
        self._number = next(_ids)
        self._written: list[str] = []

    def nothing(self, reason: str, _: bool, /) -> tuple[str, bytes]:
        return PLAIN_JSON, encode(self._answer("", reason, 0, 0))

    def whole(self, generation: Generation, text: str) -> bytes:
        return encode(self._answer(text, generation.reason, generation.prompt_tokens, generation.tokens))

    def broken(self) -> bytes | None:
        return None

    def _answer(self, text: str, reason: str, asked: int, answered: int) -> dict[str, Any]:
        raise NotImplementedError


class MessageEvents(_Events):
    """/v1/messages."""

    def opening(self, generation: Generation) -> bytes:
        message = {**self._answer("", "stop", generation.prompt_tokens, 0), "content": [], "stop_reason": None}
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return _named_event({"type": "message_start", "message": message}) + _named_event(block)

    def token(self, text: str) -> bytes:
        delta = {"type": "text_delta", "text": text}
        return _named_event({"type": "content_block_delta", "index": 0, "delta": delta})

    def closing(self, generation: Generation) -> bytes:
        delta = {"stop_reason": _stop_reason(generation.reason), "stop_sequence": None}
        usage = {"input_tokens": generation.prompt_tokens, "output_tokens": generation.tokens}
        ends: list[dict[str, Any]] = [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": delta, "usage": usage},
            {"type": "message_stop"},
        ]
        return b"".join(_named_event(end) for end in ends)

    def _answer(self, text: str, reason: str, asked: int, answered: int) -> dict[str, Any]:
        return {
            "id": f"msg_{self._number}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [{"type": "text", "text": text}],
            "stop_reason": _stop_reason(reason),
            "stop_sequence": None,
            "usage": {"input_tokens": asked, "output_tokens": answered},
        }


def _stop_reason(reason: str) -> str:
    return "max_tokens" if reason == "length" else "end_turn"


class ResponseEvents(_Events):
    """/v1/responses."""

    def opening(self, _: Generation, /) -> bytes:
        begun = {**self._answer("", "stop", 0, 0), "status": "in_progress", "output": [], "usage": None}
        added = {"type": "response.output_item.added", "output_index": 0, "item": self._item("", "in_progress")}
        return _named_event({"type": "response.created", "response": begun}) + _named_event(added)

    def token(self, text: str) -> bytes:
        self._written.append(text)
        return _named_event({**self._place(), "type": "response.output_text.delta", "delta": text})

    def closing(self, generation: Generation) -> bytes:
        text = "".join(self._written)
        answer = self._answer(text, generation.reason, generation.prompt_tokens, generation.tokens)
        ends: list[dict[str, Any]] = [
            {**self._place(), "type": "response.output_text.done", "text": text},
            {"type": "response.output_item.done", "output_index": 0, "item": self._item(text, "completed")},
            {"type": "response.completed", "response": answer},
        ]
        return b"".join(_named_event(end) for end in ends)

    def _place(self) -> dict[str, Any]:
        return {"item_id": f"msg_{self._number}", "output_index": 0, "content_index": 0}

    def _item(self, text: str, status: str) -> dict[str, Any]:
        content = [{"type": "output_text", "text": text, "annotations": []}] if text else []
        head = {"id": f"msg_{self._number}", "type": "message", "status": status}
        return {**head, "role": "assistant", "content": content}

    def _answer(self, text: str, reason: str, asked: int, answered: int) -> dict[str, Any]:
        return {
            "id": f"resp_{self._number}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if reason == "length" else None,
            "model": self._model,
            "output": [self._item(text, "completed")],
            "usage": {"input_tokens": asked, "output_tokens": answered, "total_tokens": asked + answered},
        }
