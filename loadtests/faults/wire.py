"""The bytes of replies in each dialect: whole documents, events of streams, errors, and HTTP around them.

A dialect knows no fault; the behaviours put these pieces together wrongly. Every answer is the same ``TEXT``, so that
what a caller has read shows at once whether something was lost or said twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

# Quotes, line ends and characters of several bytes, because an answer that is continued must keep them all.
TOKENS = ("alpha", " beta", " gamma", ' "d\u00e9lta"\n', " \U0001f642", " zeta\\", " eta", " theta")
TEXT = "".join(TOKENS)
PROMPT_TOKENS = 10
JSON = "application/json"
EVENTS = "text/event-stream"
REASONS = {200: "OK", 307: "Temporary Redirect", 429: "Too Many Requests", 500: "Internal Server Error"}
DONE = b"data: [DONE]\n\n"
# What a provider calls an error of a status: its type and its code, as OpenAI says it.
WORDS: Mapping[int, tuple[str, str]] = {
    400: ("invalid_request_error", "invalid_value"),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "permission_denied"),
    404: ("invalid_request_error", "model_not_found"),
    422: ("invalid_request_error", "invalid_value"),
    408: ("server_error", "timeout"),
    409: ("server_error", "conflict"),
    425: ("server_error", "too_early"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("server_error", "overloaded"),
}
ANTHROPIC_WORDS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def head(status: int, headers: Mapping[str, str | int]) -> bytes:
    """A reply head."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {REASONS.get(status, 'Said So')}\r\n{lines}\r\n".encode("latin-1")


def framed(status: int, body: bytes, *, kind: str = JSON, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole reply with its length."""
    return head(status, {"content-type": kind, "content-length": len(body), **(headers or {})}) + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; the empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def tokens_after(said: str) -> tuple[str, ...]:
    """What is left of the answer after ``said``, in tokens. Something else than its beginning gets a marker."""
    if not TEXT.startswith(said):
        return ("<not a beginning>",)
    left, position = [], 0
    for token in TOKENS:
        end = position + len(token)
        if end > len(said):
            left.append(token[max(0, len(said) - position) :])
        position = end
    return tuple(left)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How OpenAI's chat completions look. The other dialects override what they say differently."""

    model: str

    def document(self, tokens: tuple[str, ...], finish: str = "stop") -> bytes:
        """A whole answer."""
        message = {"role": "assistant", "content": "".join(tokens)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return orjson.dumps(
            {
                "id": f"chatcmpl-{self.model[:12]}",
                "object": "chat.completion",
                "created": 1,
                "model": self.model,
                "choices": [choice],
                "usage": self._usage(len(tokens)),
            }
        )

    def opening(self) -> bytes:
        """What comes before the first content."""
        return self._chunk({"role": "assistant", "content": ""})

    def token(self, text: str) -> bytes:
        """One piece of the answer."""
        return self._chunk({"content": text})

    def thought(self, text: str) -> bytes:
        """One piece of reasoning before the answer."""
        return self._chunk({"reasoning_content": text})

    def tool_call(self, *, whole: bool = False) -> bytes:
        """A call of a tool; unless ``whole``, its arguments are cut in half."""
        function = {"name": "look_up", "arguments": _ARGUMENTS if whole else _ARGUMENTS[:-5]}
        return self._chunk(
            {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}
        )

    def finish(self, count: int, reason: str = "stop") -> bytes:
        """The event that says why the answer ended."""
        return self._chunk({}, reason)

    def usage(self, count: int) -> bytes:
        """The usage event that was asked for."""
        return _data(
            {
                "id": f"chatcmpl-{self.model[:12]}",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": self.model,
                "choices": [],
                "usage": self._usage(count),
            }
        )

    def done(self) -> bytes:
        """The terminal event."""
        return DONE

    def comment(self) -> bytes:
        """What keeps a connection warm and says nothing."""
        return b": keep-alive\n\n"

    def error(self, status: int, message: str, *, code: str | None = None) -> bytes:
        """An error document."""
        kind, word = WORDS.get(status, ("server_error", "server_error"))
        return orjson.dumps(
            {"error": {"message": message, "type": kind, "param": None, "code": code or word}}
        )

    def error_event(self, message: str) -> bytes:
        """An error inside a stream."""
        return b"data: " + self.error(500, message) + b"\n\n"

    def too_long(self) -> bytes:
        """The refusal of a prompt that is larger than the context."""
        return self.error(
            400,
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
            code="context_length_exceeded",
        )

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data(
            {
                "id": f"chatcmpl-{self.model[:12]}",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": self.model,
                "choices": [choice],
            }
        )

    def _usage(self, count: int) -> dict[str, int]:
        return {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": count,
            "total_tokens": PROMPT_TOKENS + count,
        }


@dataclass(frozen=True, slots=True)
class Completions(Dialect):
    """The older completions."""

    def document(self, tokens: tuple[str, ...], finish: str = "stop") -> bytes:
        choice = {"index": 0, "text": "".join(tokens), "logprobs": None, "finish_reason": finish}
        return orjson.dumps(
            {
                "id": "cmpl-1",
                "object": "text_completion",
                "created": 1,
                "model": self.model,
                "choices": [choice],
                "usage": self._usage(len(tokens)),
            }
        )

    def opening(self) -> bytes:
        return b""

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "text": delta.get("content", ""), "logprobs": None, "finish_reason": finish}
        return _data(
            {
                "id": "cmpl-1",
                "object": "text_completion",
                "created": 1,
                "model": self.model,
                "choices": [choice],
            }
        )


@dataclass(frozen=True, slots=True)
class Embeddings(Dialect):
    """Vectors. They never stream."""

    def document(self, tokens: tuple[str, ...], finish: str = "stop") -> bytes:
        return orjson.dumps(
            {
                "object": "list",
                "model": self.model,
                "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}],
                "usage": {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS},
            }
        )


@dataclass(frozen=True, slots=True)
class Responses(Dialect):
    """OpenAI's responses: every event has a type, the last one carries the whole reply, there is no [DONE]."""

    def document(self, tokens: tuple[str, ...], finish: str = "stop") -> bytes:
        return orjson.dumps(self._reply("completed", tokens))

    def opening(self) -> bytes:
        return self._event("response.created", response=self._reply("in_progress", ()))

    def token(self, text: str) -> bytes:
        return self._event(
            "response.output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta=text
        )

    def finish(self, count: int, reason: str = "stop") -> bytes:
        return self._event("response.output_text.done", item_id="msg_1", output_index=0, text=TEXT)

    def usage(self, count: int) -> bytes:
        return b""

    def done(self) -> bytes:
        return self._event("response.completed", response=self._reply("completed", TOKENS))

    def error_event(self, message: str) -> bytes:
        return self._event("error", code="server_error", message=message, param=None)

    def _event(self, kind: str, **fields: Any) -> bytes:
        return b"event: %b\n" % kind.encode() + _data({"type": kind, **fields})

    def _reply(self, status: str, tokens: tuple[str, ...]) -> dict[str, Any]:
        text = {"type": "output_text", "text": "".join(tokens), "annotations": []}
        message = {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": status,
            "content": [text] if tokens else [],
        }
        count = len(tokens)
        usage = {
            "input_tokens": PROMPT_TOKENS,
            "output_tokens": count,
            "total_tokens": PROMPT_TOKENS + count,
        }
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "status": status,
            "model": self.model,
            "output": [message] if tokens else [],
            "usage": usage if tokens else None,
            "error": None,
        }


