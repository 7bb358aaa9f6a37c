"""The codec for OpenAI and everything that speaks its dialect.

Azure, vLLM, Ollama, Groq, Mistral, DeepSeek, Gemini's compatible endpoint: the differences are in base URL, paths and
the name of the key header, which are settings of the upstream. Bodies are changed by splicing, replies pass
unchanged; only Messages requests are translated to chat completions, and back.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from optimizer.routing import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MESSAGES,
    RESPONSES,
    Arm,
    Model,
    Upstream,
    Variant,
)
from proxy.envelope import DELETE, Envelope, rewrite
from proxy.prompt import apply_variant
from proxy.providers.base import (
    HEAD_CHARS,
    NO_USAGE,
    STREAM_USAGE,
    Prepared,
    ReplyFacts,
    StreamDecoder,
    request_target,
)
from proxy.providers.chat_reply import ChatToMessagesDecoder, message
from proxy.providers.chat_request import chat_request
from proxy.providers.openai_stream import (
    ChatStreamDecoder,
    ResponsesStreamDecoder,
    StrippingChatDecoder,
    read_response_end,
)
from proxy.providers.openai_usage import client_error, note_error, read_usage
from proxy.providers.shape import items_of, object_of, text_of
from proxy.providers.signals import json_validity, wants_json

SUFFIXES: Final = {
    CHAT: "/chat/completions",
    COMPLETIONS: "/completions",
    EMBEDDINGS: "/embeddings",
    RESPONSES: "/responses",
}
# Replies longer than this are not parsed; their usage is looked for at both ends.
PARSE_BYTES: Final = 256 * 1024
_EDGE_BYTES: Final = 4096
_USAGE: Final = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')
_FINISH: Final = re.compile(rb'"finish_reason"\s*:\s*"(\w+)"')
_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')


class OpenAICodec:
    """See ``Codec``."""

    name = "openai"
    native = frozenset((CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES))

    def auth_header(self, upstream: Upstream, secret: str) -> tuple[bytes, bytes]:
        header = upstream.key_header.lower()
        value = f"Bearer {secret}" if header == "authorization" else secret
        return header.encode("ascii"), value.encode("latin-1")

    def prepare(
        self, envelope: Envelope, arm: Arm, model: Model, variant: Variant, upstream: Upstream
    ) -> Prepared:
        """Change the model, the arm's parameters, the prompt and the request for usage; nothing else."""
        endpoint = envelope.endpoint
        if endpoint == MESSAGES:
            return _prepare_messages(envelope, arm, model, variant, upstream)
        path = request_target(
            upstream.base_url, SUFFIXES[endpoint], upstream.paths.get(endpoint), model.model_id
        )
        doc = envelope.doc
        changes: dict[str, Any] = {}
        if arm.parameters:
            changes = {key: DELETE if value is None else value for key, value in arm.parameters.items()}
        if envelope.model != model.model_id:
            changes["model"] = model.model_id
        injected = envelope.stream and _asks_usage_for_client(envelope, model)
        if injected:
            options = changes.get("stream_options") or doc.get("stream_options")
            changes["stream_options"] = {**object_of(options), "include_usage": True}
        varied = None if variant.is_identity else apply_variant(doc, endpoint, variant)
        if varied is not None:
            body = orjson.dumps(_merged(varied, changes))
        elif changes:
            body = rewrite(envelope.raw, doc, changes, known=envelope.known_member)
        else:
            body = envelope.raw
        return Prepared(path, body, usage_injected=injected)

    def unary(self, envelope: Envelope, body: bytes) -> tuple[bytes, ReplyFacts]:
        facts = ReplyFacts()
        if envelope.endpoint == MESSAGES:
            return message(envelope, body, facts), facts
        _read_reply(envelope, body, facts)
        if facts.usage_source == NO_USAGE and facts.error_type is None:
            facts.estimate(envelope.input_tokens_estimate)
        return body, facts

    def stream(self, envelope: Envelope, prepared: Prepared) -> StreamDecoder:
        if envelope.endpoint == RESPONSES:
            return ResponsesStreamDecoder(envelope)
        if envelope.endpoint == MESSAGES:
            return ChatToMessagesDecoder(envelope)
        if prepared.usage_injected:
            return StrippingChatDecoder(envelope)
        return ChatStreamDecoder(envelope)

    def error(self, status: int, body: bytes, *, endpoint: str = CHAT) -> tuple[bytes, str, str | None]:
        return client_error(status, body)


