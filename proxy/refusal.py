"""What went wrong: who is to blame, what the caller is told, and what the log may say about it.

An upstream's words are passed on to the caller, in OpenAI's shape. Into the log goes one short word of them at most.
"""

import zlib
from dataclasses import dataclass

from optimizer import events
from proxy.compiled import UpstreamHandle
from proxy.errors import ClientFault, CredentialsRefused, ProtocolFault, ProxyError, UpstreamFault
from proxy.inflate import Inflater, TooLarge

# What is read of an error reply, as it comes and decoded.
ERROR_BYTES = 64 * 1024
_INFLATED_BYTES = 1024 * 1024
_AUTH_STATUSES = (401, 403)
_WORD_CHARS = 40


@dataclass(frozen=True, slots=True)
class Refusal:
    """``outcome`` is one of ``events.OUTCOMES``; ``status`` and ``body`` are for the caller; ``word`` is logged."""

    outcome: str
    status: int
    body: bytes
    word: str


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


def read_refusal(status: int, encoding: bytes | None, body: bytes, handle: UpstreamHandle) -> Refusal:
    """Judge a final reply that is not 200. ``body`` may have been cut short."""
    if status < 400:
        fault = ProtocolFault(f"The upstream answered {status}, which the proxy does not follow.")
        return Refusal(events.UPSTREAM_FAULT, 502, fault.body(), fault.code)
    outcome = outcome_of(status, own_key=not handle.passthrough_auth)
    if outcome == events.CENSORED and status in _AUTH_STATUSES:
        # A 401 would send the caller looking at its own key.
        refused = CredentialsRefused(handle.upstream.name, status)
        return Refusal(outcome, refused.status, refused.body(), refused.code)
    shaped, kind, code = handle.codec.error(status, _plain(encoding, body))
    shown = 503 if status > 504 else status
    return Refusal(outcome, shown, shaped, first_word(code, kind, "upstream_refused"))


def first_word(*candidates: str | None) -> str:
    """The first that may enter the log; the last one is taken in any case. An upstream's codes can be any text."""
    return next((text for text in candidates if text is not None and is_word(text)), candidates[-1] or "")


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
