"""What every provider codec offers, and the facts it reads from a reply.

A codec turns bytes into bytes and fills in ``ReplyFacts``; it opens no socket, awaits nothing and keeps no state
between requests (a ``StreamDecoder`` keeps the state of its one stream).
"""

from functools import lru_cache
from typing import Final, Protocol
from urllib.parse import quote, urlsplit

from optimizer.routing import CHAT, Arm, Model, Upstream, Variant
from proxy.envelope import Envelope

REPORTED: Final = "reported"
ESTIMATED: Final = "estimated"
NO_USAGE: Final = "none"
# The capability of models that report usage in streams when asked for it.
STREAM_USAGE: Final = "stream_usage"

HEAD_CHARS: Final = 256
CHARS_PER_TOKEN: Final = 4


class Prepared:
    """What to send. ``path`` is the full request target; ``headers`` are extra ones (no auth, no framing).

    ``usage_injected`` tells the stream decoder that we asked for usage on the client's behalf. ``translates`` says
    whether the reply differs from what the client is sent, ``left_out`` which members of the request have no
    counterpart at the provider.
    """

    __slots__ = ("body", "headers", "left_out", "path", "translates", "usage_injected")

    def __init__(
        self,
        path: str,
        body: bytes,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        *,
        usage_injected: bool = False,
        translates: bool = False,
        left_out: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.body = body
        self.headers = headers
        self.usage_injected = usage_injected
        self.translates = translates
        self.left_out = left_out

    def __repr__(self) -> str:
        return f"<Prepared {self.path} {len(self.body)} bytes>"


class ReplyFacts:
    """What one reply said about itself; counts are tokens, None means not said.

    ``input_tokens`` is *all* input: fresh, read from a cache and written to one. ``output_tokens`` includes
    reasoning. ``cache_write_tokens`` includes ``cache_write_1h_tokens``. ``usage_source`` is ``reported``,
    ``estimated`` or ``none``. ``text_head`` (at most 256 characters) stays in memory for the refusal guard.
    ``json_valid`` is None unless the request asked for JSON and there was an answer to check. ``skipped_events`` counts
    events of a stream that were no JSON.
    """

    __slots__ = (
        "cache_read_tokens",
        "cache_write_1h_tokens",
        "cache_write_tokens",
        "content_chars",
        "error_code",
        "error_type",
        "finish_reasons",
        "has_content",
        "input_tokens",
        "json_valid",
        "output_tokens",
        "reasoning_tokens",
        "response_id",
        "response_model",
        "skipped_events",
        "text_head",
        "tool_calls",
        "usage_source",
    )

    def __init__(self) -> None:
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cache_read_tokens: int | None = None
        self.cache_write_tokens: int | None = None
        self.cache_write_1h_tokens: int | None = None
        self.reasoning_tokens: int | None = None
        self.usage_source = NO_USAGE
        self.finish_reasons: list[str] = []
        self.response_id: str | None = None
        self.response_model: str | None = None
        self.content_chars = 0
        self.text_head = ""
        self.has_content = False
        self.tool_calls = False
        self.json_valid: bool | None = None
        self.error_type: str | None = None
        self.error_code: str | None = None
        self.skipped_events = 0

    def __repr__(self) -> str:
        return f"<ReplyFacts in={self.input_tokens} out={self.output_tokens} {self.usage_source}>"

    def estimate(self, input_tokens: int, pieces: int = 0) -> None:
        """Fill what was not reported: input from the request's size, output from what was seen.

        ``pieces`` is the number of content events of a stream; most providers send a token in each, so the
        larger of that and characters / 4 is taken. Reported numbers are never overwritten.
        """
        if self.usage_source == REPORTED:
            return
        if self.input_tokens is None:
            self.input_tokens = input_tokens
        if self.output_tokens is None or self.usage_source == ESTIMATED:
            self.output_tokens = max(pieces, -(-self.content_chars // CHARS_PER_TOKEN))
        self.usage_source = ESTIMATED


class StreamDecoder(Protocol):
    """Reads one event stream. Any split of the same bytes gives the same output bytes and the same facts.

    ``content_events`` counts the pieces of content seen (the first one is the time to first token).
    ``terminal`` means that the stream's last event was seen and is in what ``feed`` returned; ``complete`` that the
    answer is whole (terminal or finish reason seen, no error). ``facts.error_type`` is set on an error event and
    when one event exceeds ``MAX_EVENT_BYTES``.
    """

    facts: ReplyFacts
    terminal: bool
    content_events: int

    @property
    def complete(self) -> bool: ...

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return what the client may have now."""
        ...

    def finish(self) -> bytes:
        """The upstream ended; return what was held back. Usage is estimated if none was reported."""
        ...

    def ending(self) -> bytes:
        """What a client still waits for when the answer is whole but its terminal event never came."""
        ...

    def keep_answer(self, limit_bytes: int) -> None:
        """Keep the answer's text, up to so many bytes as JSON. To be called before the first ``feed``."""
        ...

    def answer(self) -> str | None:
        """The answer's text so far; None when it was not kept whole."""
        ...

    def estimate_usage(self) -> None:
        """Settle for an estimate, e.g. when the client hung up; does nothing if usage was reported."""
        ...


class Codec(Protocol):
    """One provider's dialect. ``native`` are the endpoints whose bodies it takes as they are."""

    name: str
    native: frozenset[str]

    def auth_header(self, upstream: Upstream, secret: str) -> tuple[bytes, bytes]:
        """The header that authenticates, name lower-cased."""
        ...

    def prepare(
        self, envelope: Envelope, arm: Arm, model: Model, variant: Variant, upstream: Upstream
    ) -> Prepared:
        """The request for this arm. Raises ``ClientFault`` for what the provider cannot express."""
        ...

    def unary(self, envelope: Envelope, body: bytes) -> tuple[bytes, ReplyFacts]:
        """A whole successful reply: the client's bytes (the same object when nothing changes) and the facts."""
        ...

    def stream(self, envelope: Envelope, prepared: Prepared) -> StreamDecoder:
        """A decoder for the reply to ``prepared``."""
        ...

    def error(self, status: int, body: bytes, *, endpoint: str = CHAT) -> tuple[bytes, str, str | None]:
        """A reply with status >= 400 as (body, error type, error code).

        Type and code are OpenAI's words. The body has OpenAI's shape, or ``endpoint``'s where the
        provider spoke it.
        """
        ...


# No reply has as many; sums of what is below can still be written as JSON.
MOST_TOKENS: Final = 2**53
# Events of the responses API carry the whole answer, pictures included; beyond this it is no event stream.
MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
# ``facts.error_type`` of a stream with such an event.
EVENT_TOO_LARGE: Final = "event_too_large"


@lru_cache(maxsize=4096)
def request_target(base_url: str, suffix: str, override: str | None, model_id: str) -> str:
    """The request target for an endpoint.

    ``override`` (an entry of ``Upstream.paths``) is the whole target, ``{model}`` in it standing for the model
    id. Otherwise ``suffix`` (``/chat/completions``) follows the path of ``base_url``, which is ``/v1`` when it has
    none; a query of ``base_url`` is kept.
    """
    if override is not None:
        return override.replace("{model}", quote(model_id, safe=""))
    parts = urlsplit(base_url)
    path = (parts.path.rstrip("/") or "/v1") + suffix
    return f"{path}?{parts.query}" if parts.query else path
