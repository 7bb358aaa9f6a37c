"""What went wrong: who is to blame, what the caller is told, and what the log may say about it.

An upstream's words are passed on to the caller, in OpenAI's shape. Into the log goes one short word of them at most.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from optimizer import events
from optimizer.routing import CHAT, MESSAGES
from proxy import headers as crossing
from proxy.compiled import UpstreamHandle
from proxy.errors import ClientFault, CredentialsRefused, ProtocolFault, ProxyError, UpstreamFault, error_body
from proxy.inflate import Inflater, TooLarge
from proxy.providers.base import ReplyFacts
from proxy.providers.sse import event_data, split_events
from proxy.resilience.failure import Failure, Kind, of_fault, of_status

# What is read of an error reply, as it comes and decoded.
ERROR_BYTES = 64 * 1024
_INFLATED_BYTES = 1024 * 1024
_AUTH_STATUSES = (401, 403)
_WORD_CHARS = 40
# What an error inside a stream would have been as a status.
_STREAM_STATUSES = (
    ("rate_limit", 429),
    ("overloaded", 503),
    ("invalid_request", 400),
    ("authentication", 401),
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """``outcome`` is one of ``events.OUTCOMES``; the caller gets ``status``, ``head``, ``body``; ``word`` is logged."""

    outcome: str
    status: int
    body: bytes
    word: str
    head: bytes = b""


def outcome_of(status: int, *, own_key: bool) -> str:
    """What an upstream's status teaches; ``own_key`` says that the credentials were the proxy's."""
    if status == 408 or status >= 500:
        return events.UPSTREAM_FAULT
    if status == 429 or (own_key and status in _AUTH_STATUSES):
        return events.CENSORED
    return events.CALLER_FAULT if status >= 400 else events.COMPLETED


def outcome_of_fault(fault: ProxyError) -> str:
    """What a failure without a usable status teaches."""
    if isinstance(fault, UpstreamFault):
        return events.UPSTREAM_FAULT
    return events.CALLER_FAULT if isinstance(fault, ClientFault) else events.CENSORED


def refusal_of_fault(fault: ProxyError) -> Refusal:
    """What the caller is told of a fault of our own making."""
    head = crossing.retry_after(fault.status)
    return Refusal(outcome_of_fault(fault), fault.status, fault.body(), fault.code, head)


def read_refusal(
    status: int,
    head: crossing.ReplyHead,
    body: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    handle: UpstreamHandle,
    *,
    now: float,
    endpoint: str = CHAT,
) -> tuple[Refusal, Failure]:
    """Judge a final reply that is not 200. ``body`` may have been cut short; ``now`` is Unix seconds."""
    if status < 400:
        fault = ProtocolFault(f"The upstream answered {status}, which the proxy does not follow.")
        return Refusal(events.UPSTREAM_FAULT, 502, fault.body(), fault.code, head.block), of_fault(fault)
    own_key = not handle.passthrough_auth
    outcome = outcome_of(status, own_key=own_key)
    shaped, kind, code = handle.codec.error(status, _plain(head.encoding, body), endpoint=endpoint)
    failure = of_status(
        status,
        own_key=own_key,
        code=code,
        kind=kind,
        message=_message_of(shaped),
        headers=headers,
        now=now,
    )
    if outcome == events.CENSORED and status in _AUTH_STATUSES:
        # A 401 would send the caller looking at its own key.
        refused = CredentialsRefused(handle.upstream.name, status)
        return Refusal(outcome, refused.status, refused.body(), refused.code, head.block), failure
    # 529 is what SDKs of the Messages API know as overloaded.
    shown = 503 if status > 504 and (status, endpoint) != (529, MESSAGES) else status
    block = head.block
    if shown in (429, 503, 529) and b"retry-after" not in block:
        block += crossing.retry_after(503)
    return Refusal(outcome, shown, shaped, first_word(code, kind, "upstream_refused"), block), failure


def broken_reply(facts: ReplyFacts) -> tuple[Failure, Refusal]:
    """A 200 that carries an error, or is not JSON."""
    fault = ProtocolFault("The upstream's reply was a 200 that carries an error or is not JSON.")
    failure = (
        _as_status(facts) if facts.error_code or facts.error_type != "invalid_reply" else of_fault(fault)
    )
    return failure, refusal_of_fault(fault)


def stream_error(facts: ReplyFacts, told: bytes) -> tuple[Failure, Refusal]:
    """An error event of the upstream's own, in ``told``: what a reply of the status it would have had means."""
    failure = _as_status(facts)
    word = first_word(facts.error_code, facts.error_type, UpstreamFault.code)
    body = _event_with_error(told) or error_body(
        "The upstream reported an error in its stream.", kind=UpstreamFault.kind, code=word
    )
    status = failure.status if failure.status in (400, 429, 503) else UpstreamFault.status
    head = crossing.retry_after(503) if status in (429, 503) else b""
    return failure, Refusal(events.UPSTREAM_FAULT, status, body, word, head)


def _event_with_error(block: bytes) -> bytes | None:
    """The data of the event that tells of the error, if it has OpenAI's shape."""
    for event in reversed(split_events(block)):
        data = event_data(event).strip()
        if b'"error"' in data and _message_of(data):
            return data
    return None


def _as_status(facts: ReplyFacts) -> Failure:
    words = f"{facts.error_type} {facts.error_code}".lower()
    code = facts.error_code or ""
    if len(code) == 3 and code.isdecimal() and code[0] in "45":
        status = int(code)
    else:
        status = next((status for mark, status in _STREAM_STATUSES if mark in words), 500)

    def meaning(status: int) -> Failure:
        return of_status(
            status,
            own_key=True,
            code=facts.error_code,
            kind=facts.error_type,
            message="",
            headers=(),
            now=0.0,
        )

    # Words that speak of the request count for more than a status that nobody gave.
    plain = meaning(400)
    return plain if status == 500 and plain.kind in (Kind.CONTEXT, Kind.POLICY) else meaning(status)


def _message_of(shaped: bytes) -> str:
    """The text of an error in OpenAI's shape."""
    try:
        message = orjson.loads(shaped)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
    return message if type(message) is str else ""


def first_word(*candidates: str | None) -> str:
    """The first that may enter the log; the last one is taken in any case. An upstream's codes can be any text."""
    word = next((text for text in candidates if text is not None and is_word(text)), candidates[-1] or "")
    return f"upstream_{word}" if word in events.OUR_WORDS else word


def is_word(text: str) -> bool:
    """Whether ``text`` is short and has no room for content or a key in it."""
    return len(text) <= _WORD_CHARS and text.isascii() and text.isidentifier()


def _plain(encoding: bytes | None, body: bytes) -> bytes:
    """The body, decoded if the upstream compressed it; as it came if that fails."""
    if encoding is None:
        return body
    try:
        return Inflater(encoding, limit=_INFLATED_BYTES).feed(body)
    except (KeyError, TooLarge, zlib.error):
        return body
