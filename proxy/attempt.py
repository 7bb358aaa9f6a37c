"""One try at answering a request: a call to one arm's upstream, read until it ends, fails or is given up.

Implements ``ReplySink``. Invariant: the owner hears exactly one of ``answered``, ``ended`` and ``failed``, and nothing
after it; an attempt that was given up says nothing at all. Breaker and retry budget of its upstream learn of every end.
What little an upstream sends after a stream's last event is drained, so that its connection can be used again.
"""

import logging
import zlib
from time import perf_counter, time
from typing import Protocol

from proxy import headers as crossing
from proxy.aside import Aside
from proxy.compiled import CompiledArm
from proxy.envelope import Envelope
from proxy.errors import ProtocolFault, ProxyError, TimeoutFault
from proxy.http1.client import Call
from proxy.inflate import Inflater, TooLarge
from proxy.providers.base import EVENT_TOO_LARGE, Prepared, ReplyFacts, StreamDecoder
from proxy.providers.sse import split_events, tells_the_end
from proxy.refusal import (
    ERROR_BYTES,
    Refusal,
    broken_reply,
    read_refusal,
    refusal_of_fault,
    stream_error,
)
from proxy.resilience.breaker import HALF_OPEN
from proxy.resilience.failure import Failure, Kind, of_fault
from proxy.resilience.follow_up import RetryBudget
from proxy.turn import Turn

_EVENT_STREAM = b"text/event-stream"
# A reply that has to be rewritten for the client is held whole, up to this size.
_TRANSLATED_BYTES = 64 * 1024 * 1024
# Pieces of body that may follow a stream's terminal event before its connection is given up.
_LATE_PIECES = 4
# An answer that has its finish reason lacks at most a usage event and the terminal one.
_AFTER_FINISH = ("finish", 2.0)

_log = logging.getLogger("llm_optimizer.attempt")


class Owner(Protocol):
    """Who asked for the attempt."""

    own_rates: bool

    def opened(self, attempt: "Attempt") -> None:
        """The head of a 200 is there."""

    def content_begun(self, attempt: "Attempt") -> None:
        """The first content of a stream is there."""

    def output(self, attempt: "Attempt") -> None:
        """``parts`` holds something that the client may have."""

    def answered(self, attempt: "Attempt", body: bytes, facts: ReplyFacts) -> None:
        """The whole reply is there, in one piece."""

    def ended(self, attempt: "Attempt") -> None:
        """A reply that was passed on as it came is whole; ``parts`` holds its end."""

    def failed(self, attempt: "Attempt", failure: Failure, refusal: Refusal) -> None:
        """There will be no (whole) reply."""


