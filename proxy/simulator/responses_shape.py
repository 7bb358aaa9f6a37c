"""OpenAI's Responses shapes, unary and as events, built from one performance. Pure.

Invariant: every event carries the next ``sequence_number``; the last event repeats the whole response.
"""

from collections.abc import Iterator
from typing import Any

from proxy.simulator.asked import Asked
from proxy.simulator.performance import Performance, split
from proxy.simulator.shapes import event

Document = dict[str, Any]


def response(asked: Asked, performance: Performance, reply_id: str, created: int) -> Document:
    """The whole reply."""
    is_cut = performance.truncated and asked.tool is None
    status = "incomplete" if is_cut else "completed"
    document = _open(asked, reply_id, created, status)
    if is_cut:
        document["incomplete_details"] = {"reason": "max_output_tokens"}
    spent = len(performance.pieces) if asked.tool is None else len(split(asked.tool.arguments))
    if asked.tool is None:
        document["output"] = [_message(reply_id, status, [_text(performance.text)])]
    else:
        document["output"] = [_call(reply_id, status, asked.tool.name, asked.tool.arguments)]
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
    ending = f"response.{whole['status']}"
    steps: list[tuple[str, Document]] = [
        ("response.created", {"response": opened}),
        ("response.in_progress", {"response": opened}),
        *(_text_steps(item, performance) if asked.tool is None else _call_steps(item)),
        ("response.output_item.done", {"output_index": 0, "item": item}),
        (ending, {"response": whole}),
    ]
    for number, (name, members) in enumerate(steps):
        yield event({"type": name, "sequence_number": number} | members, name)


def _text_steps(item: Document, performance: Performance) -> Iterator[tuple[str, Document]]:
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    begun = item | {"status": "in_progress", "content": []}
    yield "response.output_item.added", {"output_index": 0, "item": begun}
    yield "response.content_part.added", place | {"part": _text("")}
    for piece in performance.pieces:
        yield "response.output_text.delta", place | {"delta": piece, "logprobs": []}
    yield "response.output_text.done", place | {"text": performance.text, "logprobs": []}
    yield "response.content_part.done", place | {"part": item["content"][0]}


def _call_steps(item: Document) -> Iterator[tuple[str, Document]]:
    place = {"item_id": item["id"], "output_index": 0}
    begun = item | {"status": "in_progress", "arguments": ""}
    yield "response.output_item.added", {"output_index": 0, "item": begun}
    for piece in split(item["arguments"]):
        yield "response.function_call_arguments.delta", place | {"delta": piece}
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield "response.function_call_arguments.done", place | done


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


def _call(reply_id: str, status: str, name: str, arguments: str) -> Document:
    made = reply_id.removeprefix("resp_")
    return {
        "id": f"fc_{made}",
        "type": "function_call",
        "status": status,
        "call_id": f"call_{made}",
        "name": name,
        "arguments": arguments,
    }


def _text(text: str) -> Document:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
