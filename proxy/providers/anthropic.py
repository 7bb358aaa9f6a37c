"""The codec for Anthropic's Messages API, for chat requests and for its own.

For chat, streams and whole replies are translated event by event; see ``anthropic_request`` for what a request loses on
the way. Messages requests and replies pass as they are; see ``messages_native``.
"""

import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from optimizer.routing import CHAT, MESSAGES, Arm, Model, Upstream, Variant
from proxy.envelope import Envelope
from proxy.errors import ClientFault, error_body
from proxy.prompt import apply_variant
from proxy.providers.anthropic_reply import MessagesStreamDecoder, chat_completion, translate_error
from proxy.providers.anthropic_request import messages_request
from proxy.providers.base import (
    HEAD_CHARS,
    NO_USAGE,
    Prepared,
    ReplyFacts,
    StreamDecoder,
    request_target,
)
from proxy.providers.messages_native import NativeMessagesDecoder, native_body, read_message
from proxy.providers.openai_usage import client_error
from proxy.providers.signals import json_validity, wants_json

VERSION: Final = "2023-06-01"
_VERSION_HEADER: Final = "anthropic-version"


class AnthropicCodec:
    """See ``Codec``. ``now`` gives the ``created`` second of replies; the API has none."""

    name = "anthropic"
    native = frozenset((MESSAGES,))

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def auth_header(self, upstream: Upstream, secret: str) -> tuple[bytes, bytes]:
        """``x-api-key``, unless the upstream names another header."""
        header = upstream.key_header.lower()
        name = "x-api-key" if header == "authorization" else header
        return name.encode("ascii"), secret.encode("latin-1")

    def prepare(
        self, envelope: Envelope, arm: Arm, model: Model, variant: Variant, upstream: Upstream
    ) -> Prepared:
        endpoint = envelope.endpoint
        if endpoint not in (CHAT, MESSAGES):
            raise ClientFault(
                "The model chosen for this request answers chat completions and messages only, not "
                f"{endpoint}.",
                code="unsupported_endpoint",
            )
        path = messages_target(upstream, model)
        own_version = any(name.lower() == _VERSION_HEADER for name, _ in upstream.headers)
        if endpoint == MESSAGES:
            version = envelope.version or VERSION.encode()
            headers = () if own_version else ((_VERSION_HEADER.encode(), version),)
            if envelope.is_beta and "?" not in path:
                path += "?beta=true"
            return Prepared(path, native_body(envelope, arm.parameters, model, variant), headers)
        doc: dict[str, Any] = envelope.doc
        if arm.parameters:
            doc = {key: value for key, value in {**doc, **arm.parameters}.items() if value is not None}
        varied = apply_variant(doc, CHAT, variant)
        body = orjson.dumps(messages_request(doc if varied is None else varied, model))
        headers = () if own_version else ((_VERSION_HEADER.encode(), VERSION.encode()),)
        return Prepared(path, body, headers, translates=True)

    def unary(self, envelope: Envelope, body: bytes) -> tuple[bytes, ReplyFacts]:
        if envelope.endpoint == MESSAGES:
            return body, read_message(envelope, body)
        facts = ReplyFacts()
        if envelope.stream:
            # Events are awaited: a completion in one piece would read as an empty answer.
            facts.error_type = "invalid_reply"
            return body, facts
        try:
            doc = orjson.loads(body)
        except orjson.JSONDecodeError:
            doc = None
        if type(doc) is not dict or doc.get("type") == "error":
            error = doc.get("error") if type(doc) is dict else None
            shaped, facts.error_type, facts.error_code = translate_error(
                error, "The upstream's reply could not be read."
            )
            return shaped, facts
        reply, text = chat_completion(doc, facts, int(self._now()))
        if text:
            facts.has_content = True
            facts.content_chars = len(text)
            facts.text_head = text[:HEAD_CHARS]
            if wants_json(envelope):
                facts.json_valid = json_validity(envelope, text)
        if facts.usage_source == NO_USAGE:
            facts.estimate(envelope.input_tokens_estimate)
        return reply, facts

    def stream(self, envelope: Envelope, prepared: Prepared) -> StreamDecoder:
        if envelope.endpoint == MESSAGES:
            return NativeMessagesDecoder(envelope)
        return MessagesStreamDecoder(envelope, int(self._now()))

    def error(self, status: int, body: bytes, *, endpoint: str = CHAT) -> tuple[bytes, str, str | None]:
        try:
            doc = orjson.loads(body)
        except orjson.JSONDecodeError:
            doc = None
        error = doc.get("error") if type(doc) is dict else None
        if type(error) is not dict:
            return client_error(status, body)
        if status == 401:
            message = "The upstream refused the credentials that this proxy sent."
            kind, code = "invalid_request_error", "invalid_api_key"
            return error_body(message, kind=kind, code=code), kind, code
        translated = translate_error(error, f"The upstream answered with status {status}.")
        is_own = endpoint == MESSAGES and type(doc) is dict and doc.get("type") == "error"
        return (body, *translated[1:]) if is_own else translated


def messages_target(upstream: Upstream, model: Model, suffix: str = "") -> str:
    """The request target of the Messages API, or of what is below it."""
    has_path = urlsplit(upstream.base_url).path.rstrip("/")
    path = "/messages" if not has_path or has_path.endswith("/v1") else "/v1/messages"
    paths = upstream.paths
    own = None if suffix else paths.get(MESSAGES) or paths.get(CHAT)
    return request_target(upstream.base_url, path + suffix, own, model.model_id)