class Attempt:
    """See the module. ``sent_at``, ``seen_at``, ``first_at`` and ``last_at`` are ``perf_counter`` seconds (0: not yet).

    ``parts`` are bytes for the client that were not passed on yet; ``size`` counts what the upstream sent. ``refusal``
    is set when it failed, ``facts`` when its reply could be read. ``told`` says that an error event of the upstream's
    own is the last of ``parts``.
    """

    # Defaults of the class: most attempts never set most of these, and every one is created on the hot path.
    call: Call | None = None
    head: crossing.ReplyHead = crossing.ReplyHead()
    decoder: StreamDecoder | None = None
    aside: Aside | None = None
    facts: ReplyFacts | None = None
    refusal: Refusal | None = None
    budget: RetryBudget | None = None
    streaming = False
    told = False
    over = False
    status = 0
    size = 0
    sent_at = 0.0
    seen_at = 0.0
    first_at = 0.0
    last_at = 0.0
    alive_at = 0.0
    gaps = 0
    _ticket = 0
    _inflate: Inflater | None = None
    _headers: list[tuple[bytes, bytes]] | None = None
    _bound = 0
    _late = 0
    _choices = 1
    _finishing = False
    _resting = False

    def __init__(
        self,
        owner: Owner,
        turn: Turn,
        *,
        envelope: Envelope,
        arm: CompiledArm,
        prepared: Prepared,
        why: str,
        buffered_bytes: int,
    ) -> None:
        self._owner = owner
        self._turn = turn
        self._buffered_bytes = buffered_bytes
        self.envelope = envelope
        self.arm = arm
        self.prepared = prepared
        self.why = why
        self.parts: list[bytes] = []

    def begin(self, forwarded: bytes, bound: tuple[str, float] | None) -> None:
        """Send the request. ``forwarded`` is the block of client headers that cross, ``bound`` a deadline."""
        prepared = self.prepared
        handle = self.arm.handle
        head = handle.opening(prepared.path) + forwarded
        for name, value in prepared.headers:
            head += name + b": " + value + b"\r\n"
        self._ticket = self.arm.breaker.started()
        self.sent_at = perf_counter()
        self.call = handle.pool.send(
            b"%bcontent-length: %d\r\n\r\n" % (head, len(prepared.body)), prepared.body, self, bound=bound
        )

    def give_up(self) -> None:
        """Nobody wants the reply any more."""
        self._cancel()
        if not self.over:
            self.over = True
            self.seen_at = perf_counter()
            self.arm.breaker.abandoned(self.seen_at, self._ticket)
            self._give_back()
            self.read_facts()

    def rest(self, bound: tuple[str, float] | None) -> None:
        """The client does not read: nor do we, and only ``bound`` goes on running."""
        self._resting, self._finishing = True, False
        if self.call is not None and not self.over:
            self.call.limit(bound)
            self.call.pause()

    def go_on(self) -> None:
        """The client reads again."""
        self._resting = False
        self.alive_at = perf_counter()
        if self.call is not None:
            self.call.resume()
            self._expect_end()

    def read_facts(self) -> ReplyFacts | None:
        """What the reply said about itself as far as it came; usage is estimated where none was reported."""
        decoder = self._reading
        if self.facts is None and decoder is not None:
            decoder.estimate_usage()
            self.facts = decoder.facts
        return self.facts

    @property
    def chunks(self) -> int:
        """Pieces of content seen."""
        decoder = self._reading
        return decoder.content_events if decoder is not None else 0

    @property
    def is_whole(self) -> bool:
        """Whether a stream's answer is there, with a finish reason for every choice. A terminal event proves nothing:
        gateways in front of a model that died send one."""
        decoder = self._reading
        if decoder is None or decoder.facts.error_type is not None:
            return False
        return len(decoder.facts.finish_reasons) >= self._choices

    @property
    def _reading(self) -> StreamDecoder | None:
        """Who reads the stream, whether it is passed on as read or as it came."""
        return self.decoder if self.aside is None else self.aside.decoder

    # What the upstream's connection reports.

    def reply_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.head = head = crossing.ReplyHead(headers, rates=not self._owner.own_rates)
        if status != 200:
            self._bound = ERROR_BYTES
            self._headers = headers
            return
        codec = self.arm.handle.codec
        kind, encoding = head.content_type, head.encoding
        if kind is None:
            kind = head.content_type = _EVENT_STREAM if self.envelope.stream else b"application/json"
        translates = self.prepared.translates
        self._bound = _TRANSLATED_BYTES if translates else self._buffered_bytes
        is_stream = kind[:17].lower() == _EVENT_STREAM
        if is_stream != self.envelope.stream:
            # Whoever reads the one as the other sees an empty answer, and no error.
            given, wanted = ("events", "a document") if is_stream else ("a document", "events")
            self.fail(ProtocolFault(f"The upstream answered with {given} where {wanted} was asked for."))
            return
        if is_stream:
            self.streaming = True
            self._choices = self.envelope.choices
            decoder = codec.stream(self.envelope, self.prepared)
            if encoding is not None and not translates:
                self.aside = Aside(encoding, decoder)
            else:
                self.decoder = decoder
        elif encoding is not None and not translates:
            self.aside = Aside(encoding, None)
        if encoding is not None and translates:
            self._decode_first(encoding)
        self._owner.opened(self)

    def reply_body(self, data: bytes) -> None:
        if self.over:
            self._drain()
            return
        self.size += len(data)
        if self._inflate is not None:
            try:
                data = self._inflate.feed(data)
            except (TooLarge, zlib.error):
                self.fail(ProtocolFault("The upstream's compressed reply could not be decoded."))
                return
        decoder = self.decoder
        if decoder is None:
            self.parts.append(data)
            if self.aside is not None:
                self._read_aside(self.aside, data)
            elif self.size > self._bound:
                self._outgrow()
            return
        before = decoder.content_events
        out = decoder.feed(data)
        if decoder.content_events != before:
            self._mark_content()
        elif not self._is_alive(out):
            self.fail(TimeoutFault("idle", self.arm.handle.upstream.idle_s))
            return
        if decoder.facts.error_type is not None:
            self._stream_failed(out)
        elif decoder.terminal:
            # Recorded first, then the bytes that tell the client that it is over.
            self.parts += (out, decoder.finish())
            self._end_stream()
        elif out:
            self.parts.append(out)

    def reply_flush(self) -> None:
        if self.parts and not self.over and (self.decoder is not None or self.aside is not None):
            self._owner.output(self)
            decoder = self.decoder
            if decoder is not None and decoder.facts.finish_reasons:
                self._expect_end()

    def reply_end(self) -> None:
        self.call = None
        if self.decoder is None and self.aside is None:
            self.seen_at = perf_counter()
            self._turn.do(self._finish)
        else:
            self._finish()

    def reply_failed(self, fault: ProxyError) -> None:
        self.call = None
        if self.over:
            return
        if self.is_whole:
            # All that is missing is what some servers never send.
            self._finish()
        else:
            self._fail(of_fault(fault), refusal_of_fault(fault))

    # Endings.

    def fail(self, fault: ProxyError) -> None:
        """Break the attempt off."""
        self._cancel()
        if not self.over:
            self._fail(of_fault(fault), refusal_of_fault(fault))

    def _finish(self) -> None:
        if self.over:
            return
        try:
            self._end()
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller must not wait for ever
            _log.error("a reply could not be finished: %s", type(error).__name__, exc_info=error)
            if not self.over:
                self.fail(ProtocolFault("The upstream's reply could not be read."))

    def _end(self) -> None:
        decoder = self.decoder
        if decoder is not None:
            # The last event may lack its blank line.
            rest = decoder.finish()
            if decoder.facts.error_type is not None:
                self._stream_failed(rest)
            elif self.is_whole:
                self.parts += (rest, decoder.ending())
                self._end_stream()
            else:
                # Whoever goes on with the answer is told all of it, so the client gets all of it.
                self.parts.append(rest)
                self._without_terminal()
                self.fail(ProtocolFault("The upstream ended the stream without its terminal event."))
        elif self.aside is not None:
            self._end_aside(self.aside)
        elif self.status == 200:
            self._end_unary()
        else:
            self._end_refused()

    def _end_unary(self) -> None:
        try:
            body, facts = self.arm.handle.codec.unary(self.envelope, joined(self.parts))
        except ProxyError as fault:
            self.fail(fault)
            return
        if facts.error_type is not None:
            self._fail(*broken_reply(facts))
            return
        self.facts = facts
        self._succeed()
        self._owner.answered(self, body, facts)

    def _end_stream(self) -> None:
        if not self.is_whole:
            self._without_terminal()
            self.fail(
                ProtocolFault("The upstream ended the stream without saying why the answer ends there.")
            )
            return
        self.read_facts()
        self._succeed()
        self._owner.ended(self)

    def _without_terminal(self) -> None:
        """What was said stays, but not that it was all."""
        events = split_events(joined(self.parts))
        self.parts[:] = [event for event in events if not tells_the_end(event)]

    def _end_aside(self, aside: Aside) -> None:
        """The end of a reply that went through untouched."""
        self.facts = aside.facts(self.arm.handle.codec, self.envelope)
        error = self.facts is not None and self.facts.error_type is not None
        if aside.readable and self.streaming and not self.is_whole and not error:
            self.fail(ProtocolFault("The upstream ended the stream without its terminal event."))
        elif error and self.facts is not None:
            self.told = True
            self._fail(*stream_error(self.facts, b""))
        else:
            self._succeed()
            self._owner.ended(self)

    def _end_refused(self) -> None:
        body, headers, endpoint = joined(self.parts), self._headers or (), self.envelope.endpoint
        refusal, failure = read_refusal(
            self.status, self.head, body, headers, self.arm.handle, now=time(), endpoint=endpoint
        )
        self.parts.clear()
        self._fail(failure, refusal)

    def _stream_failed(self, out: bytes) -> None:
        """An error event came, which is in ``out``, or one event is beyond all bounds."""
        decoder = self.decoder
        assert decoder is not None
        facts = decoder.facts
        self._cancel()
        if facts.error_type == EVENT_TOO_LARGE:
            fault = ProtocolFault("One event of the upstream's stream is larger than is accepted.")
            self._fail(of_fault(fault), refusal_of_fault(fault))
            return
        self.told = True
        self.parts.append(out)
        self._fail(*stream_error(facts, out))

    def _succeed(self) -> None:
        self.over = True
        self.seen_at = self.seen_at or perf_counter()
        if self.call is not None:
            # What frames the reply has to end soon, or its connection is not worth keeping.
            self.call.limit(_AFTER_FINISH)
        self.arm.breaker.succeeded(self.seen_at, self._ticket)
        self._give_back()

    def _fail(self, failure: Failure, refusal: Refusal) -> None:
        self.over = True
        self.refusal = refusal
        self.seen_at = now = perf_counter()
        breaker = self.arm.breaker
        if failure.blames_arm:
            breaker.failed(now, self._ticket)
        elif failure.kind is Kind.BUSY:
            breaker.abandoned(now, self._ticket)
        else:
            breaker.succeeded(now, self._ticket)
            if failure.kind is Kind.RATE_LIMITED and failure.retry_after_s and self._uses_own_key:
                breaker.cool(now, failure.retry_after_s)
        self._give_back()
        self.read_facts()
        self._owner.failed(self, failure, refusal)

    # Pieces.

    @property
    def _uses_own_key(self) -> bool:
        return not self.arm.handle.passthrough_auth

    def _read_aside(self, aside: Aside, data: bytes) -> None:
        decoder = aside.decoder
        before = decoder.content_events if decoder is not None else 0
        aside.add(data)
        if decoder is not None:
            if decoder.content_events != before:
                self._mark_content()
            if decoder.terminal:
                # The end of the encoding is still to come.
                self._expect_end()

    def _expect_end(self) -> None:
        """The answer is whole; what may still follow has to come soon."""
        if not self._finishing and not self._resting and self.is_whole and self.call is not None:
            self._finishing = True
            self.call.limit(_AFTER_FINISH)

    def _is_alive(self, out: bytes) -> bool:
        """Whether the model is still at work; comments prove only that something in front of it is."""
        now = perf_counter()
        if b"data:" in out or not self.alive_at:
            self.alive_at = now
        return now - max(self.alive_at, self.last_at) <= self.arm.handle.upstream.idle_s

    def _outgrow(self) -> None:
        """The reply is too large to be held back."""
        if self.status != 200:
            # What was said so far has to do; the rest is not worth the wait.
            self._cancel()
            self._end_refused()
        elif self.prepared.translates:
            self.fail(ProtocolFault(f"The upstream's reply is over the bound of {self._bound} bytes."))
        else:
            self.aside = Aside(None, None)
            for part in self.parts:
                self.aside.add(part)

    def _mark_content(self) -> None:
        now = perf_counter()
        if self.first_at == 0.0:
            self.first_at = now
            self._owner.content_begun(self)
            if self.arm.breaker.state == HALF_OPEN:
                # A long answer need not end before its upstream counts as well again.
                self.arm.breaker.succeeded(now, self._ticket)
        else:
            self.gaps += 1
        self.last_at = now

    def _decode_first(self, encoding: bytes) -> None:
        """A reply that must be translated is decoded before; what can't be is refused by its decoder."""
        try:
            self._inflate = Inflater(encoding, limit=_TRANSLATED_BYTES)
        except KeyError:
            self._inflate = None
        self.head.encoding = None

    def _give_back(self) -> None:
        if self.budget is not None:
            self.budget.give_back()
            self.budget = None

    def _cancel(self) -> None:
        if self.call is not None:
            self.call.cancel()
            self.call = None

    def _drain(self) -> None:
        """The reply is over; an upstream that will not stop loses its connection."""
        self._late += 1
        if self._late > _LATE_PIECES:
            self._cancel()


def joined(parts: list[bytes]) -> bytes:
    """The parts as one."""
    return parts[0] if len(parts) == 1 else b"".join(parts)
