"""One sampled request on its way to the judge, as a line of a content segment, and the texts in it.

Invariant: this is the only form in which prompts and answers are ever written down, and it leaves the content
directory for a judge's own upstream only. Workers write it, so standard library and orjson are all it needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from optimizer.routing import CHAT, COMPLETIONS, MESSAGES, RESPONSES

ENDPOINTS: Final = frozenset((CHAT, COMPLETIONS, RESPONSES, MESSAGES))
"""Whose answers are texts that can be judged."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was asked and answered. ``at_ms`` is Unix milliseconds, ``rate`` the share it was drawn with (0..1].

    ``arm`` and the keys are of the arm that answered. ``body`` is the caller's request. ``proxy`` is the share of the
    answer's signals that are good (0 or 1; see ``optimizer.reward``), None when there were none.
    """

    request_id: str
    route: str
    arm: str
    model_key: str
    variant_key: str
    at_ms: int
    rate: float
    endpoint: str
    body: Mapping[str, Any]
    answer: str
    proxy: float | None = None


def encode(sample: Sample) -> bytes:
    """One line.

    Raises:
        orjson.JSONEncodeError: If the request is nested too deeply to be written again.
    """
    return orjson.dumps(_members(sample)) + b"\n"


def decode(line: bytes) -> Sample | None:
    """What ``encode`` wrote; None for a torn or foreign line."""
    try:
        doc = orjson.loads(line)
        sample = Sample(**doc)
    except (ValueError, TypeError):
        return None
    named = all(
        isinstance(text, str) for text in (sample.request_id, sample.route, sample.arm, sample.answer)
    )
    sound = (
        named and isinstance(sample.body, dict) and type(sample.at_ms) is int and sample.endpoint in ENDPOINTS
    )
    return sample if sound else None


def _members(sample: Sample) -> dict[str, Any]:
    """The fields as they are; ``dataclasses.asdict`` would copy the whole conversation."""
    return {name: getattr(sample, name) for name in sample.__slots__}


def question_of(sample: Sample) -> str:
    """What was asked, as text: every turn under the name of who spoke."""
    body = sample.body
    if sample.endpoint == COMPLETIONS:
        return _text(body.get("prompt"))
    turns: list[str] = []
    if sample.endpoint == RESPONSES:
        instructions = body.get("instructions")
        if isinstance(instructions, str) and instructions:
            turns.append(f"[system]\n{instructions}")
        given = body.get("input")
        if isinstance(given, str):
            turns.append(f"[user]\n{given}")
    else:
        given = body.get("messages")
        if sample.endpoint == MESSAGES and (system := _text(body.get("system"))):
            turns.append(f"[system]\n{system}")
    turns += [
        f"[{item.get('role', 'user')}]\n{text}"
        for item in (given if isinstance(given, list) else ())
        if isinstance(item, dict) and (text := _text(item.get("content")))
    ]
    return "\n\n".join(turns)


def answer_of(endpoint: str, reply: bytes) -> str | None:
    """The text of a whole reply as the caller got it; None when it is no single text (tool calls, several choices)."""
    try:
        doc = orjson.loads(reply)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(doc, dict):
        return None
    if endpoint == RESPONSES:
        output = doc.get("output")
        items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
        if any(str(item.get("type", "")).endswith("_call") for item in items):
            return None
        return "".join(_text(item.get("content")) for item in items if item.get("type") == "message")
    if endpoint == MESSAGES:
        content = doc.get("content")
        blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
        if any(block.get("type") == "tool_use" for block in blocks):
            return None
        return "".join(_text([block]) for block in blocks if block.get("type") == "text")
    choices = doc.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    if endpoint == COMPLETIONS:
        text = choices[0].get("text")
        return text if isinstance(text, str) else None
    message = choices[0].get("message")
    if not isinstance(message, dict) or message.get("tool_calls"):
        return None
    return _text(message.get("content") or message.get("refusal"))


def _text(content: object) -> str:
    """Text of a content member: a text, or parts of which some are text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [
        part if isinstance(part, str) else part.get("text")
        for part in content
        if isinstance(part, str | dict)
    ]
    return "\n".join(part for part in parts if isinstance(part, str))
