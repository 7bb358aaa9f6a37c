"""OpenAI's Responses shapes, unary and as events, built from one performance. Pure.

Invariant: every event carries the next ``sequence_number``; the last event repeats the whole response.
"""

from collections.abc import Iterator
from typing import Any

from proxy.simulator.asked import Asked
from proxy.simulator.performance import Performance
from proxy.simulator.shapes import event

Document = dict[str, Any]


def response(asked: Asked, performance: Performance, reply_id: str, created: int) -> Document:
    """The whole reply."""
    status = "incomplete" if performance.truncated else "completed"
    document = _open(asked, reply_id, created, status)
    if performance.truncated:
        document["incomplete_details"] = {"reason": "max_output_tokens"}
    spent = len(performance.pieces)
    document["output"] = [_message(reply_id, status, [_text(performance.text)])]
    document["usage"] = {
        "input_tokens": asked.task.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": spent,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked.task.input_tokens + spent,
    }
    return document


def response_events(asked: Asked, performance: Performance, reply_id: str, created: int) -> Iterator[bytes]:
    """The events of a streamed response, one delta per token."""
    whole = response(asked, performance, reply_id, created)
    opened = _open(asked, reply_id, created, "in_progress")
    item = whole["output"][0]
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    steps: list[tuple[str, Document]] = [
        ("response.created", {"response": opened}),
        ("response.in_progress", {"response": opened}),
        (
            "response.output_item.added",
            {"output_index": 0, "item": _message(reply_id, "in_progress", [])},
        ),
        ("response.content_part.added", place | {"part": _text("")}),
    ]
    steps += [
        ("response.output_text.delta", place | {"delta": piece, "logprobs": []})
        for piece in performance.pieces
    ]
    ending = "response.incomplete" if performance.truncated else "response.completed"
    steps += [
        ("response.output_text.done", place | {"text": performance.text, "logprobs": []}),
        ("response.content_part.done", place | {"part": item["content"][0]}),
        ("response.output_item.done", {"output_index": 0, "item": item}),
        (ending, {"response": whole}),
    ]
    for number, (name, members) in enumerate(steps):
        yield event({"type": name, "sequence_number": number} | members, name)


def _open(asked: Asked, reply_id: str, created: int, status: str) -> Document:
    return {
        "id": reply_id,
        "object": "response",
        "created_at": created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.task.max_tokens,
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
    }


def _message(reply_id: str, status: str, content: list[Document]) -> Document:
    return {
        "id": "msg_" + reply_id.removeprefix("resp_"),
        "type": "message",
        "status": status,
        "content": content,
        "role": "assistant",
    }


def _text(text: str) -> Document:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
