"""Replies of the Messages API, whole and streamed, in the shape of chat completions.

Anthropic's ``input_tokens`` excludes what came from and went to its cache; here, as for every provider, input is all
input. A stream that ends without ``message_stop`` ends without ``[DONE]``: a broken answer must look broken.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.envelope import Envelope
from proxy.errors import error_body
from proxy.providers.base import MOST_TOKENS, REPORTED, ReplyFacts
from proxy.providers.event_stream import EventStreamDecoder
from proxy.providers.shape import items_of, object_of, text_of
from proxy.providers.sse import event_data, split_events

FINISH_REASONS: Final[Mapping[str, str]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
# Anthropic's error types -> (OpenAI type, code)
ERRORS: Final[Mapping[str, tuple[str, str]]] = {
    "invalid_request_error": ("invalid_request_error", "invalid_request"),
    "authentication_error": ("invalid_request_error", "invalid_api_key"),
    "permission_error": ("invalid_request_error", "permission_denied"),
    "not_found_error": ("invalid_request_error", "not_found"),
    "request_too_large": ("invalid_request_error", "request_too_large"),
    "billing_error": ("insufficient_quota", "insufficient_quota"),
    "rate_limit_error": ("rate_limit_error", "rate_limit_exceeded"),
    "timeout_error": ("server_error", "timeout"),
    "overloaded_error": ("server_error", "overloaded"),
    "api_error": ("server_error", "api_error"),
}


class Usage:
    """Anthropic's counts, collected over a stream: later values replace earlier ones."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, usage: Mapping[str, Any]) -> None:
        for name in (
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
        ):
            value = usage.get(name)
            if type(value) is int and 0 <= value < MOST_TOKENS:
                self.counts[name] = value
        hour = object_of(usage.get("cache_creation")).get("ephemeral_1h_input_tokens")
        if type(hour) is int and 0 <= hour < MOST_TOKENS:
            self.counts["1h"] = hour
        thought = object_of(usage.get("output_tokens_details")).get("thinking_tokens")
        if type(thought) is int and 0 <= thought < MOST_TOKENS:
            self.counts["thinking"] = thought

    def fill(self, facts: ReplyFacts) -> None:
        """Write the input side into ``facts``, and the output side once it was reported."""
        counts = self.counts
        if "input_tokens" not in counts:
            return
        read = counts.get("cache_read_input_tokens")
        written = counts.get("cache_creation_input_tokens")
        facts.input_tokens = counts["input_tokens"] + (read or 0) + (written or 0)
        facts.cache_read_tokens = read
        facts.cache_write_tokens = written
        facts.cache_write_1h_tokens = counts.get("1h")

    def fill_output(self, facts: ReplyFacts) -> None:
        if facts.input_tokens is not None and "output_tokens" in self.counts:
            facts.output_tokens = self.counts["output_tokens"]
            facts.reasoning_tokens = self.counts.get("thinking")
            facts.usage_source = REPORTED


def openai_usage(facts: ReplyFacts) -> dict[str, Any]:
    """The usage object of a chat completion."""
    given, output = facts.input_tokens or 0, facts.output_tokens or 0
    return {
        "prompt_tokens": given,
        "completion_tokens": output,
        "total_tokens": given + output,
        "prompt_tokens_details": {
            "cached_tokens": facts.cache_read_tokens or 0,
            "cache_creation_tokens": facts.cache_write_tokens or 0,
        },
    }


def finish_reason(stop_reason: Any) -> str:
    """OpenAI's word for a stop reason; unknown ones read as ``stop``, so that no client waits for more."""
    return FINISH_REASONS.get(stop_reason, "stop") if type(stop_reason) is str else "stop"


def translate_error(error: Any, fallback: str) -> tuple[bytes, str, str | None]:
    """An error object as (OpenAI-shaped body, type, code)."""
    source = object_of(error)
    kind, code = ERRORS.get(str(source.get("type")), ("server_error", "upstream_error"))
    message = source.get("message")
    if code == "invalid_api_key" or type(message) is not str or not message:
        message = fallback
    return error_body(message, kind=kind, code=code), kind, code


def chat_completion(doc: Mapping[str, Any], facts: ReplyFacts, created: int) -> tuple[bytes, str]:
    """A whole message as (chat completion, the answer's text); ids, usage and reasons go into ``facts``."""
    usage = Usage()
    usage.add(object_of(doc.get("usage")))
    usage.fill(facts)
    usage.fill_output(facts)
    facts.response_id = text_of(doc.get("id")) or None
    facts.response_model = text_of(doc.get("model")) or None
    reason = finish_reason(doc.get("stop_reason"))
    facts.finish_reasons.append(reason)
    message, text = _message(doc.get("content"))
    facts.tool_calls = "tool_calls" in message
    reply = {
        "id": facts.response_id,
        "object": "chat.completion",
        "created": created,
        "model": facts.response_model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": openai_usage(facts),
    }
    return orjson.dumps(reply), text


def _message(content: Any) -> tuple[dict[str, Any], str]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for item in items_of(content):
        block = object_of(item)
        kind = block.get("type")
        if kind == "text":
            texts.append(text_of(block.get("text")))
        elif kind == "thinking":
            thoughts.append(text_of(block.get("thinking")))
        elif kind == "tool_use":
            arguments = orjson.dumps(block.get("input") or {}).decode()
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
    text = "".join(texts)
    message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    elif not text:
        message["content"] = ""
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    return message, text


