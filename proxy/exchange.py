"""One optimized request from decision to recorded event, as callbacks: no task, no queue, no await.

An ``Exchange`` stands between a client's ``Responder`` and an upstream ``Call``. Its one invariant: the event
is appended before the last bytes of the reply reach the client's transport, exactly once, whatever ends the
exchange. After that nothing more is recorded; what the upstream still sends is drained.
"""

import zlib
from time import perf_counter, time
from typing import Protocol

from optimizer import events
from proxy import headers as crossing
from proxy.dispatch import Decision
from proxy.envelope import Envelope
from proxy.errors import ProtocolFault, ProxyError, UpstreamFault, error_body
from proxy.http1.client import Call
from proxy.http1.messages import Request, Responder
from proxy.inflate import Inflater, TooLarge
from proxy.providers.base import EVENT_TOO_LARGE, Prepared, ReplyFacts, StreamDecoder
from proxy.record import Ending, Recorder, Timing

_JSON = b"content-type: application/json\r\n"
_AUTH_STATUSES = (401, 403)
# Statuses of an upstream that are its own failure, not the caller's.
_FAULT_STATUSES = frozenset((408, *range(500, 600)))
_TAIL_BYTES = 64 * 1024
# A compressed reply is decoded aside for its usage only, and only up to this size.
_ASIDE_BYTES = 4 * 1024 * 1024
# A reply that has to be rewritten for the client is held whole, up to this size.
_TRANSLATED_BYTES = 64 * 1024 * 1024


class Context(Protocol):
    """What every exchange of a worker shares."""

    recorder: Recorder
    buffered_reply_bytes: int

    def finished(self, exchange: "Exchange") -> None: ...


