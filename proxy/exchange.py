"""One optimized request from decision to recorded event, as callbacks: no task, no queue, no await.

An ``Exchange`` stands between a client's ``Responder`` and the attempts made for it, mostly one. Two invariants. The
event is appended before the last bytes of the reply reach the client's transport, exactly once, whatever ends the
exchange. And until the first byte has reached the client, a failure is invisible if anybody else can answer; after
it, a broken answer is continued or ended with an error, never presented as whole.
"""

import asyncio
import logging
from time import perf_counter
from typing import Protocol

from optimizer import events
from optimizer.routing import MESSAGES
from proxy import headers as crossing
from proxy import pursuit
from proxy.attempt import Attempt, joined
from proxy.cache.visit import Visit
from proxy.compiled import CompiledArm
from proxy.content import Asked
from proxy.continuation import ANSWER_BYTES, Seam, continued, is_continuable
from proxy.dispatch import Decision
from proxy.envelope import Envelope
from proxy.errors import Overloaded, ProtocolFault, ProxyError
from proxy.http1.messages import Request, Responder
from proxy.messages_errors import last_event, reply_body
from proxy.providers.base import Prepared, ReplyFacts
from proxy.providers.sse import split_events
from proxy.pursuit import Pursuit
from proxy.record import Ending, Recorder, Timing, Tried
from proxy.refusal import Refusal, refusal_of_fault
from proxy.resilience.failure import Failure

_JSON = b"content-type: application/json\r\n"
# The beginning of a stream that is held back until content comes; more than this is passed on.
_HELD_BYTES = 64 * 1024
# Of a request whose reply has begun to stream, what its decoder may still look at.
_KEPT_MEMBERS = ("n", "response_format", "text", "stream_options", "output_config", "output_format")

_log = logging.getLogger("llm_optimizer.exchange")


class Reserved(Protocol):
    """What was set aside of the caller's limits. ``headers`` tell what is left of them."""

    @property
    def headers(self) -> bytes: ...

    def settle(self, *, tokens: int | None, usd: float | None) -> None: ...


class Context(pursuit.Context, Protocol):
    """What every exchange of a worker shares."""

    recorder: Recorder

    def finished(self) -> None: ...


