"""Going on with an answer that was cut: what to ask the next arm, and one coherent stream out of two.

Sans-io. Invariant: what the client has seen and what it is sent afterwards make one answer: one id, one role, no text
twice and none lost, and the usage of both.
"""

from typing import Any, Final

import orjson

from optimizer.routing import CHAT
from proxy.compiled import CompiledArm
from proxy.envelope import Envelope, parse
from proxy.providers.base import MOST_TOKENS, ReplyFacts
from proxy.providers.shape import items_of, object_of, text_of
from proxy.providers.sse import event_data, split_events

# Answers that grew beyond this are not continued: sending them back costs more than it is worth.
ANSWER_BYTES: Final = 256 * 1024
_OUTPUT_LIMITS: Final = ("max_completion_tokens", "max_tokens")


def is_continuable(envelope: Envelope) -> bool:
    """Whether a reply to this request could be continued: one text answer of a chat, in a stream."""
    doc = envelope.doc
    return (
        envelope.endpoint == CHAT
        and envelope.stream
        and not envelope.stateful
        and doc.get("n") in (None, 1)
        and not doc.get("logprobs")
        # Providers refuse to think about an answer that was begun.
        and not doc.get("thinking")
        and not doc.get("reasoning_effort")
        and envelope.needs.isdisjoint(("json_object", "json_schema", "audio"))
    )


def continued(envelope: Envelope, said: str, spent_tokens: int, arm: CompiledArm) -> Envelope:
    """The request that makes ``arm`` go on after ``said``, of which ``spent_tokens`` are used up."""
    doc = dict(envelope.doc)
    message: dict[str, Any] = {"role": "assistant", "content": said.rstrip()}
    if "prefill_prefix" in arm.model.capabilities:
        message["prefix"] = True
    if "prefill_continue" in arm.model.capabilities:
        doc |= {"continue_final_message": True, "add_generation_prompt": False}
    doc["messages"] = [*items_of(doc["messages"]), message]
    for name in _OUTPUT_LIMITS:
        if type(limit := doc.get(name)) is int:
            doc[name] = max(1, limit - spent_tokens)
    return parse(CHAT, orjson.dumps(doc))


class Seam:
    """Rewrites the chunks of the next stream. ``said`` is the answer's text up to the cut, ``before`` what it used and
    ``first_id`` the id that the client knows. ``used`` says that something was added to the answer.
    """

    __slots__ = ("_id", "_overlap", "before", "used")

    def __init__(self, said: str, before: ReplyFacts, first_id: str | None) -> None:
        self.used = False
        self.before = before
        self._id = first_id
        # The blanks at the cut were not sent back, so the next arm may begin with them again.
        self._overlap = said[len(said.rstrip()) :]

    def feed(self, block: bytes) -> bytes:
        """Whole events in, whole events out."""
        return b"".join([self._event(event) for event in split_events(block)])

    def joined(self, text: str) -> str:
        """What ``text``, the whole of the second answer, adds to what was said before."""
        return _without_overlap(text, self._overlap)[0]

    def spent(self, facts: ReplyFacts) -> ReplyFacts:
        """What all answers up to now used, the last of them as ``facts`` says."""
        total = ReplyFacts()
        total.input_tokens = (self.before.input_tokens or 0) + (facts.input_tokens or 0)
        total.output_tokens = (self.before.output_tokens or 0) + (facts.output_tokens or 0)
        return total

    def _event(self, event: bytes) -> bytes:
        data = event_data(event).strip()
        if not data.startswith(b"{"):
            return event
        try:
            doc = orjson.loads(data)
        except orjson.JSONDecodeError:
            return event
        if self._id is not None:
            doc["id"] = self._id
        if type(usage := doc.get("usage")) is dict:
            self._add_usage(usage)
        choices = [object_of(choice) for choice in items_of(doc.get("choices"))]
        for choice in choices:
            if type(delta := choice.get("delta")) is dict:
                self._join(delta)
        if choices and not any(choice.get("delta") or choice.get("finish_reason") for choice in choices):
            return b""
        self.used = True
        return b"data: " + orjson.dumps(doc) + b"\n\n"

    def _join(self, delta: dict[str, Any]) -> None:
        delta.pop("role", None)
        text = text_of(delta.get("content"))
        if text and self._overlap:
            delta["content"], self._overlap = _without_overlap(text, self._overlap)
        if not delta.get("content"):
            delta.pop("content", None)
        if delta.get("refusal", "") is None:
            del delta["refusal"]

    def _add_usage(self, usage: dict[str, Any]) -> None:
        before = {
            "prompt_tokens": self.before.input_tokens or 0,
            "completion_tokens": self.before.output_tokens or 0,
        }
        before["total_tokens"] = sum(before.values())
        for name, tokens in before.items():
            if type(count := usage.get(name)) is int and count < MOST_TOKENS:
                usage[name] += tokens


def _without_overlap(text: str, overlap: str) -> tuple[str, str]:
    """``text`` without the part of ``overlap`` that it begins with, and what may still be repeated."""
    shared = 0
    while shared < min(len(text), len(overlap)) and text[shared] == overlap[shared]:
        shared += 1
    return text[shared:], overlap[shared:] if shared == len(text) else ""