@dataclass(frozen=True, slots=True)
class Messages(Dialect):
    """Anthropic's Messages API."""

    def document(self, tokens: tuple[str, ...], finish: str = "stop") -> bytes:
        content = [{"type": "text", "text": "".join(tokens)}]
        return orjson.dumps(self._message(content, _STOPS[finish], len(tokens)))

    def opening(self) -> bytes:
        return (
            self._event("message_start", message=self._message([], None, 1))
            + self._event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            + self.comment()
        )

    def token(self, text: str) -> bytes:
        return self._event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def tool_call(self, *, whole: bool = False) -> bytes:
        call = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {}}
        delta = {"type": "input_json_delta", "partial_json": _ARGUMENTS if whole else _ARGUMENTS[:-5]}
        return self._event("content_block_start", index=1, content_block=call) + self._event(
            "content_block_delta", index=1, delta=delta
        )

    def finish(self, count: int, reason: str = "stop") -> bytes:
        delta = {"stop_reason": _STOPS[reason], "stop_sequence": None}
        return self._event("content_block_stop", index=0) + self._event(
            "message_delta", delta=delta, usage={"output_tokens": count}
        )

    def usage(self, count: int) -> bytes:
        return b""

    def done(self) -> bytes:
        return self._event("message_stop")

    def comment(self) -> bytes:
        return self._event("ping")

    def error(self, status: int, message: str, *, code: str | None = None) -> bytes:
        kind = code or ANTHROPIC_WORDS.get(status, "api_error")
        return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})

    def error_event(self, message: str) -> bytes:
        return b"event: error\ndata: " + self.error(529, message) + b"\n\n"

    def too_long(self) -> bytes:
        return self.error(400, "prompt is too long: 208310 tokens > 200000 maximum")

    def _event(self, kind: str, **fields: Any) -> bytes:
        return b"event: %b\n" % kind.encode() + _data({"type": kind, **fields})

    def _message(self, content: list[dict[str, Any]], stop: str | None, count: int) -> dict[str, Any]:
        return {
            "id": "msg_01FaultyUpstream",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": {"input_tokens": PROMPT_TOKENS, "output_tokens": count},
        }


_ARGUMENTS = '{"city": "Paris"}'
_STOPS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}
_PATHS: Mapping[str, type[Dialect]] = {
    "/completions": Completions,
    "/embeddings": Embeddings,
    "/responses": Responses,
    "/messages": Messages,
}


def dialect_of(path: str, model: str) -> Dialect:
    """The dialect that is spoken at a path."""
    path = path.partition("?")[0]
    if path.endswith("/chat/completions"):
        return Dialect(model)
    found = next((kind for end, kind in _PATHS.items() if path.endswith(end)), Dialect)
    return found(model)


def _data(document: object) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"
