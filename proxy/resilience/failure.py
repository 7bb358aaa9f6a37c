"""What went wrong with one attempt, in the words that the follow-up and the breaker decide by.

Providers agree on little but the status code. What they say when a request does not fit into a model's context or
breaks a content policy is recognised by their codes and, where these are too general, by phrases of their messages.
"""

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

from proxy.errors import (
    ClientFault,
    ConnectFault,
    CredentialsRefused,
    Overloaded,
    ProtocolFault,
    ProxyError,
    ResetFault,
    TimeoutFault,
    Unavailable,
    UpstreamFault,
)

Headers = Iterable[tuple[bytes, bytes]]

# A month, for monthly quotas; nobody waits for longer.
LONGEST_RETRY_AFTER_S = 31 * 86_400.0


class Kind(enum.Enum):
    """What went wrong, as far as it matters for what to do next."""

    CONNECT = "connect"
    RESET = "reset"
    SILENT = "silent"  # a deadline passed at the upstream
    BUSY = "busy"  # our own bound on the upstream's connections
    TRANSIENT = "transient"
    RATE_LIMITED = "rate_limited"
    CREDENTIALS = "credentials"  # it refused our key, or what the key may spend is spent
    MODEL_MISSING = "model_missing"
    CONTEXT = "context"
    POLICY = "policy"
    CALLER = "caller"
    BROKEN = "broken"  # an answer that is none


_BLAMING = frozenset(
    (
        Kind.CONNECT,
        Kind.RESET,
        Kind.SILENT,
        Kind.TRANSIENT,
        Kind.CREDENTIALS,
        Kind.MODEL_MISSING,
        Kind.BROKEN,
    )
)
_CONFLICT = 409
_TOO_MANY = 429


@dataclass(slots=True)
class Failure:
    """One failed attempt: ``retry_after_s`` and ``retry_same`` are what the upstream asked for, if it did.

    ``status`` is 0 when no reply came.
    """

    kind: Kind
    retry_after_s: float | None = None
    retry_same: bool | None = None
    status: int = 0

    @property
    def blames_arm(self) -> bool:
        """Whether the upstream, or how we are set up there, is at fault; the breaker counts these."""
        # 409: two requests got in each other's way at a healthy upstream.
        return self.kind in _BLAMING and self.status != _CONFLICT


def of_fault(fault: ProxyError) -> Failure:
    """What a fault of our own making means: of the transport, of the reply's form, of our bounds."""
    match fault:
        case Overloaded() | Unavailable():
            return Failure(Kind.BUSY)
        case TimeoutFault():
            return Failure(Kind.SILENT)
        case ConnectFault():
            return Failure(Kind.CONNECT)
        case ResetFault():
            return Failure(Kind.RESET)
        case ProtocolFault():
            return Failure(Kind.BROKEN)
        case CredentialsRefused():
            return Failure(Kind.CREDENTIALS)
        case UpstreamFault():
            return Failure(Kind.TRANSIENT)
        case ClientFault():
            return Failure(Kind.CALLER)
        case _:
            # A defect here: no other arm would do better.
            return Failure(Kind.CALLER)


def of_status(
    status: int,
    *,
    own_key: bool,
    code: str | None,
    kind: str | None,
    message: str,
    headers: Headers,
    now: float,
) -> Failure:
    """What a reply that is no answer means.

    Args:
        status: Its status; below 300 for an answer that holds an error instead.
        own_key: Whether it was asked with a key of ours, not the caller's.
        code: The error's ``code`` and ``kind`` (its ``type``) as the upstream gave them, if it did.
        kind: See ``code``.
        message: The error's text; what matters is near its beginning.
        headers: The reply's, names in lower case.
        now: Unix seconds, for dates in ``Retry-After``.
    """
    fields = [field for field in headers if field[0] in _ADVICE]
    found = _kind_of(
        status, own_key, (code or "").lower(), (kind or "").lower(), message[:_MESSAGE_CHARS].lower()
    )
    # Not 429: the request alone is over what a minute allows, and so it will be in the next one.
    is_hopeless = found is Kind.RATE_LIMITED and status in _TOO_LARGE_STATUSES
    retry_same = False if is_hopeless else _retry_same(fields)
    return Failure(found, retry_after_s(fields, now=now), retry_same, status)


def retry_after_s(headers: Headers, *, now: float) -> float | None:
    """Seconds until the upstream wants to be asked again, by ``retry-after-ms`` or ``retry-after``.

    Args:
        headers: Names in lower case.
        now: Unix seconds.

    Returns:
        None if it does not say, or nothing that makes sense.
    """
    found: float | None = None
    for name, value in headers:
        if name == b"retry-after-ms":
            milliseconds = _number(value)
            if milliseconds is not None:
                return _sensible(milliseconds * 1e-3)
        elif name == b"retry-after" and found is None:
            seconds = _number(value)
            found = _sensible(_seconds_until(value, now) if seconds is None else seconds)
    return found


# --- inside -----------------------------------------------------------------------------------------

_ADVICE = frozenset((b"retry-after", b"retry-after-ms", b"x-should-retry"))
_MESSAGE_CHARS = 2000
_NUMBER = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{1,9})?\Z")
_DATE_BYTES = 64

