"""One optimized request from decision to recorded event, as callbacks: no task, no queue, no await.

An ``Exchange`` stands between a client's ``Responder`` and an upstream ``Call``. Its one invariant: the event
is appended before the last bytes of the reply reach the client's transport, exactly once, whatever ends the
exchange. After that nothing more is recorded; what little the upstream still sends is drained, so that its
connection can be used again.
"""

import logging
import zlib
from time import perf_counter
from typing import Protocol

from optimizer import events
from proxy import headers as crossing
from proxy.aside import Aside
from proxy.dispatch import Decision
from proxy.envelope import Envelope
from proxy.errors import Overloaded, ProtocolFault, ProxyError, UpstreamFault
from proxy.http1.client import Call
from proxy.http1.messages import Request, Responder
from proxy.inflate import Inflater, TooLarge
from proxy.providers.base import EVENT_TOO_LARGE, Prepared, ReplyFacts, StreamDecoder
from proxy.record import Ending, Recorder, Timing
from proxy.refusal import ERROR_BYTES, first_word, outcome_of_fault, read_refusal
from proxy.turn import Turn

_JSON = b"content-type: application/json\r\n"
_EVENT_STREAM = b"text/event-stream"
# A reply that has to be rewritten for the client is held whole, up to this size.
_TRANSLATED_BYTES = 64 * 1024 * 1024
# Pieces of body that may follow a stream's terminal event before its connection is given up.
_LATE_PIECES = 4
# Of a request whose reply has begun to stream, what its decoder may still look at.
_KEPT_MEMBERS = ("response_format", "text", "stream_options")

_log = logging.getLogger("llm_optimizer.exchange")


class Context(Protocol):
    """What every exchange of a worker shares."""

    recorder: Recorder
    turn: Turn
    buffered_reply_bytes: int

    def finished(self) -> None: ...