class Exchange:
    """The state of one optimized request. Implements ``attempt.Owner`` and ``Listener``."""

    # Defaults of the class: most requests never set most of these, and every one is created on the hot path.
    _reservation: Reserved | None = None
    own_rates = False
    _asked: Asked | None = None
    _visit: Visit | None = None
    _hold: asyncio.TimerHandle | None = None
    _seam: Seam | None = None
    _said = ""
    _cause: Refusal | None = None  # of the first cut
    _first_id: str | None = None
    _continued = False
    _recorded = False
    _paused = False
    _released = False

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
        self.envelope = envelope
        self.decision = decision
        self._table_version = table_version
        self.started_ms = started_ms
        self._request_bytes = len(request.body)
        self._prepared = prepared
        self._pursuit = Pursuit(shared, self, request, envelope, decision)

    def reserve(self, reservation: Reserved) -> None:
        """Take over what was set aside for this request; it is settled when the request is recorded."""
        self._reservation = reservation
        self.own_rates = True

    def sample(self, asked: Asked) -> None:
        """The request was drawn for the judge, who gets the answer once the caller has it."""
        self._asked = asked

    def keep(self, visit: Visit) -> None:
        """Leave the answer with the cache."""
        self._visit = visit

    def begin(self) -> None:
        """Send the prepared request upstream."""
        try:
            self._pursuit.begin(self._prepared)
        except Exception:  # noqa: BLE001  # whatever it is, the caller must not wait for ever
            self._crashed("a request could not be begun")

    # What attempts report.

    def opened(self, attempt: Attempt) -> None:
        self._pursuit.opened(attempt)
        decoder = attempt.decoder
        if self._asked is not None:
            self._asked.listen(attempt)
        if self._seam is not None and decoder is None:
            attempt.fail(ProtocolFault("The upstream did not answer with a plain event stream."))
        elif attempt.aside is not None:
            self._commit(attempt)
            if not attempt.aside.readable:
                # There is no telling when its content begins.
                self.content_begun(attempt)
        elif decoder is not None and self._resumes:
            decoder.keep_answer(ANSWER_BYTES)
        if self._paused and not attempt.over:
            attempt.rest(self._pursuit.left())

    def content_begun(self, attempt: Attempt) -> None:
        if attempt.call is not None:
            attempt.call.limit(self._pursuit.left())

    def output(self, attempt: Attempt) -> None:
        if not self._responder.started:
            if attempt.aside is None and not self._may_commit(attempt):
                return
            self._commit(attempt)
        data = joined(attempt.parts)
        attempt.parts.clear()
        if self._seam is not None:
            data = self._seam.feed(data)
        elif self._visit is not None:
            self._visit.add(data)
        self._responder.write(data)

    def answered(self, attempt: Attempt, body: bytes, facts: ReplyFacts) -> None:
        try:
            self._answer(attempt, body)
        except Exception:  # noqa: BLE001  # see ``begin``
            self._crashed("a reply could not be passed on")

    def _answer(self, attempt: Attempt, body: bytes) -> None:
        cost = self._record(attempt, events.COMPLETED, 200)
        block = self._head_block(attempt, self._overhead_ms(perf_counter()))
        if cost is not None:
            block += b"x-llm-optimizer-cost-usd: %.9g\r\n" % cost
        self._responder.reply(200, block, body)
        if self._asked is not None:
            self._asked.answered(attempt, body)
        if self._visit is not None:
            self._visit.answered(attempt, body)
        self._release()

    def ended(self, attempt: Attempt) -> None:
        try:
            self._end(attempt)
        except Exception:  # noqa: BLE001  # see ``begin``
            self._crashed("a reply could not be ended")

    def _end(self, attempt: Attempt) -> None:
        data = joined(attempt.parts)
        if self._seam is not None:
            data = self._seam.feed(data)
        self._record(attempt, events.COMPLETED, 200)
        if not self._responder.started:
            self._responder.start(200, self._head_block(attempt), None)
        self._responder.finish(data)
        if self._asked is not None and self._seam is None:
            self._asked.ended(attempt)
        if self._visit is not None and self._seam is None:
            self._visit.ended(attempt, data)
        self._release()

    def failed(self, attempt: Attempt, failure: Failure, refusal: Refusal) -> None:
        try:
            self._failed(attempt, failure, refusal)
        except Exception:  # noqa: BLE001  # see ``begin``
            self._crashed("a failure could not be followed up")

    def _failed(self, attempt: Attempt, failure: Failure, refusal: Refusal) -> None:
        followed = self._pursuit
        if followed.outlived(attempt):
            return
        if self._responder.started:
            self._broken(attempt, failure, refusal)
            return
        attempt.parts.clear()
        self._stop_hold()
        if not followed.follow_up(attempt, failure):
            self._refuse(attempt)

    # What the client's connection reports.

    def client_body(self, data: bytes) -> None:
        """Bodies are buffered before an exchange exists."""

    def client_end(self) -> None:
        """See ``client_body``."""

    def client_gone(self) -> None:
        attempt = self._pursuit.give_up()
        if self._recorded:
            return
        if attempt.is_whole:
            # Some clients stop reading at the finish reason; the answer was whole.
            self._record(attempt, events.COMPLETED, 200)
        else:
            self._record(attempt, events.CENSORED, 499, error="client_gone")
        self._release()

    def client_paused(self) -> None:
        self._paused = True
        current = self._pursuit.current
        # Who has not begun to answer is held back when he does.
        if current is not None and current.status:
            current.rest(self._pursuit.left())

    def client_resumed(self) -> None:
        self._paused = False
        current = self._pursuit.current
        if current is not None:
            current.go_on()

    def server_stopping(self) -> None:
        attempt = self._pursuit.give_up()
        if self._recorded:
            return
        fault = Overloaded("The proxy is being stopped. Send the request again.")
        self._tell(attempt, refusal_of_fault(fault))

    # A reply that has begun.

    def _may_commit(self, attempt: Attempt) -> bool:
        """Whether enough of a stream is there to begin the reply with."""
        if attempt.size > _HELD_BYTES:
            return True
        if attempt.first_at == 0.0:
            return False
        rules = self.decision.route.resilience
        if not rules.hold_s and not rules.hold_tokens:
            return True
        if rules.hold_tokens and attempt.chunks >= rules.hold_tokens:
            return True
        if rules.hold_s and self._hold is None:
            self._hold = self._shared.call_later(rules.hold_s, self._end_hold, attempt)
        return False

    def _end_hold(self, attempt: Attempt) -> None:
        if not attempt.over and attempt.parts:
            self._commit(attempt)
            self.output(attempt)

    def _commit(self, attempt: Attempt) -> None:
        """From here on the client has something."""
        self._stop_hold()
        self._responder.start(200, self._head_block(attempt), None)
        if attempt.streaming and not self._resumes:
            self._forget_prompt()

    @property
    def _resumes(self) -> bool:
        return self.decision.route.resilience.resume and is_continuable(self.envelope)

    def _broken(self, attempt: Attempt, failure: Failure, refusal: Refusal) -> None:
        """The reply failed after the client got its beginning."""
        if self._continue(attempt, failure, refusal):
            return
        self._tell(attempt, self._cause or refusal)

    def _continue(self, attempt: Attempt, failure: Failure, refusal: Refusal) -> bool:
        """Let another arm go on with the answer; False if none can."""
        so_far = self._so_far(attempt) if self._resumes else None
        if so_far is None:
            return False
        said, spent = so_far

        def ask(arm: CompiledArm) -> Envelope:
            return continued(self.envelope, said, spent.output_tokens or 0, arm)

        if not said.strip() or not self._pursuit.resume(attempt, failure, ask):
            return False
        self._flush_whole(attempt)
        if self._cause is None:
            self._cause, self._first_id = refusal, spent.response_id
        self._continued |= self._seam is not None and self._seam.used
        self._said, self._seam = said, Seam(said, spent, self._first_id)
        return True

    def _so_far(self, attempt: Attempt) -> tuple[str, ReplyFacts] | None:
        """The text that the client has of the answer, and what it used; None if nobody can go on with it."""
        facts, decoder, seam = attempt.facts, attempt.decoder, self._seam
        if seam is not None and decoder is None:
            return self._said, seam.before  # who should have gone on has not even begun
        if facts is None or decoder is None or facts.tool_calls:
            return None
        answer = decoder.answer()
        if answer is None:
            return None
        return (answer, facts) if seam is None else (self._said + seam.joined(answer), seam.spent(facts))

    def _flush_whole(self, attempt: Attempt) -> None:
        """Pass on what came before the cut, without the upstream's own error event."""
        data = self._without_error(attempt)
        if data and attempt.decoder is not None:
            self._responder.write(self._seam.feed(data) if self._seam is not None else data)

    def _without_error(self, attempt: Attempt) -> bytes:
        parts = split_events(joined(attempt.parts))
        if attempt.told:
            parts = parts[: next((i for i, part in enumerate(parts) if b'"error"' in part), len(parts))]
            attempt.told = False
        attempt.parts.clear()
        return b"".join(parts)

    # Endings.

    def _refuse(self, attempt: Attempt) -> None:
        """Nobody could answer: the caller is told why the first one could not."""
        first = next((over for over in (*self._pursuit.tried, attempt) if over.refusal is not None), attempt)
        assert first.refusal is not None
        self._tell(attempt, first.refusal, shown=first)

    def _tell(self, attempt: Attempt, refusal: Refusal, shown: Attempt | None = None) -> None:
        """End with an error: as a reply if none was begun, else inside the stream."""
        told = self.envelope.endpoint, refusal.status, refusal.body, self.request_id
        if not self._responder.started:
            block = _JSON + refusal.head + self._ids_block(shown or attempt)
            self._record(attempt, refusal.outcome, refusal.status, error=refusal.word)
            self._responder.reply(refusal.status, block, reply_body(*told))
        elif attempt.aside is not None and self._seam is None:
            # There is no adding an error event to bytes that are passed on as they come.
            self._record(attempt, refusal.outcome, 200, error=refusal.word)
            self._responder.abort()
        else:
            self._record(attempt, refusal.outcome, 200, error=refusal.word)
            if self._seam is None:
                data = b"".join(attempt.parts)
            else:
                # The first cause is what counts, whatever whoever went on says.
                data = self._seam.feed(self._without_error(attempt)) if attempt.decoder is not None else b""
            if not attempt.told:
                data += last_event(*told)
            self._responder.finish(data)
        self._release()

    def _crashed(self, what: str) -> None:
        """A defect of ours: there may be no event, but the caller gets an end and nothing stays taken."""
        _log.exception(what)
        if self._released:
            return
        if self._pursuit.current is not None:
            self._pursuit.give_up()
        if self._reservation is not None:
            self._reservation.settle(tokens=None, usd=None)
        if self._responder.started:
            self._responder.abort()
        else:
            fault = ProxyError("Internal error.")
            body = reply_body(self.envelope.endpoint, fault.status, fault.body(), self.request_id)
            self._responder.reply(fault.status, _JSON + crossing.ids_block(self.request_id), body)
        self._release()

    def _release(self) -> None:
        self._released = True
        # Cut the cycle with the responder, so that reference counting frees both at once.
        self._responder.listener = None
        self._stop_hold()
        attempt = self._pursuit.close()
        if attempt is not None and attempt.call is not None:
            # Nobody is left to resume it when the client has read the last bytes.
            attempt.call.resume()
        self._shared.finished()

    # Pieces.

    def _stop_hold(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    def _forget_prompt(self) -> None:
        """A stream may last for minutes; what was asked is needed no more once it is being answered."""
        envelope = self.envelope
        self._request.body = envelope.raw = self._prepared.body = b""
        envelope.doc = {name: envelope.doc[name] for name in _KEPT_MEMBERS if name in envelope.doc}

    def _overhead_ms(self, now: float) -> float:
        """Our share of the time: everything but waiting for upstreams."""
        last = self._pursuit.current
        waited = (last.seen_at or now) - self._pursuit.sent_at if last is not None else 0.0
        return max(0.0, now - self._request.body_at - waited) * 1000

    def _ids_block(self, attempt: Attempt, overhead_ms: float | None = None) -> bytes:
        if overhead_ms is None:
            overhead_ms = (self._pursuit.sent_at - self._request.body_at) * 1000
        block = b"%b%bx-llm-optimizer-attempts: %d\r\nx-llm-optimizer-overhead-ms: %.3f\r\n" % (
            crossing.ids_block(self.request_id),
            attempt.arm.block,
            self._pursuit.made,
            overhead_ms,
        )
        if self._visit is not None:
            block += self._visit.block
        if self.envelope.endpoint == MESSAGES:
            block += crossing.messages_block(self.request_id, attempt.prepared.left_out)
        return block if self._reservation is None else block + self._reservation.headers

    def _head_block(self, attempt: Attempt, overhead_ms: float | None = None) -> bytes:
        head = attempt.head
        block = b"content-type: %b\r\n%b%b" % (
            head.content_type or b"application/json",
            head.block,
            self._ids_block(attempt, overhead_ms),
        )
        return block if head.encoding is None else block + b"content-encoding: %b\r\n" % head.encoding

    def _record(self, attempt: Attempt, outcome: str, status: int, error: str | None = None) -> float | None:
        self._recorded = True
        now = perf_counter()
        facts = attempt.read_facts()
        first = attempt.first_at
        body_at = self._request.body_at
        cost = self._shared.recorder.request(
            self.request_id,
            envelope=self.envelope,
            decision=self.decision,
            table_version=self._table_version,
            facts=facts,
            timing=Timing(
                started_ms=self.started_ms,
                duration_ms=(now - body_at) * 1000,
                overhead_ms=self._overhead_ms(now),
                upstream_ms=((attempt.seen_at or now) - self._pursuit.sent_at) * 1000,
                ttft_ms=(first - body_at) * 1000 if first else None,
                itl_ms=(attempt.last_at - first) * 1000 / attempt.gaps if attempt.gaps else None,
                chunks=attempt.chunks,
                trace=self._request.trace,
            ),
            ending=Ending(
                outcome=outcome,
                status=status,
                error=error,
                upstream_status=attempt.status or None,
                upstream_request_id=attempt.head.request_id,
                request_bytes=self._request_bytes,
                response_bytes=attempt.size,
            ),
            tried=self._rows(attempt, error) if self._pursuit.tried else (),
            continued=self._continued or (self._seam is not None and self._seam.used),
        )
        if self._reservation is not None:
            self._settle(attempt, facts, cost)
        return cost

    def _rows(self, last: Attempt, error: str | None) -> list[Tried]:
        """All attempts for the log, the one that served the caller last."""
        return [
            Tried(
                arm=over.arm,
                why=over.why,
                status=over.status or None,
                error=(over.refusal.word if over.refusal is not None else error)
                if over is last
                else (over.refusal.word if over.refusal is not None else "hedged"),
                ms=(over.seen_at - over.sent_at) * 1000 if over.seen_at else 0.0,
                facts=over.facts,
                randomised=over.why == events.FIRST and self.decision.randomised,
            )
            for over in (*(over for over in self._pursuit.tried if over is not last), last)
        ]

    def _settle(self, last: Attempt, facts: ReplyFacts | None, cost: float | None) -> None:
        assert self._reservation is not None
        known = [over.facts for over in (*self._pursuit.tried, last) if over.facts is not None]
        tokens = sum((seen.input_tokens or 0) + (seen.output_tokens or 0) for seen in known)
        self._reservation.settle(tokens=tokens if known else None, usd=cost if facts is not None else None)
