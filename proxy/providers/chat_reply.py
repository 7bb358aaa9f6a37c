"""Replies of chat completions, whole and streamed, in the shape of the Messages API.

A stream has the API's own order: ``message_start``, every block opened, filled and closed before the next one,
``message_delta`` with the reason and all usage, ``message_stop``. The last two wait for the upstream's usage, which
comes after its finish reason. Reasoning is left out: without a signature it is no thinking block. A stream that ends
without a finish reason ends without ``message_stop`` and is not whole, whatever its last words: a broken answer must
look broken.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

import orjson

from proxy.envelope import Envelope
from proxy.messages_errors import error_event
from proxy.providers.base import HEAD_CHARS, NO_USAGE, ReplyFacts
from proxy.providers.event_stream import EventStreamDecoder
from proxy.providers.openai_usage import note_error, read_usage
from proxy.providers.shape import items_of, object_of, text_of
from proxy.providers.signals import json_validity, wants_json
from proxy.providers.sse import event_data, split_events

STOP_REASONS: Final[Mapping[str, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_ERROR_WORDS: Final = (
    ("rate_limit", "rate_limit_error"),
    ("overloaded", "overloaded_error"),
    ("invalid_request", "invalid_request_error"),
)
_DONE: Final = b"[DONE]"


def message(envelope: Envelope, body: bytes, facts: ReplyFacts) -> bytes:
    """A whole chat completion as a message; ``facts.error_type`` is set when it is none."""
    if envelope.stream:
        # Events are awaited: a message in one piece would read as an empty answer.
        facts.error_type = "invalid_reply"
        return body
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError:
        doc = None
    choices = items_of(object_of(doc).get("choices"))
    if type(doc) is not dict or doc.get("error") or not choices:
        note_error(facts, object_of(doc).get("error") or {"type": "invalid_reply"})
        return body
    facts.response_id = text_of(doc.get("id")) or None
    facts.response_model = text_of(doc.get("model")) or None
    if type(usage := doc.get("usage")) is dict:
        read_usage(facts, usage)
    choice = object_of(choices[0])
    said = object_of(choice.get("message"))
    finish = text_of(choice.get("finish_reason"))
    if finish:
        facts.finish_reasons.append(finish)
    refusal = text_of(said.get("refusal"))
    text = content_text(said.get("content")) or refusal
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for call in items_of(said.get("tool_calls")):
        block = _tool_block(object_of(call), cut=finish == "length")
        if block is None:
            facts.error_type = "invalid_reply"
            return body
        blocks.append(block)
        facts.tool_calls = True
    if text:
        facts.has_content = True
        facts.content_chars = len(text)
        facts.text_head = text[:HEAD_CHARS]
        if wants_json(envelope):
            facts.json_valid = json_validity(envelope, text)
    if facts.usage_source == NO_USAGE:
        facts.estimate(envelope.input_tokens_estimate)
    reason, sequence = stop_of(
        envelope_stops(envelope), choice, called=facts.tool_calls, refused=bool(refusal)
    )
    return orjson.dumps(
        {
            "id": facts.response_id or "",
            "type": "message",
            "role": "assistant",
            "model": facts.response_model or "",
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage_of(facts),
        }
    )


def usage_of(facts: ReplyFacts) -> dict[str, Any]:
    """A usage object. There, input excludes what came from and went to a cache."""
    read, written = facts.cache_read_tokens or 0, facts.cache_write_tokens or 0
    usage: dict[str, Any] = {
        "input_tokens": max(0, (facts.input_tokens or 0) - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": facts.output_tokens or 0,
    }
    if facts.reasoning_tokens is not None:
        usage["output_tokens_details"] = {"thinking_tokens": facts.reasoning_tokens}
    return usage


def envelope_stops(envelope: Envelope) -> Sequence[str]:
    """The texts that were to end the answer."""
    return [stop for stop in items_of(envelope.doc.get("stop_sequences")) if type(stop) is str]


def stop_of(
    stops: Sequence[str], choice: Mapping[str, Any], *, called: bool, refused: bool
) -> tuple[str, str | None]:
    """Why an answer ended, and the text that ended it, which few servers tell (vLLM does)."""
    finish = text_of(choice.get("finish_reason"))
    stopped_by = text_of(choice.get("stop_reason"))
    if finish == "stop" and stopped_by and stopped_by in stops:
        return "stop_sequence", stopped_by
    if refused and finish == "stop":
        return "refusal", None
    if called and finish == "stop":
        # Some servers say so after calls as well, and clients run tools for no other reason than theirs.
        return "tool_use", None
    return STOP_REASONS.get(finish, "end_turn"), None


def content_text(content: Any) -> str:
    """The text of a message or delta; a few servers send parts."""
    if type(content) is list:
        return "".join(text_of(object_of(part).get("text")) for part in content)
    return text_of(content)


def _tool_block(call: Mapping[str, Any], *, cut: bool) -> dict[str, Any] | None:
    """A call as a block; None when its arguments are no object and the answer was not cut there."""
    function = object_of(call.get("function"))
    arguments = arguments_of(function)
    if not arguments.strip():
        arguments = "{}"
    try:
        given = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        given = None
    if type(given) is not dict:
        if not cut:
            return None
        arguments = "{}"
    # As they were written: numbers may have more digits than could be written again.
    whole = orjson.Fragment(arguments)
    call_id = text_of(call.get("id")) or new_call_id()
    return {"type": "tool_use", "id": call_id, "name": function.get("name"), "input": whole}


def arguments_of(function: Mapping[str, Any]) -> str:
    """The arguments of a call or a piece of them; a few servers send an object instead of its text."""
    given = function.get("arguments")
    return orjson.dumps(given).decode() if type(given) is dict else text_of(given)


def new_call_id() -> str:
    """For a call without one: its result has to name it."""
    return f"call_{uuid4().hex[:24]}"


def read_chunk(data: bytes) -> Any:
    """The data of an event, as leniently as clients read it: NaN, broken UTF-8, half a pair. None if it is none."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        doc = json.loads(data.decode("utf-8", "replace"), strict=False, parse_constant=lambda _: None)
        return orjson.loads(json.dumps(doc, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


class ChatToMessagesDecoder(EventStreamDecoder):
    """Chat completion chunks in, Messages events out."""

    __slots__ = ("_called", "_index", "_kind", "_last", "_refused", "_started", "_stops", "_tools")

    def __init__(self, envelope: Envelope) -> None:
        super().__init__(envelope)
        self._stops = envelope_stops(envelope)
        self._started = False
        self._index = -1  # of the newest block
        self._kind = ""  # of the open block: "text", "tool", or none
        # Place among the upstream's calls -> (index of the block, id of the call).
        self._tools: dict[int, tuple[int, str]] = {}
        self._last: Mapping[str, Any] | None = None  # the choice that had the finish reason
        self._called = False
        self._refused = False

    def feed(self, data: bytes) -> bytes:
        block = self._take(data)
        return self._translate(block) if block else b""

    def finish(self) -> bytes:
        rest = self._rest()
        out = self._translate(rest) if rest else b""
        self._settle()
        return out

    def ending(self) -> bytes:
        return b"" if self.terminal else self._end()

    def _translate(self, block: bytes) -> bytes:
        parts: list[bytes] = []
        for event in split_events(block):
            data = event_data(event).strip()
            if not data or self.terminal or self.facts.error_type is not None:
                continue
            if data == _DONE:
                parts.append(self._end())
                self.terminal = self._last is not None
                continue
            doc = read_chunk(data)
            if type(doc) is dict:
                self._chunk(doc, parts)
        return b"".join(parts)

    def _chunk(self, doc: Mapping[str, Any], parts: list[bytes]) -> None:
        facts = self.facts
        if doc.get("error"):
            self._fail(doc["error"], parts)
            return
        usage = doc.get("usage")
        if type(usage) is not dict:
            usage = object_of(doc.get("x_groq")).get("usage")
        if type(usage) is dict:
            read_usage(facts, usage)
        choice = object_of(next(iter(items_of(doc.get("choices"))), None))
        if not choice:
            return
        if not self._started:
            self._started = True
            facts.response_id = text_of(doc.get("id")) or None
            facts.response_model = text_of(doc.get("model")) or None
            parts.append(self._start())
        self._delta(object_of(choice.get("delta")), parts)
        if facts.error_type is None and (reason := text_of(choice.get("finish_reason"))):
            if self._last is None:
                facts.finish_reasons.append(reason)
            self._last = {name: choice.get(name) for name in ("finish_reason", "stop_reason")}

    def _start(self) -> bytes:
        # How much was read is told at the end, as the counts of a stream are cumulative.
        opened: dict[str, Any] = {
            "id": self.facts.response_id or "",
            "type": "message",
            "role": "assistant",
            "model": self.facts.response_model or "",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return event_of("message_start", message=opened)

    def _delta(self, delta: Mapping[str, Any], parts: list[bytes]) -> None:
        if thought := text_of(delta.get("reasoning_content")) or text_of(delta.get("reasoning")):
            # The caller gets none of it, but the model is at work.
            self._note_piece(thought)
        refusal = text_of(delta.get("refusal"))
        self._refused |= bool(refusal)
        if text := content_text(delta.get("content")) or refusal:
            if self._kind != "text":
                self._open({"type": "text", "text": ""}, "text", parts)
            self._note_piece(text)
            self._note_text(orjson.dumps(text)[1:-1])
            parts.append(self._piece(self._index, {"type": "text_delta", "text": text}))
        for place, item in enumerate(items_of(delta.get("tool_calls"))):
            self._call(place, object_of(item), parts)

    def _call(self, place: int, call: Mapping[str, Any], parts: list[bytes]) -> None:
        index = call.get("index")
        place = index if type(index) is int else place
        function = object_of(call.get("function"))
        name, call_id = text_of(function.get("name")), text_of(call.get("id"))
        known = self._tools.get(place)
        # Some servers give every call of an answer the same place, or none at all.
        if known is None or (name and (call_id != known[1] if call_id else type(index) is not int)):
            shown = call_id or new_call_id()
            self._open({"type": "tool_use", "id": shown, "name": name, "input": {}}, "tool", parts)
            known = self._tools[place] = (self._index, call_id)
            self._called = self.facts.tool_calls = True
        if arguments := arguments_of(function):
            if known[0] != self._index or self._kind != "tool":
                # The block is closed, and there is no opening it again.
                self._fail({"type": "invalid_reply"}, parts)
                return
            self._note_piece(arguments)
            parts.append(self._piece(known[0], {"type": "input_json_delta", "partial_json": arguments}))

    def _note_piece(self, text: str) -> None:
        self.content_events += 1
        self.facts.content_chars += len(text)

    def _open(self, block: dict[str, Any], kind: str, parts: list[bytes]) -> None:
        self._close(parts)
        self._index += 1
        self._kind = kind
        parts.append(event_of("content_block_start", index=self._index, content_block=block))

    def _close(self, parts: list[bytes]) -> None:
        if self._kind:
            parts.append(event_of("content_block_stop", index=self._index))
            self._kind = ""

    def _piece(self, index: int, delta: dict[str, Any]) -> bytes:
        return event_of("content_block_delta", index=index, delta=delta)

    def _fail(self, error: Any, parts: list[bytes]) -> None:
        note_error(self.facts, error)
        self.terminal = True
        told = text_of(object_of(error).get("message")) or "The upstream reported an error in its stream."
        words = f"{self.facts.error_type} {self.facts.error_code}".lower()
        kind = next((kind for word, kind in _ERROR_WORDS if word in words), "api_error")
        parts.append(error_event(kind, told))

    def _end(self) -> bytes:
        """The end of a whole answer; nothing for one without a finish reason."""
        if self._last is None:
            return b""
        parts: list[bytes] = []
        self._close(parts)
        reason, sequence = stop_of(self._stops, self._last, called=self._called, refused=self._refused)
        if self.facts.usage_source == NO_USAGE:
            self.estimate_usage()
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        parts.append(event_of("message_delta", delta=delta, usage=usage_of(self.facts)))
        parts.append(event_of("message_stop"))
        return b"".join(parts)


def event_of(kind: str, **fields: Any) -> bytes:
    """One event as the API writes it."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))