class MessagesStreamDecoder(EventStreamDecoder):
    """Messages events in, chat completion chunks out."""

    __slots__ = ("_created", "_tools", "_usage", "_waiting")

    def __init__(self, envelope: Envelope, created: int) -> None:
        super().__init__(envelope)
        self._created = created
        self._usage = Usage()
        # Block index -> index among the tool calls; `_waiting` are calls that have got no arguments yet.
        self._tools: dict[int, int] = {}
        self._waiting: set[int] = set()

    def feed(self, data: bytes) -> bytes:
        block = self._take(data)
        return self._translate(block) if block else b""

    def finish(self) -> bytes:
        rest = self._rest()
        out = self._translate(rest) if rest else b""
        self._settle()
        return out

    def _translate(self, block: bytes) -> bytes:
        parts: list[bytes] = []
        for event in split_events(block):
            data = event_data(event)
            if not data or self.terminal or self.facts.error_type is not None:
                continue
            try:
                doc = orjson.loads(data)
            except orjson.JSONDecodeError:
                continue
            if type(doc) is dict:
                parts.append(self._event(doc))
        return b"".join(parts)

    def _event(self, doc: dict[str, Any]) -> bytes:
        match doc.get("type"):
            case "content_block_delta":
                return self._delta(doc)
            case "content_block_start":
                return self._block_start(doc)
            case "content_block_stop":
                return self._block_stop(doc)
            case "message_start":
                return self._start(doc)
            case "message_delta":
                return self._message_delta(doc)
            case "message_stop":
                return self._stop()
            case "error":
                body, kind, code = translate_error(doc.get("error"), "The upstream reported an error.")
                self.facts.error_type, self.facts.error_code = kind, code
                self.terminal = True
                return b"data: " + body + b"\n\n"
            case _:
                return b""

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._data([choice], None)

    def _data(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> bytes:
        chunk: dict[str, Any] = {
            "id": self.facts.response_id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self.facts.response_model,
            "choices": choices,
        }
        if self._envelope.wants_usage:
            chunk["usage"] = usage
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _start(self, doc: dict[str, Any]) -> bytes:
        message = object_of(doc.get("message"))
        self.facts.response_id = text_of(message.get("id")) or None
        self.facts.response_model = text_of(message.get("model")) or None
        self._usage.add(object_of(message.get("usage")))
        self._usage.fill(self.facts)
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def _block_start(self, doc: dict[str, Any]) -> bytes:
        block = object_of(doc.get("content_block"))
        if block.get("type") == "text":
            return self._text_delta(text_of(block.get("text")))
        if block.get("type") != "tool_use":
            return b""
        position = len(self._tools)
        self._tools[_index(doc)] = position
        self._waiting.add(position)
        self.facts.tool_calls = True
        function = {"name": block.get("name"), "arguments": ""}
        call = {"index": position, "id": block.get("id"), "type": "function", "function": function}
        return self._chunk({"tool_calls": [call]})

    def _delta(self, doc: dict[str, Any]) -> bytes:
        delta = object_of(doc.get("delta"))
        kind = delta.get("type")
        if kind == "text_delta":
            return self._text_delta(text_of(delta.get("text")))
        if kind == "thinking_delta" and (thought := text_of(delta.get("thinking"))):
            self._note_piece(thought)
            return self._chunk({"reasoning_content": thought})
        if kind == "input_json_delta" and (part := text_of(delta.get("partial_json"))):
            self._note_piece(part)
            position = self._tools.get(_index(doc), 0)
            self._waiting.discard(position)
            return self._arguments(position, part)
        return b""

    def _note_piece(self, text: str) -> None:
        self.content_events += 1
        self.facts.content_chars += len(text)

    def _text_delta(self, text: str) -> bytes:
        if not text:
            return b""
        self._note_piece(text)
        self._note_text(orjson.dumps(text)[1:-1])
        return self._chunk({"content": text})

    def _arguments(self, position: int, text: str) -> bytes:
        return self._chunk({"tool_calls": [{"index": position, "function": {"arguments": text}}]})

    def _block_stop(self, doc: dict[str, Any]) -> bytes:
        position = self._tools.get(_index(doc))
        if position is None or position not in self._waiting:
            return b""
        # No arguments were streamed: clients parse what they got, and "" is not JSON.
        self._waiting.discard(position)
        return self._arguments(position, "{}")

    def _message_delta(self, doc: dict[str, Any]) -> bytes:
        usage = object_of(doc.get("usage"))
        self._usage.add(usage)
        self._usage.fill(self.facts)
        if "output_tokens" in usage:
            self._usage.fill_output(self.facts)
        reason = object_of(doc.get("delta")).get("stop_reason")
        if reason is None:
            return b""
        self.facts.finish_reasons.append(finish_reason(reason))
        return self._chunk({}, finish_reason(reason))

    def _stop(self) -> bytes:
        last = self.ending()
        self.terminal = True
        return last

    def ending(self) -> bytes:
        last = super().ending()
        if not last or not self._envelope.wants_usage:
            return last
        return self._data([], openai_usage(self.facts)) + last


def _index(doc: Mapping[str, Any]) -> int:
    index = doc.get("index")
    return index if type(index) is int else 0
