"""Which headers cross the proxy, in each direction. Everything not named here stays where it is.

The client's ``Authorization`` is ours and is forwarded only to an upstream whose ``auth`` is
``passthrough``. Framing and hop-by-hop headers are always rebuilt by ``proxy.http1``.
"""

from collections.abc import Iterable, Mapping

REQUEST_ID = b"x-llm-optimizer-request-id"
PIN = b"x-llm-optimizer-pin"
CLIENT_KEY = b"x-llm-optimizer-key"
KEY_TAG = b"x-llm-optimizer-key-tag"
PEER = b"x-llm-optimizer-peer"
WORKER = b"x-llm-optimizer-worker"

# Sent on to optimized endpoints. Bodies are always JSON that we frame ourselves.
_FORWARDED = (
    b"idempotency-key",
    b"openai-beta",
    b"anthropic-beta",
    b"traceparent",
    b"tracestate",
    b"baggage",
)
# Pass-through requests (files, audio, batches) also need to say what their body is.
_FORWARDED_RAW = (
    *_FORWARDED,
    b"accept",
    b"accept-encoding",
    b"content-type",
    b"content-encoding",
    b"range",
    b"anthropic-version",
    b"if-none-match",
    b"if-modified-since",
)
_RETURNED = frozenset(
    (
        b"content-language",
        b"cache-control",
        b"retry-after",
        b"retry-after-ms",
        b"openai-processing-ms",
        b"openai-version",
        b"openai-model",
        b"x-should-retry",
    )
)
_RETURNED_RAW = _RETURNED | {
    b"content-type",
    b"content-encoding",
    b"content-disposition",
    b"content-range",
    b"accept-ranges",
    b"etag",
    b"last-modified",
    b"location",
    b"vary",
    b"www-authenticate",
    b"allow",
    b"content-security-policy",
    b"cross-origin-opener-policy",
    b"cross-origin-resource-policy",
    b"referrer-policy",
    b"x-content-type-options",
    b"idempotent-replayed",
}
_RATE_PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-")
_UPSTREAM_IDS = (b"x-request-id", b"request-id")
_ID_BYTES = 200
_PASS, _TYPE, _ENCODING, _ID = range(4)
_RULES = {
    **dict.fromkeys(_RETURNED, _PASS),
    **dict.fromkeys(_UPSTREAM_IDS, _ID),
    b"content-type": _TYPE,
    b"content-encoding": _ENCODING,
}
FORWARDED_NAMES = frozenset(_FORWARDED)
"""Headers of a client that an optimized request carries to its upstream."""


class ReplyHead:
    """What matters of an upstream's reply head. ``block`` is what the client sees besides type and encoding.

    ``rates`` says whether the upstream's rate limits are among that: not if the caller has limits of ours.
    """

    __slots__ = ("block", "content_type", "encoding", "request_id")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]] = (), *, rates: bool = True) -> None:
        self.content_type: bytes | None = None
        self.encoding: bytes | None = None
        self.request_id: str | None = None
        block = b""
        for name, value in headers:
            rule = _RULES.get(name)
            if rule is None:
                if rates and name.startswith(_RATE_PREFIXES):
                    block += b"%b: %b\r\n" % (name, value)
            elif rule == _PASS:
                block += b"%b: %b\r\n" % (name, value)
            elif rule == _TYPE:
                if self.content_type is None:
                    self.content_type = value
            elif rule == _ENCODING:
                if value.lower() != b"identity":
                    self.encoding = value
            else:
                block += b"x-llm-optimizer-upstream-request-id: %b\r\n" % value
                if self.request_id is None:
                    self.request_id = value[:_ID_BYTES].decode("latin-1")
        self.block = block


def forwarded(headers: Mapping[bytes, bytes], *, same_body: bool = True) -> bytes:
    """Block of client headers that an optimized request carries to its upstream.

    ``same_body`` is False for attempts that ask something else than the first one did: under its idempotency key an
    upstream would refuse them, or say again what it said.
    """
    if FORWARDED_NAMES.isdisjoint(headers):
        return b""
    names = _FORWARDED if same_body else _FORWARDED[1:]
    return b"".join([name + b": " + headers[name] + b"\r\n" for name in names if name in headers])


def credential(headers: Mapping[bytes, bytes], provider: str) -> bytes:
    """The caller's own credential as its provider wants it, for upstreams that are asked with it.

    Callers of the Messages API send it as ``x-api-key``.
    """
    value = headers.get(b"authorization")
    if value is not None:
        return b"authorization: %b\r\n" % value
    key = headers.get(b"x-api-key")
    if key is None:
        return b""
    return (b"x-api-key: %b\r\n" if provider == "anthropic" else b"authorization: Bearer %b\r\n") % key


def forwarded_raw(headers: Mapping[bytes, bytes]) -> bytes:
    """Block of client headers that a pass-through request carries to its upstream."""
    return b"".join([name + b": " + headers[name] + b"\r\n" for name in _FORWARDED_RAW if name in headers])


def returned_raw(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Block of upstream headers that the client of a pass-through request gets to see."""
    block = b""
    for name, value in headers:
        if name in _RETURNED_RAW or name.startswith(_RATE_PREFIXES):
            block += name + b": " + value + b"\r\n"
        elif name in _UPSTREAM_IDS:
            block += b"x-llm-optimizer-upstream-request-id: " + value + b"\r\n"
    return block


def ids_block(request_id: str) -> bytes:
    """Our id, under our name and under the one that SDKs show."""
    rid = request_id.encode()
    return b"x-request-id: %b\r\nx-llm-optimizer-request-id: %b\r\n" % (rid, rid)


def messages_block(request_id: str, left_out: Iterable[str] = ()) -> bytes:
    """Our id under the name that SDKs of the Messages API show, and what the chosen model was not asked for."""
    block = b"request-id: %b\r\n" % request_id.encode()
    names = [name for name in left_out if name.isascii() and name.replace("_", "").replace(".", "").isalnum()]
    if names:
        block += b"x-llm-optimizer-left-out: %b\r\n" % ", ".join(names)[:_ID_BYTES].encode()
    return block


def retry_after(status: int) -> bytes:
    """When to come back, for whoever is told 503."""
    return b"retry-after: 1\r\n" if status == 503 else b""


def find(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """First value of a header in an upstream's list, or None."""
    for name, value in headers:
        if name == wanted:
            return value
    return None


def upstream_request_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The id that an upstream gave the request, whichever way it spells the header; for the log."""
    for name, value in headers:
        if name in _UPSTREAM_IDS:
            return value[:_ID_BYTES].decode("latin-1")
    return None
