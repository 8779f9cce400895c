"""How the newer endpoints write their answers: Anthropic's messages and OpenAI's responses."""

import itertools
import time
from collections.abc import Mapping
from typing import Any

from swapper_proxy.ollama.simulator.dialects import EVENTS, PLAIN_JSON, encode
from swapper_proxy.ollama.simulator.inference import Generation

_ids = itertools.count(1)
Json = dict[str, Any]


class _Events:
    """What they share: named events, and streams that always begin with a token."""

    json_type = PLAIN_JSON
    stream_headers: Mapping[str, str] = {"Content-Type": EVENTS, "Cache-Control": "no-cache"}

    def __init__(self, name: str) -> None:
        self._model = name
        self._number = next(_ids)

    def whole(self, generation: Generation, text: str) -> bytes:
        return encode(self._answer(text, generation.reason, generation)) + b"\n"

    def broken(self) -> bytes | None:
        return None

    def _answer(self, text: str, reason: str, generation: Generation | None) -> Json:
        raise NotImplementedError


class MessageEvents(_Events):
    """/v1/messages."""

    def opening(self, generation: Generation) -> bytes:
        message = {**self._answer("", "", generation), "content": []}
        message["usage"]["output_tokens"] = 0
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return _event({"type": "message_start", "message": message}) + _event(block)

    def token(self, text: str) -> bytes:
        return _event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})

    def closing(self, generation: Generation) -> bytes:
        delta = {"stop_reason": _stop_reason(generation.reason)}
        ends: list[Json] = [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": delta, "usage": _usage(generation)},
            {"type": "message_stop"},
        ]
        return b"".join(_event(end) for end in ends)

    def nothing(self, reason: str, _: bool, /) -> tuple[str, bytes]:
        return PLAIN_JSON, encode(self._answer("", reason, None)) + b"\n"

    def _answer(self, text: str, reason: str, generation: Generation | None) -> Json:
        return {
            "id": f"msg_{self._number:024x}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [{"type": "text", "text": text}] if text else None,
            **({"stop_reason": _stop_reason(reason)} if reason else {}),
            "usage": _usage(generation),
        }


def _stop_reason(reason: str) -> str:
    return {"length": "max_tokens", "stop": "end_turn"}.get(reason, "stop_sequence")


def _usage(generation: Generation | None) -> Json:
    prompt, answer = (generation.prompt_tokens, generation.tokens) if generation else (0, 0)
    return {"input_tokens": prompt, "output_tokens": answer}


class ResponseEvents(_Events):
    """/v1/responses; `asked` is what the answer repeats of the request."""

    def __init__(self, name: str, asked: Mapping[str, Any]) -> None:
        super().__init__(name)
        self._asked = asked
        self._item = f"msg_{self._number}"
        self._place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        self._sequence = itertools.count()
        self._written: list[str] = []

    def opening(self, _: Generation, /) -> bytes:
        added = {"output_index": 0, "item": self._message("in_progress", [])}
        part = {**self._place, "part": _part("")}
        return (
            self._begun()
            + self._event("response.output_item.added", added)
            + self._event("response.content_part.added", part)
        )

    def token(self, text: str) -> bytes:
        self._written.append(text)
        return self._event("response.output_text.delta", {**self._place, "delta": text, "logprobs": []})

    def closing(self, generation: Generation) -> bytes:
        text = "".join(self._written)
        item = self._message("completed", [_part(text)])
        return (
            self._event("response.output_text.done", {**self._place, "text": text, "logprobs": []})
            + self._event("response.content_part.done", {**self._place, "part": _part(text)})
            + self._event("response.output_item.done", {"output_index": 0, "item": item})
            + self._ended([item], generation)
        )

    def nothing(self, reason: str, streamed: bool, /) -> tuple[str, bytes]:
        if streamed:
            return EVENTS, self._begun() + self._ended(None, None)
        return PLAIN_JSON, encode(self._answer("", reason, None)) + b"\n"

    def _begun(self) -> bytes:
        begun = {"response": {**self._response([], None), "status": "in_progress", "completed_at": None, "usage": None}}
        return self._event("response.created", begun) + self._event("response.in_progress", begun)

    def _ended(self, output: list[Json] | None, generation: Generation | None) -> bytes:
        return self._event("response.completed", {"response": self._response(output, generation)})

    def _event(self, name: str, value: Json) -> bytes:
        return _event({**value, "type": name, "sequence_number": next(self._sequence)}, sort_keys=True)

    def _message(self, status: str, content: list[Json]) -> Json:
        return {"id": self._item, "type": "message", "status": status, "role": "assistant", "content": content}

    def _answer(self, text: str, _: str, generation: Generation | None) -> Json:
        return self._response([self._message("completed", [_part(text)])], generation)

    def _response(self, output: list[Json] | None, generation: Generation | None) -> Json:
        now, asked, usage = int(time.time()), self._asked, _usage(generation)
        head = {"id": f"resp_{self._number}", "object": "response", "created_at": now, "completed_at": now}
        total = {
            "total_tokens": sum(usage.values()),
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        return {
            **head,
            "status": "completed",
            "incomplete_details": None,
            "model": self._model,
            "previous_response_id": None,
            "instructions": asked.get("instructions") or None,
            "output": output,
            "error": None,
            "tools": asked.get("tools") or [],
            "tool_choice": "auto",
            "truncation": asked.get("truncation", "disabled"),
            "parallel_tool_calls": True,
            "text": {"format": {"type": "text"}},
            "top_p": asked.get("top_p", 1),
            **dict.fromkeys(("presence_penalty", "frequency_penalty", "top_logprobs"), 0),
            "temperature": asked.get("temperature", 1),
            "reasoning": None,
            "usage": {**usage, **total},
            "max_output_tokens": asked.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": asked.get("background", False),
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _event(value: Json, *, sort_keys: bool = False) -> bytes:
    return f"event: {value['type']}\ndata: ".encode() + encode(value, sort_keys=sort_keys) + b"\n\n"
