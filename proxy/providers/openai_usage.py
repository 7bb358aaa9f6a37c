"""Token counts and errors as OpenAI-compatible servers spell them, read into ``ReplyFacts``.

OpenAI's ``prompt_tokens`` includes what came from a cache and ``completion_tokens`` includes reasoning, so both are
taken as they are. Servers that leave reasoning out of the completion show it in ``total_tokens``.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.errors import error_body
from proxy.providers.base import MOST_TOKENS, REPORTED, ReplyFacts
from proxy.providers.shape import object_of


def read_usage(facts: ReplyFacts, usage: Mapping[str, Any]) -> None:
    """Take a usage object of any OpenAI endpoint. Later objects of a stream replace earlier ones."""
    given = _count(usage.get("prompt_tokens"))
    if given is None:
        given = _count(usage.get("input_tokens"))
        if given is None:
            return
        output = _count(usage.get("output_tokens")) or 0
        inside = object_of(usage.get("input_tokens_details"))
        outside = object_of(usage.get("output_tokens_details"))
    else:
        output = _count(usage.get("completion_tokens")) or 0
        inside = object_of(usage.get("prompt_tokens_details"))
        outside = object_of(usage.get("completion_tokens_details"))
    cached = _count(inside.get("cached_tokens"))
    if cached is None:
        cached = _count(usage.get("prompt_cache_hit_tokens", usage.get("cached_tokens")))
    reasoning = _count(outside.get("reasoning_tokens"))
    total = _count(usage.get("total_tokens"))
    if total is not None and (missing := total - given - output) > 0:
        # xAI and Gemini count thinking outside the completion and bill it as output. A difference that the
        # breakdown does not explain is left alone: it may be anything.
        breakdown = bool(inside or outside)
        if missing == reasoning or not breakdown:
            output += missing
    facts.input_tokens = given
    facts.output_tokens = output
    facts.cache_read_tokens = cached
    facts.cache_write_tokens = _count(inside.get("cache_write_tokens", inside.get("cache_creation_tokens")))
    facts.reasoning_tokens = reasoning
    facts.usage_source = REPORTED


def note_error(facts: ReplyFacts, error: Any) -> None:
    """Record an error object (or text) found inside a reply that claimed success."""
    kind: Any = None
    code: Any = None
    if type(error) is dict:
        kind, code = error.get("type"), error.get("code")
    facts.error_type = kind if type(kind) is str and kind else "upstream_error"
    facts.error_code = None if code is None else str(code)


def client_error(status: int, body: bytes) -> tuple[bytes, str, str | None]:
    """An upstream's error reply in OpenAI's shape: (body, type, code).

    A body of that shape is passed on as it is, except that a refusal of credentials is told in our words: providers
    quote parts of the key, and it is the operator's, not the caller's.
    """
    message, kind, code, shaped = _read_error(status, body)
    if status == 401 or code == "invalid_api_key":
        message = "The upstream refused the credentials that this proxy sent."
        shaped = False
    if shaped:
        return body, kind, code
    return error_body(message, kind=kind, code=code), kind, code


def _read_error(status: int, body: bytes) -> tuple[str, str, str | None, bool]:
    fallback = f"The upstream answered with status {status}."
    kind = "invalid_request_error" if status < 500 else "server_error"
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError:
        return fallback, kind, None, False
    if type(doc) is list and doc:
        doc = doc[0]
    if type(doc) is not dict:
        return fallback, kind, None, False
    error = doc.get("error")
    if type(error) is str:
        return error or fallback, kind, None, False
    source: Mapping[str, Any] = object_of(error) or doc
    message = source.get("message") or source.get("detail")
    if message is not None and type(message) is not str:
        message = orjson.dumps(message).decode()
    said = source.get("type") or source.get("status")
    if type(said) is str and said and said != "error":
        kind = said
    raw_code = source.get("code")
    code = None if raw_code is None else str(raw_code)
    shaped = type(error) is dict and type(error.get("message")) is str and body.lstrip()[:1] == b"{"
    return message or fallback, kind, code, shaped


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < MOST_TOKENS else None
