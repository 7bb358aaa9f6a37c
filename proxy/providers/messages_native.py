"""The Messages API as it is: requests changed member by member, replies passed on unchanged, both read on the way.

Sans-io. Invariant: bytes that did not have to change are the caller's and the provider's own, whatever members they
hold that nobody here knows. Words in ``ReplyFacts`` are OpenAI's, as in every other codec.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from optimizer.routing import MESSAGES, Model, Variant
from proxy.envelope import DELETE, Envelope, rewrite
from proxy.prompt import apply_variant
from proxy.providers.anthropic_reply import Usage, finish_reason, translate_error
from proxy.providers.base import HEAD_CHARS, NO_USAGE, ReplyFacts
from proxy.providers.event_stream import EventStreamDecoder
from proxy.providers.shape import items_of, object_of, text_of
from proxy.providers.signals import json_validity, wants_json
from proxy.providers.sse import event_data, split_events, unescape

# Replies longer than this are not parsed; what matters of them is looked for at both ends.
PARSE_BYTES: Final = 256 * 1024
_EDGE_BYTES: Final = 4096
_USAGE: Final = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')
_STOP: Final = re.compile(rb'"stop_reason"\s*:\s*"(\w+)"')
_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')
_ID: Final = re.compile(rb'"id"\s*:\s*"([^"\\]*)"')
# What nearly every event of a stream is. A match proves that its data is JSON, so that it need not be parsed.
_DELTA: Final = re.compile(
    rb'event: content_block_delta\ndata: \{"type":"content_block_delta","index":\d+,"delta":\{"type":"'
    rb'(?:(text)_delta","text|thinking_delta","thinking|input_json_delta","partial_json)":"'
    rb'([^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+)"\} *+\} *+\n\n'
)
# Chat parameters of an arm under the name that they have here; None has no counterpart.
_RENAMED: Final[Mapping[str, str | None]] = {
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    **dict.fromkeys(
        (
            *("n", "seed", "logprobs", "top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty"),
            *("user", "safety_identifier", "reasoning_effort", "response_format", "parallel_tool_calls"),
            *("stream_options", "store", "modalities", "verbosity"),
        )
    ),
}


def native_body(envelope: Envelope, parameters: Mapping[str, Any], model: Model, variant: Variant) -> bytes:
    """The caller's body with the arm's model, parameters and prompt in it, and nothing else changed.

    Raises:
        TypeError: A parameter is not JSON.
    """
    doc = envelope.doc
    changes = _own_parameters(parameters) if parameters else {}
    if envelope.model != model.model_id:
        changes["model"] = model.model_id
        limit = model.max_output_tokens
        wanted = changes.get("max_tokens", doc["max_tokens"])
        if limit and type(wanted) is int and wanted > limit:
            # It was asked of another model, which may write more.
            changes["max_tokens"] = limit
    varied = None if variant.is_identity else apply_variant(doc, MESSAGES, variant)
    if varied is not None:
        changes |= {
            name: varied[name] for name in ("system", "messages") if varied.get(name) is not doc.get(name)
        }
    return rewrite(envelope.raw, doc, changes, known=envelope.known_member) if changes else envelope.raw


def _own_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for name, value in parameters.items():
        here = _RENAMED.get(name, name)
        if here is None:
            continue
        if value is None:
            changes[here] = DELETE
        elif here == "stop_sequences" and type(value) is str:
            changes[here] = [value]
        else:
            changes[here] = min(value, 1) if here == "temperature" else value
    return changes


def read_message(envelope: Envelope, body: bytes) -> ReplyFacts:
    """The facts of a whole reply; ``error_type`` is set for what is none."""
    facts = ReplyFacts()
    if envelope.stream:
        # Events are awaited: a message in one piece would read as an empty answer.
        facts.error_type = "invalid_reply"
        return facts
    if len(body) > PARSE_BYTES and _read_edges(body, facts):
        return facts
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError:
        doc = None
    if type(doc) is not dict or (doc.get("type") == "error" or "content" not in doc):
        error = doc.get("error") if type(doc) is dict else None
        if type(error) is dict:
            _, facts.error_type, facts.error_code = translate_error(error, "")
        else:
            facts.error_type = "invalid_reply"
        return facts
    usage = Usage()
    usage.add(object_of(doc.get("usage")))
    usage.fill(facts)
    usage.fill_output(facts)
    facts.response_id = text_of(doc.get("id")) or None
    facts.response_model = text_of(doc.get("model")) or None
    facts.finish_reasons.append(finish_reason(doc.get("stop_reason")))
    blocks = [object_of(block) for block in items_of(doc.get("content"))]
    text = "".join([text_of(block.get("text")) for block in blocks if block.get("type") == "text"])
    facts.tool_calls = any(block.get("type") == "tool_use" for block in blocks)
    if text:
        facts.has_content = True
        facts.content_chars = len(text)
        facts.text_head = text[:HEAD_CHARS]
        if wants_json(envelope):
            facts.json_valid = json_validity(envelope, text)
    if facts.usage_source == NO_USAGE:
        facts.estimate(envelope.input_tokens_estimate)
    return facts


def _read_edges(body: bytes, facts: ReplyFacts) -> bool:
    """Read a reply that is too long to be parsed, of which the middle may be missing."""
    head, tail = body[:_EDGE_BYTES], body[-_EDGE_BYTES:]
    found = _USAGE.findall(tail) or _USAGE.findall(head)
    if not found or not tail.rstrip().endswith(b"}"):
        return False
    try:
        counts = orjson.loads(found[-1])
    except orjson.JSONDecodeError:
        return False
    usage = Usage()
    usage.add(counts)
    usage.fill(facts)
    usage.fill_output(facts)
    model, name = _MODEL.search(head) or _MODEL.search(tail), _ID.search(head)
    facts.response_model = model.group(1).decode("utf-8", "replace") if model else None
    facts.response_id = name.group(1).decode("utf-8", "replace") if name else None
    reasons = _STOP.findall(tail) or _STOP.findall(head)
    facts.finish_reasons.append(finish_reason(reasons[-1].decode() if reasons else None))
    facts.has_content = True
    return True


class NativeMessagesDecoder(EventStreamDecoder):
    """Messages events in, the same events out."""

    __slots__ = ("_usage",)

    def __init__(self, envelope: Envelope) -> None:
        super().__init__(envelope)
        self._usage = Usage()

    def ending(self) -> bytes:
        return b"" if self.terminal else b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    def _readable(self, block: bytes) -> bytes:
        match = _DELTA.match(block)
        return block if match is not None and match.end() == len(block) else super()._readable(block)

    def _read(self, block: bytes) -> None:
        position, end = 0, len(block)
        while position < end and (match := _DELTA.match(block, position)) is not None:
            self._piece(match.group(2), answer=match.group(1) is not None)
            position = match.end()
        for event in split_events(block[position:]) if position < end else ():
            data = event_data(event)
            if data and not self.terminal and self.facts.error_type is None:
                try:
                    doc = orjson.loads(data)
                except orjson.JSONDecodeError:
                    continue
                if type(doc) is dict:
                    self._event(doc)

    def _piece(self, text: bytes, *, answer: bool) -> None:
        """Take JSON-escaped text."""
        if not text:
            return
        self.content_events += 1
        self.facts.content_chars += len(text) if b"\\" not in text else len(unescape(text))
        if answer:
            self._note_text(text)

    def _event(self, doc: dict[str, Any]) -> None:
        facts = self.facts
        match doc.get("type"):
            case "content_block_delta":
                self._delta(object_of(doc.get("delta")))
            case "content_block_start":
                block = object_of(doc.get("content_block"))
                if block.get("type") == "tool_use":
                    facts.tool_calls = True
                elif block.get("type") == "text" and (text := text_of(block.get("text"))):
                    self._piece(orjson.dumps(text)[1:-1], answer=True)
            case "message_start":
                message = object_of(doc.get("message"))
                facts.response_id = text_of(message.get("id")) or None
                facts.response_model = text_of(message.get("model")) or None
                self._usage.add(object_of(message.get("usage")))
                self._usage.fill(facts)
            case "message_delta":
                usage = object_of(doc.get("usage"))
                self._usage.add(usage)
                self._usage.fill(facts)
                if "output_tokens" in usage:
                    self._usage.fill_output(facts)
                if (reason := object_of(doc.get("delta")).get("stop_reason")) is not None:
                    facts.finish_reasons.append(finish_reason(reason))
            case "message_stop":
                self.terminal = True
            case "error":
                _, facts.error_type, facts.error_code = translate_error(doc.get("error"), "")
                self.terminal = True
            case _:
                pass

    def _delta(self, delta: Mapping[str, Any]) -> None:
        for kind, name in (("text", "text"), ("thinking", "thinking"), ("input_json", "partial_json")):
            if delta.get("type") == f"{kind}_delta" and (text := text_of(delta.get(name))):
                self._piece(orjson.dumps(text)[1:-1], answer=kind == "text")
