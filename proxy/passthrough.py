"""``/v1/...`` paths that are not optimized: streamed both ways to the upstream that the configuration names for them.

Invariant: nothing outside ``/v1`` of that upstream can be reached, because our credentials go with the request; and
no other spelling of a path that is served here gets around being decided and recorded as such.
"""

from collections.abc import Callable, Container
from time import perf_counter, time
from urllib.parse import unquote

from optimizer import events
from proxy import headers as crossing
from proxy.compiled import UpstreamHandle
from proxy.errors import ClientFault, CredentialsRefused, ProxyError
from proxy.http1.messages import Request, Responder
from proxy.record import Ending, Recorder, Timing
from proxy.refusal import outcome_of, outcome_of_fault
from proxy.relay import Closing, Relay

# TRACE would hand the caller the head that it arrived with, our key included.
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_DECODINGS = 4


def check_path(path: str, served_here: Container[str]) -> None:
    """Refuse paths that another server could read as something else than a path below ``/v1``.

    Raises:
        ClientFault: For dot segments in any spelling, and for other spellings of ``served_here``.
    """
    plain = path
    for _ in range(_DECODINGS):
        plain = unquote(plain)
    segments = [segment.partition(";")[0] for segment in plain.replace("\\", "/").split("/")]
    if unquote(plain) != plain or any(segment in (".", "..") for segment in segments):
        raise ClientFault("The path has dot segments or is encoded again and again.", code="invalid_path")
    simple = "/" + "/".join(segment for segment in segments if segment)
    if simple in served_here:
        raise ClientFault(f"Write the path as {simple}.", status=404, code="not_found")


def check_method(method: str) -> None:
    """Raises ClientFault (405) for methods that are not passed on."""
    if method not in _METHODS:
        raise ClientFault(f"{method} is not passed on.", status=405, code="method_not_allowed")


def upstream_head(request: Request, handle: UpstreamHandle) -> bytes:
    """The request's head for its upstream: ``/v1`` is the upstream's base; the framing is the client's own."""
    headers = request.headers
    path = handle.base + request.path.removeprefix("/v1").encode("latin-1")
    query = "&".join(part for part in (handle.query, request.query) if part)
    if query:
        path += b"?" + query.encode("latin-1")
    head = request.method.encode("latin-1") + b" " + path + b" HTTP/1.1\r\n" + handle.static
    head += crossing.forwarded_raw(headers)
    if request.trace is not None:
        head += request.trace.launched(events.FIRST, None, request.head_at)
    if handle.passthrough_auth:
        head += crossing.credential(headers, handle.upstream.provider)
    length = headers.get(b"content-length")
    if length is not None:
        head += b"content-length: " + length + b"\r\n"
    elif b"transfer-encoding" in headers:
        head += b"transfer-encoding: chunked\r\n"
    return head + b"\r\n"


def pass_through(
    request: Request,
    responder: Responder,
    handle: UpstreamHandle,
    *,
    request_id: str,
    recorder: Recorder,
    table_version: int,
    finished: Callable[[], None],
) -> None:
    """Carry one request to its upstream and record how it ended; then ``finished`` is called."""
    relay = Relay(
        request,
        responder,
        ids=crossing.ids_block(request_id),
        closing=closing_of(
            request,
            handle,
            request_id=request_id,
            recorder=recorder,
            table_version=table_version,
            finished=finished,
        ),
        withheld=withholding(handle),
    )
    relay.begin(handle.pool, upstream_head(request, handle), streamed=True)


def withholding(handle: UpstreamHandle) -> Callable[[int], ProxyError | None]:
    """For a ``Relay``: providers quote the key that they refuse, and it is not the caller's."""

    def withheld(status: int) -> ProxyError | None:
        refused = not handle.passthrough_auth and status == 401
        return CredentialsRefused(handle.upstream.name, status) if refused else None

    return withheld


def closing_of(
    request: Request,
    handle: UpstreamHandle,
    *,
    request_id: str,
    recorder: Recorder,
    table_version: int,
    finished: Callable[[], None],
) -> Closing:
    """For a ``Relay``: how its end is recorded; then ``finished`` is called."""
    own_key = not handle.passthrough_auth

    def closing(relay: Relay, status: int, fault: ProxyError | None, *, gone: bool) -> None:
        finished()
        now = perf_counter()
        duration_ms = (now - request.head_at) * 1000
        outcome, error = outcome_of(relay.status, own_key=own_key), None
        if gone:
            outcome, error = events.CENSORED, "client_gone"
        elif fault is not None:
            outcome, error = outcome_of_fault(fault), fault.code
        elif outcome != events.COMPLETED:
            error = "upstream_error" if outcome == events.UPSTREAM_FAULT else "upstream_refused"
        recorder.passed_through(
            request_id,
            upstream=handle.upstream.name,
            table_version=table_version,
            timing=Timing(
                started_ms=int(time() * 1000 - duration_ms),
                duration_ms=duration_ms,
                overhead_ms=(relay.sent_at - request.head_at) * 1000,
                upstream_ms=(now - relay.sent_at) * 1000,
                trace=request.trace,
            ),
            ending=Ending(
                outcome=outcome,
                status=status,
                error=error,
                upstream_status=relay.status or None,
                upstream_request_id=crossing.upstream_request_id(relay.headers),
                request_bytes=relay.sent_bytes,
                response_bytes=relay.size,
            ),
        )

    return closing