class Exchange:
    """The state of one optimized request. Implements ``ReplySink`` and ``Listener``."""

    __slots__ = (
        "_aside",
        "_cost_block",
        "_decision",
        "_decoder",
        "_envelope",
        "_first_at",
        "_gaps",
        "_head_at",
        "_ids",
        "_inflate",
        "_last_at",
        "_parts",
        "_prepared",
        "_raw",
        "_recorded",
        "_reply_headers",
        "_request",
        "_responder",
        "_sent_at",
        "_shared",
        "_size",
        "_started_ms",
        "_status",
        "_streaming",
        "_table_version",
        "call",
        "request_id",
    )

    def __init__(
        self,
        shared: Context,
        request: Request,
        responder: Responder,
        *,
        request_id: str,
        envelope: Envelope,
        decision: Decision,
        table_version: int,
    ) -> None:
        self._shared = shared
        self._request = request
        self._responder = responder
        self.request_id = request_id
        self._envelope = envelope
        self._decision = decision
        self._table_version = table_version
        self._started_ms = int(time() * 1000)
        self._status = 0
        self._size = 0
        self._parts: list[bytes] = []
        self._reply_headers: list[tuple[bytes, bytes]] = []
        self._decoder: StreamDecoder | None = None
        self._inflate: Inflater | None = None
        self._aside = bytearray()
        self._streaming = False
        self._raw = False
        self._recorded = False
        self._sent_at = 0.0
        self._head_at = 0.0
        self._first_at = 0.0
        self._last_at = 0.0
        self._gaps = 0
        self._prepared: Prepared | None = None
        self.call: Call | None = None

    def begin(self, prepared: Prepared) -> None:
        """Send the prepared request upstream."""
        self._prepared = prepared
        handle = self._decision.arm.handle
        head = (
            b"POST "
            + prepared.path.encode("latin-1")
            + b" HTTP/1.1\r\n"
            + handle.static
            + b"content-type: application/json\r\naccept-encoding: identity\r\nuser-agent: llm-optimizer\r\n"
        )
        for name, value in prepared.headers:
            head += name + b": " + value + b"\r\n"
        head += crossing.forwarded(self._request.headers)
        if handle.passthrough_auth:
            authorization = self._request.headers.get(b"authorization")
            if authorization is not None:
                head += b"authorization: " + authorization + b"\r\n"
        head += b"content-length: %d\r\n\r\n" % len(prepared.body)
        self._sent_at = perf_counter()
        self.call = handle.pool.send(head, prepared.body, self)

    # What the upstream's connection reports.

    def reply_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._head_at = self._last_at = perf_counter()
        self._status = status
        self._reply_headers = headers
        if self._recorded or status != 200:
            return
        content_type = crossing.find(headers, b"content-type") or b""
        encoding = crossing.find(headers, b"content-encoding")
        if encoding is not None and encoding != b"identity":
            self._meet_compression(encoding)
        if content_type.startswith(b"text/event-stream"):
            self._streaming = True
            if not self._raw:
                self._decoder = self._decision.arm.handle.codec.stream(self._envelope, self._sent)
            self._responder.start(200, self._head_block(), None)
        elif self._raw:
            self._responder.start(200, self._head_block(), None)

    def reply_body(self, data: bytes) -> None:
        if self._recorded:
            return
        self._size += len(data)
        if self._inflate is not None and not self._raw:
            try:
                data = self._inflate.feed(data)
            except (TooLarge, zlib.error):
                self._break_off(ProtocolFault("The upstream's compressed reply could not be decoded."))
                return
        decoder = self._decoder
        if decoder is not None:
            before = decoder.content_events
            out = decoder.feed(data)
            if decoder.content_events != before:
                self._mark_content()
            if decoder.terminal:
                # Recorded first, then the bytes that tell the client that it is over.
                self._parts += (out, decoder.finish())
                self._end_stream()
            elif out:
                self._parts.append(out)
            return
        self._parts.append(data)
        if self._raw:
            self._keep_aside(data)
        elif self._size > self._shared.buffered_reply_bytes:
            self._outgrow()

    def _outgrow(self) -> None:
        """The reply is too large to be held back for its cost header."""
        if self._status == 200 and not self._decision.arm.handle.codec.translates:
            self._raw = True
            for part in self._parts:
                self._keep_aside(part)
            self._responder.start(200, self._head_block(), None)
        elif self._size > _TRANSLATED_BYTES:
            self._break_off(
                ProtocolFault(f"The upstream's reply is over the bound of {_TRANSLATED_BYTES} bytes.")
            )

    def reply_flush(self) -> None:
        if self._parts and not self._recorded and (self._streaming or self._raw):
            self._responder.write(_joined(self._parts))
            self._parts.clear()

    def reply_end(self) -> None:
        self.call = None
        if self._recorded:
            return
        now = perf_counter()
        if self._decoder is not None:
            self._parts.append(self._decoder.finish())
            # An error event of the upstream's own has told the client already.
            told = self._decoder.facts.error_type not in (None, EVENT_TOO_LARGE)
            if self._decoder.complete or told:
                self._end_stream()
            else:
                self.reply_failed(ProtocolFault("The upstream ended the stream without its terminal event."))
        elif self._raw:
            self._end_raw(now)
        elif self._status == 200:
            self._end_unary(now)
        else:
            self._end_error(now)

    def reply_failed(self, fault: ProxyError) -> None:
        self.call = None
        if self._recorded:
            return
        outcome = events.UPSTREAM_FAULT if isinstance(fault, UpstreamFault) else events.CENSORED
        if not self._responder.started:
            block = _JSON + self._ids_block()
            if fault.status == 503:
                block += b"retry-after: 1\r\n"
            self._record(outcome, fault.status, error=fault.code)
            self._responder.reply(fault.status, block, fault.body())
        else:
            self._record(outcome, 200, error=fault.code)
            if self._streaming and not self._raw:
                self._parts.append(b"data: " + fault.body() + b"\n\n")
                self._responder.finish(_joined(self._parts))
            else:
                self._responder.abort()
        self._release()

    # What the client's connection reports.

    def client_body(self, data: bytes) -> None:
        """Bodies are buffered before an exchange exists."""

    def client_end(self) -> None:
        """See ``client_body``."""

    def client_gone(self) -> None:
        if self.call is not None:
            self.call.cancel()
            self.call = None
        if not self._recorded:
            self._record(events.CENSORED, 499, error="client_gone")
            self._release()

    def client_paused(self) -> None:
        if self.call is not None:
            self.call.pause()

    def client_resumed(self) -> None:
        if self.call is not None:
            self.call.resume()

    # Endings.

    def _end_unary(self, now: float) -> None:
        codec = self._decision.arm.handle.codec
        try:
            body, facts = codec.unary(self._envelope, _joined(self._parts))
        except ProxyError as fault:
            self.reply_failed(fault)
            return
        if facts.error_type is not None:
            self.reply_failed(
                ProtocolFault("The upstream's reply was a 200 that carries an error or is not JSON.")
            )
            return
        duration = perf_counter() - self._request.body_at
        cost = self._record(events.COMPLETED, 200, facts=facts)
        overhead = self._overhead_ms(now, duration)
        block = self._head_block(overhead)
        if cost is not None:
            block += b"x-llm-optimizer-cost-usd: %.9g\r\n" % cost
        self._responder.reply(200, block, body)
        self._release()

    def _end_stream(self) -> None:
        decoder = self._decoder
        assert decoder is not None
        facts = decoder.facts
        if facts.error_type is not None:
            self._record(events.UPSTREAM_FAULT, 200, facts=facts, error=facts.error_code or facts.error_type)
        else:
            self._record(events.COMPLETED, 200, facts=facts)
        self._responder.finish(_joined(self._parts))
        self._release()

    def _end_raw(self, now: float) -> None:
        self._first_at = self._first_at or now
        self._record(events.COMPLETED, 200, facts=self._facts_aside())
        self._responder.finish(_joined(self._parts))
        self._release()

    def _end_error(self, now: float) -> None:
        """A reply that is not 200: decide who is to blame and say it in OpenAI's shape."""
        del now
        status = self._status
        handle = self._decision.arm.handle
        body, kind, code = handle.codec.error(status, self._plain_body())
        outcome, shown = events.CALLER_FAULT, status
        if status in _FAULT_STATUSES:
            outcome, shown = events.UPSTREAM_FAULT, status if status <= 504 else 503
        elif status == 429:
            outcome = events.CENSORED
        elif status in _AUTH_STATUSES and not handle.passthrough_auth:
            # Our credentials, not the caller's: a 401 would send the caller looking at its own key.
            outcome, shown = events.CENSORED, 502
            code = "upstream_auth_error"
            said = f"Upstream {handle.upstream.name!r} refused the proxy's credentials ({status})."
            body = error_body(said, kind=UpstreamFault.kind, code=code)
        elif status < 400:
            outcome, shown = events.UPSTREAM_FAULT, 502
            fault = ProtocolFault(f"The upstream answered {status}, which the proxy does not follow.")
            body, code = fault.body(), fault.code
        self._record(outcome, shown, error=code or kind)
        block = crossing.returned(
            pair for pair in self._reply_headers if pair[0] not in (b"content-type", b"content-encoding")
        )
        self._responder.reply(shown, _JSON + block + self._ids_block(), body)
        self._release()

    # Pieces.

    @property
    def _sent(self) -> Prepared:
        assert self._prepared is not None
        return self._prepared

    def _mark_content(self) -> None:
        now = perf_counter()
        if self._first_at == 0.0:
            self._first_at = now
        else:
            self._gaps += 1
        self._last_at = now

    def _meet_compression(self, encoding: bytes) -> None:
        """Pass a compressed reply through and decode it aside; one that must be translated is decoded first."""
        translates = self._decision.arm.handle.codec.translates
        try:
            self._inflate = Inflater(encoding, limit=_TRANSLATED_BYTES if translates else _ASIDE_BYTES)
        except KeyError:
            self._inflate = None
        self._raw = not translates
        if translates:
            self._reply_headers = [pair for pair in self._reply_headers if pair[0] != b"content-encoding"]

    def _plain_body(self) -> bytes:
        """The body of a refusal, decoded if the upstream compressed it; as it came if that fails."""
        body = _joined(self._parts)
        encoding = crossing.find(self._reply_headers, b"content-encoding")
        if encoding is None:
            return body
        try:
            return Inflater(encoding, limit=_ASIDE_BYTES).feed(body)
        except (KeyError, TooLarge, zlib.error):
            return body

    def _break_off(self, fault: ProxyError) -> None:
        if self.call is not None:
            self.call.cancel()
        self.reply_failed(fault)

    def _keep_aside(self, data: bytes) -> None:
        if self._inflate is not None:
            try:
                self._aside += self._inflate.feed(data)
            except (TooLarge, zlib.error):
                self._inflate = None
                self._aside.clear()
            return
        self._aside += data
        if len(self._aside) > 2 * _ASIDE_BYTES:
            del self._aside[:-_TAIL_BYTES]

    def _facts_aside(self) -> ReplyFacts | None:
        """Usage of a reply that went through untouched, as far as it could be decoded."""
        if not self._aside:
            return None
        codec = self._decision.arm.handle.codec
        if self._streaming:
            decoder = codec.stream(self._envelope, self._sent)
            decoder.feed(bytes(self._aside))
            decoder.finish()
            return decoder.facts
        try:
            return codec.unary(self._envelope, bytes(self._aside))[1]
        except ProxyError:
            return None

    def _overhead_ms(self, upstream_done: float, duration: float) -> float:
        """Our share of the time: everything but waiting for the upstream."""
        waited = upstream_done - self._sent_at if self._sent_at else 0.0
        return max(0.0, duration - waited) * 1000

    def _ids_block(self, overhead_ms: float | None = None) -> bytes:
        rid = self.request_id.encode()
        if overhead_ms is None:
            overhead_ms = (self._sent_at - self._request.body_at) * 1000 if self._sent_at else 0.0
        return (
            b"x-request-id: "
            + rid
            + b"\r\nx-llm-optimizer-request-id: "
            + rid
            + b"\r\n"
            + self._decision.arm.block
            + b"x-llm-optimizer-attempts: 1\r\nx-llm-optimizer-overhead-ms: %.3f\r\n" % overhead_ms
        )

    def _head_block(self, overhead_ms: float | None = None) -> bytes:
        return crossing.returned(self._reply_headers) + self._ids_block(overhead_ms)

    def _record(
        self, outcome: str, status: int, *, facts: ReplyFacts | None = None, error: str | None = None
    ) -> float | None:
        self._recorded = True
        now = perf_counter()
        decoder = self._decoder
        if facts is None and decoder is not None:
            facts = decoder.facts
            decoder.estimate_usage()
        duration = now - self._request.body_at
        first = self._first_at
        chunks = decoder.content_events if decoder is not None else 0
        # For a stream the upstream is waited for until its last content; the rest is ours.
        upstream_end = self._last_at if self._streaming and self._last_at else now
        upstream_id = crossing.upstream_request_id(self._reply_headers)
        return self._shared.recorder.request(
            self.request_id,
            endpoint=self._envelope.endpoint,
            envelope=self._envelope,
            decision=self._decision,
            table_version=self._table_version,
            facts=facts,
            timing=Timing(
                started_ms=self._started_ms,
                duration_ms=duration * 1000,
                overhead_ms=self._overhead_ms(upstream_end, duration),
                upstream_ms=(now - self._sent_at) * 1000 if self._sent_at else None,
                ttft_ms=(first - self._request.body_at) * 1000 if first and self._streaming else None,
                itl_ms=(self._last_at - first) * 1000 / self._gaps if self._gaps else None,
                chunks=chunks,
            ),
            ending=Ending(
                outcome=outcome,
                status=status,
                error=error,
                upstream_status=self._status or None,
                upstream_request_id=None if upstream_id is None else upstream_id[:200].decode("latin-1"),
                request_bytes=len(self._request.body),
                response_bytes=self._size,
            ),
        )

    def _release(self) -> None:
        # Cut the cycle with the responder, so that reference counting frees both at once.
        self._responder.listener = None
        self._shared.finished(self)


def _joined(parts: list[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"".join(parts)
