"""OpenAI's reply and event shapes for chat, completions and embeddings, built from performances. Pure.

Invariant: with ``include_usage`` every chunk before the last carries ``"usage": null`` and the last one
has no choices, as the real service sends them; without it the member is absent.
"""

import base64
import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from proxy.simulator.asked import Asked, AskedEmbeddings
from proxy.simulator.called import Call
from proxy.simulator.performance import Performance, count_tokens, split

Document = dict[str, Any]

DONE = b"data: [DONE]\n\n"
FINGERPRINT = "fp_simulator"


def event(document: Document, name: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + orjson.dumps(document) + b"\n\n"


def usage(asked: Asked, performances: Sequence[Performance]) -> Document:
    """Token counts of a chat or completion."""
    spent = sum(output_tokens(asked, performance) for performance in performances)
    return {
        "prompt_tokens": asked.task.input_tokens,
        "completion_tokens": spent,
        "total_tokens": asked.task.input_tokens + spent,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def output_tokens(asked: Asked, performance: Performance) -> int:
    """Tokens of one choice."""
    return 12 if asked.tool is not None else len(performance.pieces)


def chat(asked: Asked, performances: Sequence[Performance], reply_id: str, created: int) -> Document:
    """The reply to a chat request."""
    choices = []
    for index, performance in enumerate(performances):
        message: Document = {"role": "assistant", "content": performance.text, "refusal": None}
        message["annotations"] = []
        if asked.tool is not None:
            message["content"] = None
            message["tool_calls"] = [_tool_call(asked.tool, reply_id, index)]
        choices.append(
            {
                "index": index,
                "message": message,
                "logprobs": None,
                "finish_reason": _finish(asked, performance),
            }
        )
    return {
        "id": reply_id,
        "object": "chat.completion",
        "created": created,
        "model": asked.model,
        "choices": choices,
        "usage": usage(asked, performances),
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def chat_events(
    asked: Asked, performances: Sequence[Performance], reply_id: str, created: int
) -> Iterator[bytes]:
    """The events of a streamed chat: a role, one per token, a finish per choice, usage if asked, [DONE]."""
    for index, performance in enumerate(performances):
        first: Document = {"role": "assistant", "content": "", "refusal": None}
        if asked.tool is not None:
            first["content"] = None
            call = _tool_call(asked.tool, reply_id, index) | {"index": 0}
            opened = {"name": asked.tool.name, "arguments": ""}
            first["tool_calls"] = [call | {"function": opened}]
        yield _chat_chunk(asked, reply_id, created, index, first, None)
        if asked.tool is not None:
            for piece in split(asked.tool.arguments):
                delta: Document = {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
                yield _chat_chunk(asked, reply_id, created, index, delta, None)
        else:
            for piece in performance.pieces:
                yield _chat_chunk(asked, reply_id, created, index, {"content": piece}, None)
        yield _chat_chunk(asked, reply_id, created, index, {}, _finish(asked, performance))
    if asked.include_usage:
        last = _chat_head(asked, reply_id, created)
        yield event(last | {"choices": [], "usage": usage(asked, performances)})
    yield DONE


def completion(asked: Asked, performances: Sequence[Performance], reply_id: str, created: int) -> Document:
    """The reply to a completion request."""
    choices = [
        _text_choice(index, performance.text, "length" if performance.truncated else "stop")
        for index, performance in enumerate(performances)
    ]
    head = _text_head(asked, reply_id, created)
    return head | {"choices": choices, "usage": usage(asked, performances)}


def completion_events(
    asked: Asked, performances: Sequence[Performance], reply_id: str, created: int
) -> Iterator[bytes]:
    """The events of a streamed completion."""
    head = _text_head(asked, reply_id, created)
    tail: Document = {"usage": None} if asked.include_usage else {}
    for index, performance in enumerate(performances):
        for piece in performance.pieces:
            yield event(head | {"choices": [_text_choice(index, piece, None)]} | tail)
        finish = "length" if performance.truncated else "stop"
        yield event(head | {"choices": [_text_choice(index, "", finish)]} | tail)
    if asked.include_usage:
        yield event(head | {"choices": [], "usage": usage(asked, performances)})
    yield DONE


def embeddings(asked: AskedEmbeddings) -> Document:
    """The reply to an embeddings request: unit vectors that depend on model and text only."""
    data: list[Document] = []
    for index, text in enumerate(asked.texts):
        vector = _vector(asked.model, text, asked.dimensions)
        packed = struct.pack(f"<{len(vector)}f", *vector)
        shown: object = base64.b64encode(packed).decode() if asked.base64 else vector
        data.append({"object": "embedding", "index": index, "embedding": shown})
    tokens = sum(count_tokens(text) for text in asked.texts)
    spent = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": asked.model, "usage": spent}


def _chat_head(asked: Asked, reply_id: str, created: int) -> Document:
    return {
        "id": reply_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": asked.model,
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def _chat_chunk(
    asked: Asked, reply_id: str, created: int, index: int, delta: Document, finish: str | None
) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = _chat_head(asked, reply_id, created) | {"choices": [choice]}
    if asked.include_usage:
        chunk["usage"] = None
    return event(chunk)


def _text_head(asked: Asked, reply_id: str, created: int) -> Document:
    return {
        "id": reply_id,
        "object": "text_completion",
        "created": created,
        "model": asked.model,
        "system_fingerprint": FINGERPRINT,
    }


def _text_choice(index: int, text: str, finish: str | None) -> Document:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}


def _finish(asked: Asked, performance: Performance) -> str:
    if asked.tool is not None:
        return "tool_calls"
    return "length" if performance.truncated else "stop"


def _tool_call(call: Call, reply_id: str, index: int) -> Document:
    return {
        "id": f"call_{reply_id[-20:]}{index}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _vector(model: str, text: str, dimensions: int) -> list[float]:
    stream = hashlib.shake_128(f"{model}\n{text}".encode()).digest(2 * dimensions)
    raw = [number / 32768 for number in struct.unpack(f"<{dimensions}h", stream)]
    length = math.sqrt(sum(number * number for number in raw)) or 1.0
    return [number / length for number in raw]