def _prepare_messages(
    envelope: Envelope, arm: Arm, model: Model, variant: Variant, upstream: Upstream
) -> Prepared:
    target = request_target(upstream.base_url, SUFFIXES[CHAT], upstream.paths.get(CHAT), model.model_id)
    doc = apply_variant(envelope.doc, MESSAGES, variant) or envelope.doc
    body, left_out = chat_request(doc, arm.parameters, model, upstream)
    return Prepared(target, orjson.dumps(body), translates=True, left_out=left_out)


def _asks_usage_for_client(envelope: Envelope, model: Model) -> bool:
    return (
        not envelope.wants_usage
        and envelope.endpoint in (CHAT, COMPLETIONS)
        and STREAM_USAGE in model.capabilities
    )


def _merged(doc: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**doc, **changes}
    for key, value in changes.items():
        if value is DELETE:
            del merged[key]
    return merged


def _read_reply(envelope: Envelope, body: bytes, facts: ReplyFacts) -> None:
    if len(body) > PARSE_BYTES or (envelope.endpoint == EMBEDDINGS and len(body) > _EDGE_BYTES):
        if not body[-_EDGE_BYTES:].rstrip().endswith(b"}"):
            facts.error_type = "invalid_reply"
            return
        if _read_edges(body, facts):
            return
        if len(body) > PARSE_BYTES:
            facts.has_content = True
            return
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError:
        facts.error_type = "invalid_reply"
        return
    if type(doc) is not dict:
        facts.error_type = "invalid_reply"
        return
    facts.response_id = text_of(doc.get("id")) or None
    facts.response_model = text_of(doc.get("model")) or None
    if envelope.endpoint == RESPONSES:
        read_response_end(facts, doc)
        _finish_text(envelope, facts, _response_text(doc, facts))
        return
    if type(usage := doc.get("usage")) is dict:
        read_usage(facts, usage)
    if error := doc.get("error"):
        note_error(facts, error)
    elif envelope.endpoint == EMBEDDINGS:
        facts.has_content = bool(doc.get("data"))
    else:
        _finish_text(envelope, facts, _choices_text(doc, facts))


def _read_edges(body: bytes, facts: ReplyFacts) -> bool:
    """Find usage near the end or the beginning of a large reply without parsing the rest."""
    head, tail = body[:_EDGE_BYTES], body[-_EDGE_BYTES:]
    for edge in (tail, head):
        matches = _USAGE.findall(edge)
        if not matches:
            continue
        try:
            read_usage(facts, orjson.loads(matches[-1]))
        except orjson.JSONDecodeError:
            facts.error_type = "invalid_reply"
            return True
        facts.has_content = True
        model = _MODEL.search(head) or _MODEL.search(tail)
        facts.response_model = model.group(1).decode("utf-8", "replace") if model else None
        facts.finish_reasons = [reason.decode() for reason in _FINISH.findall(tail)]
        return True
    return False


def _choices_text(doc: Mapping[str, Any], facts: ReplyFacts) -> str:
    texts: list[str] = []
    for item in items_of(doc.get("choices")):
        choice = object_of(item)
        if type(reason := choice.get("finish_reason")) is str:
            facts.finish_reasons.append(reason)
        texts.append(text_of(choice.get("text")))
        message = object_of(choice.get("message"))
        if message.get("tool_calls") or message.get("function_call"):
            facts.tool_calls = True
        if message.get("audio"):
            facts.has_content = True
        texts.append(_content_text(message.get("content")) or text_of(message.get("refusal")))
    return "".join(texts)


def _content_text(content: Any) -> str:
    if type(content) is list:
        return "".join(text_of(object_of(part).get("text")) for part in content)
    return text_of(content)


def _response_text(doc: Mapping[str, Any], facts: ReplyFacts) -> str:
    texts: list[str] = []
    for item in items_of(doc.get("output")):
        entry = object_of(item)
        kind = text_of(entry.get("type"))
        if kind == "message":
            parts = [object_of(part) for part in items_of(entry.get("content"))]
            texts.extend(text_of(part.get("text")) or text_of(part.get("refusal")) for part in parts)
        elif kind.endswith("_call"):
            facts.tool_calls = True
    return "".join(texts)


def _finish_text(envelope: Envelope, facts: ReplyFacts, text: str) -> None:
    if not text:
        return
    facts.has_content = True
    facts.content_chars = len(text)
    facts.text_head = text[:HEAD_CHARS]
    if wants_json(envelope):
        facts.json_valid = json_validity(envelope, text)