_CONTEXT_CODES = frozenset(
    (
        "context_length_exceeded",
        "context_window_exceeded",
        "model_context_window_exceeded",
        "exceed_context_size_error",
    )
)
# One line per phrase and who says it; all in lower case.
_CONTEXT_PHRASES = re.compile(
    "|".join(
        (
            r"maximum context length",  # OpenAI, Azure, vLLM, SGLang, OpenRouter, DeepSeek, Mistral, Fireworks
            r"context[ _]length[ _]exceeded",
            r"exceeds? (?:the |this |its |your )?(?:model(?:'s)? )?context (?:window|length|limit|size)",  # OpenAI
            r"prompt is too long",  # Anthropic, Bedrock
            r"input length and `?max_tokens`? exceed context limit",  # Anthropic
            r"input is too long for (?:the )?requested model",  # Bedrock
            r"input token count .{0,40}exceeds the maximum number of tokens",  # Gemini
            r"maximum prompt length is \d",  # xAI
            r"reduce the length of the (?:messages|prompt|input)",  # OpenAI, Groq, Cerebras
            r"maximum model length",  # vLLM
            r"longer than the model'?s context length",  # SGLang
            r"too large for model with \d+ maximum context",  # Mistral
            r"(?:exceeds?|exceeding) the available context size",  # llama.cpp
            r"context size has been exceeded",  # LM Studio
            r"(?:greater|more|longer) than the context length",  # LM Studio
            r"context length of only \d",  # LM Studio
            r"context window (?:exceeds limit|is full)",  # MiniMax
            r"exceeded model token limit",  # Moonshot
            r"`?inputs`? tokens \+ `?max_new_tokens`? must be",  # text-generation-inference, Together
            r"total number of tokens in the prompt cannot exceed",  # Cohere
            r"range of input length should be",  # Qwen
            r"prompt exceeds (?:the )?(?:max|length)",  # Zhipu
        )
    )
)
_TOO_LARGE_STATUSES = frozenset((400, 413, 422))

_POLICY_CODES = frozenset(
    (
        "content_filter",
        "content_policy_violation",
        "responsibleaipolicyviolation",
        "moderation_blocked",
        "invalid_prompt",
        "data_inspection_failed",
        "safety_violation",
    )
)
_POLICY_PHRASES = re.compile(
    "|".join(
        (
            r"content management policy",  # Azure
            r"content filtering policy",  # Anthropic
            r"violat\w+ (?:our |the )?(?:usage|content|safety) (?:policy|policies|guidelines)",  # OpenAI, xAI
            r"content violates (?:usage|safety)",  # xAI
            r"rejected as a result of (?:our|the) safety system",  # OpenAI
            r"requires moderation .{0,80}flagged",  # OpenRouter
        )
    )
)
_POLICY_STATUSES = frozenset((400, 403, 422, 451))

_MISSING_CODES = frozenset(("model_not_found", "deploymentnotfound", "model_not_available"))
_MISSING_PHRASES = re.compile(
    r"\bmodel\b.{0,200}(?:does not exist|not found|not supported|no longer available)|^model: |no endpoints found",
    re.DOTALL,
)

_RATE_CODE = "rate_limit_exceeded"
_RATE_KINDS = frozenset(("rate_limit_error", "rate_limit_exceeded"))

_SPENT_CODES = frozenset(("insufficient_quota", "billing_hard_limit_reached", "billing_not_active"))
_SPENT_PHRASE = "credit balance is too low"  # Anthropic says it with 400


def _kind_of(status: int, own_key: bool, code: str, kind: str, message: str) -> Kind:
    """Words are in lower case."""
    is_answer = status < 300
    if status >= 500 or status in (408, _CONFLICT):
        return Kind.TRANSIENT
    if (status == _TOO_MANY and code not in _SPENT_CODES) or (is_answer and kind in _RATE_KINDS):
        return Kind.RATE_LIMITED
    if is_answer or status in _TOO_LARGE_STATUSES:
        if code == _RATE_CODE:
            return Kind.RATE_LIMITED  # Groq says 413 for one large request
        if code in _CONTEXT_CODES or kind in _CONTEXT_CODES or _CONTEXT_PHRASES.search(message):
            return Kind.CONTEXT
    if (is_answer or status in _POLICY_STATUSES) and (
        code in _POLICY_CODES or kind in _POLICY_CODES or _POLICY_PHRASES.search(message)
    ):
        return Kind.POLICY
    if status < 400:
        return Kind.BROKEN
    if status in (401, 402, 403) or code in _SPENT_CODES or _SPENT_PHRASE in message:
        return Kind.CREDENTIALS if own_key else Kind.CALLER
    if status == 404 and (code in _MISSING_CODES or _MISSING_PHRASES.search(message)):
        return Kind.MODEL_MISSING
    return Kind.CALLER


def _retry_same(fields: Headers) -> bool | None:
    for name, value in fields:
        if name == b"x-should-retry":
            word = value.strip().lower()
            if word in (b"true", b"false"):
                return word == b"true"
    return None


def _number(value: bytes) -> float | None:
    text = value.strip()
    return float(text) if _NUMBER.match(text) else None


def _seconds_until(value: bytes, now: float) -> float | None:
    if len(value) > _DATE_BYTES:
        return None
    try:
        moment = parsedate_to_datetime(value.decode("ascii"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _sensible(seconds: float | None) -> float | None:
    """Longer than any wait is still a wish for a long one."""
    return min(seconds, LONGEST_RETRY_AFTER_S) if seconds is not None and seconds >= 0.0 else None