class Exchange:
    """The state of one optimized request. Implements ``ReplySink`` and ``Listener``."""

    # Defaults of the class: most requests never set most of these, and every one is created on the hot path.
    call: Call | None = None
    _head: crossing.ReplyHead = crossing.ReplyHead()
    _decoder: StreamDecoder | None = None
    _inflate: Inflater | None = None
    _aside: Aside | None = None
    _streaming = False
    _recorded = False
    _status = 0
    _size = 0
    _bound = 0
    _late = 0
    _sent_at = 0.0
    _seen_at = 0.0
    _first_at = 0.0
    _last_at = 0.0
    _gaps = 0

    def __init__(
        self,
        shared: Context,
        request: Request,
        responder: Responder,
        *,
        request_id: str,
        envelope: Envelope,
        decision: Decision,
        prepared: Prepared,
        table_version: int,
        started_ms: int,
    ) -> None:
        self._shared = shared
        self._request = request
        self._responder = responder
        self.request_id = request_id
        self._envelope = envelope
        self._decision = decision
        self._table_version = table_version
        self._started_ms = started_ms
        self._request_bytes = len(request.body)
        self._prepared = prepared
        self._parts: list[bytes] = []

    def begin(self) -> None:
        """Send the prepared request upstream."""
        prepared, request = self._prepared, self._request
        handle = self._decision.arm.handle
        head = handle.opening(prepared.path) + crossing.forwarded(request.headers)
        for name, value in prepared.headers:
            head += name + b": " + value + b"\r\n"
        if handle.passthrough_auth:
            authorization = request.headers.get(b"authorization")
            if authorization is not None:
                head += b"authorization: " + authorization + b"\r\n"
        self._sent_at = perf_counter()
        self.call = handle.pool.send(
            b"%bcontent-length: %d\r\n\r\n" % (head, len(prepared.body)), prepared.body, self
        )

    # What the upstream's connection reports.

    def reply_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status = status
        self._head = head = crossing.ReplyHead(headers)
        if status != 200:
            self._bound = ERROR_BYTES
            return
        codec = self._decision.arm.handle.codec
        kind, encoding = head.content_type, head.encoding
        if kind is None:
            kind = head.content_type = _EVENT_STREAM if self._envelope.stream else b"application/json"
        translates = codec.translates
        self._bound = _TRANSLATED_BYTES if translates else self._shared.buffered_reply_bytes
        if kind[:17].lower() == _EVENT_STREAM:
            self._streaming = True
            decoder = codec.stream(self._envelope, self._prepared)
            self._forget_prompt()
            if encoding is not None and not translates:
                self._aside = Aside(encoding, decoder)
            else:
                self._decoder = decoder
        elif encoding is not None and not translates:
            self._aside = Aside(encoding, None)
        if encoding is not None and translates:
            self._decode_first(encoding)
        if self._streaming or self._aside is not None:
            self._responder.start(200, self._head_block(), None)

    def reply_body(self, data: bytes) -> None:
        if self._recorded:
            self._drain()
            return
        self._size += len(data)
        if self._inflate is not None:
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
        if self._aside is not None:
            self._read_aside(self._aside, data)
        elif self._size > self._bound:
            self._outgrow()

    def _read_aside(self, aside: Aside, data: bytes) -> None:
        decoder = aside.decoder
        before = decoder.content_events if decoder is not None else 0
        aside.add(data)
        if decoder is not None:
            if decoder.content_events != before:
                self._mark_content()
            if decoder.terminal:
                self._end_aside(aside)

    def _outgrow(self) -> None:
        """The reply is too large to be held back."""
        if self._status != 200:
            # What was said so far has to do; the rest is not worth the wait.
            self._cancel()
            self._seen_at = perf_counter()
            self._end_error()
        elif self._decision.arm.handle.codec.translates:
            self._break_off(ProtocolFault(f"The upstream's reply is over the bound of {self._bound} bytes."))
        else:
            self._aside = Aside(None, None)
            for part in self._parts:
                self._aside.add(part)
            self._responder.start(200, self._head_block(), None)

    def reply_flush(self) -> None:
        if self._parts and not self._recorded and (self._streaming or self._aside is not None):
            self._responder.write(_joined(self._parts))
            self._parts.clear()

    def reply_end(self) -> None:
        self.call = None
        self._seen_at = perf_counter()
        if self._decoder is None and self._aside is None:
            self._shared.turn.do(self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        if self._recorded:
            return
        try:
            self._end()
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller must not wait for ever
            _log.error("a reply could not be finished: %s", type(error).__name__, exc_info=error)
            if self._recorded:
                self._responder.abort()
                self._release()
            else:
                self.reply_failed(ProtocolFault("The upstream's reply could not be read."))

    def reply_failed(self, fault: ProxyError) -> None:
        self.call = None
        if self._recorded:
            return
        self._seen_at = perf_counter()
        outcome = outcome_of_fault(fault)
        if not self._responder.started:
            block = _JSON + self._ids_block() + crossing.retry_after(fault.status)
            self._record(outcome, fault.status, error=fault.code)
            self._responder.reply(fault.status, block, fault.body())
        else:
            self._record(outcome, 200, error=fault.code)
            if self._decoder is not None:
                # The blank line ends an event that was cut in half, which would swallow this one.
                self._parts.append(b"\n\ndata: " + fault.body() + b"\n\n")
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
        self._cancel()
        if self._recorded:
            return
        self._seen_at = perf_counter()
        decoder = self._decoder
        if decoder is not None and decoder.facts.error_type is not None:
            # SDKs hang up on an error event: the failure is the upstream's, not the caller's choice.
            decoder.estimate_usage()
            self._record_read(decoder.facts)
        elif decoder is not None and decoder.complete:
            # Some clients stop reading at the finish reason; the answer was whole.
            decoder.estimate_usage()
            self._record(events.COMPLETED, 200, facts=decoder.facts)
        else:
            self._record(events.CENSORED, 499, error="client_gone")
        self._release()

    def server_stopping(self) -> None:
        self._break_off(Overloaded("The proxy is being stopped. Send the request again."))

    def client_paused(self) -> None:
        if self.call is not None:
            self.call.pause()

    def client_resumed(self) -> None:
        if self.call is not None:
            self.call.resume()

    # Endings.

    def _end(self) -> None:
        decoder = self._decoder
        if decoder is not None:
            self._parts.append(decoder.finish())
            # An error event of the upstream's own has told the client already.
            told = decoder.facts.error_type not in (None, EVENT_TOO_LARGE)
            if decoder.complete or told:
                self._end_stream()
            else:
                self.reply_failed(ProtocolFault("The upstream ended the stream without its terminal event."))
        elif self._aside is not None:
            self._end_aside(self._aside)
        elif self._status == 200:
            self._end_unary()
        else:
            self._end_error()

    def _end_unary(self) -> None:
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
        cost = self._record(events.COMPLETED, 200, facts=facts)
        block = self._head_block(self._overhead_ms(perf_counter()))
        if cost is not None:
            block += b"x-llm-optimizer-cost-usd: %.9g\r\n" % cost
        self._responder.reply(200, block, body)
        self._release()

    def _end_stream(self) -> None:
        self._seen_at = perf_counter()
        decoder = self._decoder
        assert decoder is not None
        self._record_read(decoder.facts)
        self._responder.finish(_joined(self._parts))
        self._release()

    def _end_aside(self, aside: Aside) -> None:
        """The end of a reply that went through untouched."""
        self._seen_at = perf_counter()
        facts = aside.facts(self._decision.arm.handle.codec, self._envelope)
        if aside.truncated:
            # There is no adding an error event to compressed bytes.
            self._record(events.UPSTREAM_FAULT, 200, facts=facts, error=ProtocolFault.code)
            self._responder.abort()
        else:
            self._record_read(facts)
            self._responder.finish(_joined(self._parts))
        self._release()

    def _record_read(self, facts: ReplyFacts | None) -> None:
        """Record a reply that the client has mostly seen: it says itself whether it failed."""
        if facts is None or facts.error_type is None:
            self._record(events.COMPLETED, 200, facts=facts)
        else:
            error = first_word(facts.error_code, facts.error_type, UpstreamFault.code)
            self._record(events.UPSTREAM_FAULT, 200, facts=facts, error=error)

    def _end_error(self) -> None:
        refusal = read_refusal(
            self._status, self._head.encoding, _joined(self._parts), self._decision.arm.handle
        )
        self._record(refusal.outcome, refusal.status, error=refusal.word)
        self._responder.reply(refusal.status, _JSON + self._head.block + self._ids_block(), refusal.body)
        self._release()

    # Pieces.

    def _mark_content(self) -> None:
        now = perf_counter()
        if self._first_at == 0.0:
            self._first_at = now
        else:
            self._gaps += 1
        self._last_at = now

    def _decode_first(self, encoding: bytes) -> None:
        """A reply that must be translated is decoded before; what can't be is refused by its decoder."""
        try:
            self._inflate = Inflater(encoding, limit=_TRANSLATED_BYTES)
        except KeyError:
            self._inflate = None
        self._head.encoding = None

    def _forget_prompt(self) -> None:
        """A stream may last for minutes; what was asked is needed no more once it is being answered."""
        envelope = self._envelope
        self._request.body = envelope.raw = self._prepared.body = b""
        envelope.doc = {name: envelope.doc[name] for name in _KEPT_MEMBERS if name in envelope.doc}

    def _break_off(self, fault: ProxyError) -> None:
        self._cancel()
        self.reply_failed(fault)

    def _cancel(self) -> None:
        if self.call is not None:
            self.call.cancel()
            self.call = None

    def _drain(self) -> None:
        """The reply is over; an upstream that will not stop loses its connection."""
        self._late += 1
        if self._late > _LATE_PIECES:
            self._cancel()

    def _overhead_ms(self, now: float) -> float:
        """Our share of the time: everything but waiting for the upstream."""
        waited = self._seen_at - self._sent_at
        return max(0.0, now - self._request.body_at - waited) * 1000

    def _ids_block(self, overhead_ms: float | None = None) -> bytes:
        if overhead_ms is None:
            overhead_ms = (self._sent_at - self._request.body_at) * 1000
        return b"%b%bx-llm-optimizer-attempts: 1\r\nx-llm-optimizer-overhead-ms: %.3f\r\n" % (
            crossing.ids_block(self.request_id),
            self._decision.arm.block,
            overhead_ms,
        )

    def _head_block(self, overhead_ms: float | None = None) -> bytes:
        head = self._head
        block = b"content-type: %b\r\n%b%b" % (
            head.content_type or b"application/json",
            head.block,
            self._ids_block(overhead_ms),
        )
        return block if head.encoding is None else block + b"content-encoding: %b\r\n" % head.encoding

    def _record(
        self, outcome: str, status: int, *, facts: ReplyFacts | None = None, error: str | None = None
    ) -> float | None:
        self._recorded = True
        now = perf_counter()
        decoder = self._decoder if self._aside is None else self._aside.decoder
        if facts is None and decoder is not None:
            facts = decoder.facts
            decoder.estimate_usage()
        first = self._first_at
        return self._shared.recorder.request(
            self.request_id,
            envelope=self._envelope,
            decision=self._decision,
            table_version=self._table_version,
            facts=facts,
            timing=Timing(
                started_ms=self._started_ms,
                duration_ms=(now - self._request.body_at) * 1000,
                overhead_ms=self._overhead_ms(now),
                upstream_ms=(self._seen_at - self._sent_at) * 1000,
                ttft_ms=(first - self._request.body_at) * 1000 if first else None,
                itl_ms=(self._last_at - first) * 1000 / self._gaps if self._gaps else None,
                chunks=decoder.content_events if decoder is not None else 0,
            ),
            ending=Ending(
                outcome=outcome,
                status=status,
                error=error,
                upstream_status=self._status or None,
                upstream_request_id=self._head.request_id,
                request_bytes=self._request_bytes,
                response_bytes=self._size,
            ),
        )

    def _release(self) -> None:
        # Cut the cycle with the responder, so that reference counting frees both at once.
        self._responder.listener = None
        if self.call is not None:
            # Nobody is left to resume it when the client has read the last bytes.
            self.call.resume()
        self._shared.finished()


def _joined(parts: list[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"".join(parts)
