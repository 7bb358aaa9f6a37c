"""How a request gets in: the straight line from its body to its first attempt, and the ways it can end before.

parse, decide, look at the key's scopes, prepare, reserve, begin. All of it is synchronous, but for one case: when the
worker's share of a limit is used up, the request waits a few milliseconds for more. Whoever is refused is recorded.
"""

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter, time
from typing import Protocol

import orjson

from optimizer.ids import RequestIds
from optimizer.keys import ClientKey
from optimizer.routing import MESSAGES, Quota, Sampling
from proxy import headers as crossing
from proxy.admission.keyring import may_use
from proxy.admission.meter import Meters
from proxy.admission.parked import Parked, gone
from proxy.admission.rate_limited import RateLimited
from proxy.admission.reservation import Reservation
from proxy.cache.cache import ResponseCache
from proxy.cache.desk import Desk
from proxy.cache.visit import Arrival, Visit
from proxy.compiled import CompiledTable
from proxy.content import Sampler
from proxy.dispatch import Decision, decide
from proxy.envelope import Envelope, parse
from proxy.errors import ClientFault, Overloaded, ProxyError
from proxy.exchange import Exchange
from proxy.http1.messages import Request, Responder
from proxy.messages_errors import reply_body
from proxy.pricing import PER
from proxy.record import Ending, Recorder, Timing
from proxy.refusal import outcome_of_fault
from proxy.trace import TRACEPARENT, Tracer
from proxy.turn import Turn

JSON = b"content-type: application/json\r\n"
# Reserved for the reply of a request that does not say how long it may get.
_REPLY_TOKENS = 1024

_log = logging.getLogger("llm_optimizer.entrance")


class Shared(Protocol):
    """What all requests of a worker share."""

    recorder: Recorder
    turn: Turn
    meters: Meters
    ids: RequestIds
    table: CompiledTable | None
    guarded: bool
    in_flight: int
    buffered_reply_bytes: int
    sampler: Sampler | None
    cache: ResponseCache | None
    tracer: Tracer
    uniform: Callable[[], float]
    call_later: Callable[..., asyncio.TimerHandle]

    def finished(self) -> None: ...


class Entrance:
    """Lets requests in. One per worker."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._desk = Desk(self, shared.cache, shared.recorder) if shared.cache is not None else None

    def begin(self, endpoint: str, request: Request, responder: Responder) -> None:
        """Handle a request whose body is complete."""
        if responder.gone:
            return
        try:
            self._optimize(endpoint, request, responder)
        except Exception:  # noqa: BLE001  # whatever it is, the caller must not wait for ever
            self.crashed(endpoint, responder)

    def mint(self, request: Request, started_ms: int) -> str:
        """The request's id, which names the key that asked; it also gets its place in its trace."""
        tracer = self._shared.tracer
        if tracer.rate is not None or TRACEPARENT in request.headers:
            request.trace = tracer.begin(request.headers)
        caller: ClientKey | None = request.caller
        return self._shared.ids.mint(started_ms, caller.tag if caller is not None else 0)

    def refuse(
        self,
        fault: ProxyError,
        endpoint: str,
        request: Request,
        responder: Responder,
        *,
        request_id: str,
        started_ms: int,
        envelope: Envelope | None = None,
    ) -> None:
        """Answer a request that never got as far as an upstream, and record that it came."""
        shared = self._shared
        elapsed_ms = (perf_counter() - request.body_at) * 1000
        shared.recorder.undecided(
            request_id,
            endpoint=endpoint,
            envelope=envelope,
            table_version=shared.table.version if shared.table is not None else 0,
            timing=Timing(started_ms, elapsed_ms, elapsed_ms, trace=request.trace),
            ending=Ending(
                outcome=outcome_of_fault(fault),
                status=fault.status,
                error=fault.code,
                request_bytes=len(request.body),
            ),
        )
        advice = fault.headers if isinstance(fault, RateLimited) else crossing.retry_after(fault.status)
        block, body = JSON + crossing.ids_block(request_id) + advice, fault.body()
        if endpoint == MESSAGES:
            block += crossing.messages_block(request_id)
        responder.reply(fault.status, block, reply_body(endpoint, fault.status, body, request_id))

    def reserve(
        self,
        subjects: list[tuple[str, Quota]],
        responder: Responder,
        *,
        endpoint: str,
        tokens: int,
        usd: float | None,
        then: Callable[[Reservation | RateLimited, Parked | None], None],
    ) -> None:
        """Call ``then`` with what the limits say: at once, or when a parked request has its answer.

        A parked request whose client left is refused, and what was reserved for it goes back.
        """
        parked = Parked()

        def resume(outcome: Reservation | RateLimited) -> None:
            if responder.listener is parked:
                responder.listener = None
            if parked.gone or responder.gone:
                if isinstance(outcome, Reservation):
                    outcome.cancel()
                outcome = gone()
            try:
                then(outcome, parked)
            except Exception:  # noqa: BLE001  # see ``begin``
                if isinstance(outcome, Reservation):
                    outcome.cancel()
                self.crashed(endpoint, responder)

        outcome = self._shared.meters.admit(subjects, tokens=tokens, usd=usd, resume=resume)
        if outcome is None:
            responder.listener = parked
        else:
            then(outcome, None)

    def limits_of(self, arrival: Arrival) -> list[tuple[str, Quota]]:
        """Whose limits a request counts against."""
        return limited(arrival.request.caller, arrival.decision)

    def turn_away(self, fault: ProxyError, arrival: Arrival) -> None:
        """Answer a request that was decided and then refused, and record that it came."""
        self.refuse(
            fault,
            arrival.endpoint,
            arrival.request,
            arrival.responder,
            request_id=arrival.request_id,
            started_ms=arrival.started_ms,
            envelope=arrival.envelope,
        )

    def _optimize(self, endpoint: str, request: Request, responder: Responder) -> None:
        shared = self._shared
        table = shared.table
        started_ms = int(time() * 1000)
        request_id = self.mint(request, started_ms)
        envelope: Envelope | None = None
        decision: Decision | None = None
        try:
            if table is None:
                raise Overloaded("The proxy is starting: it has no routing table yet. Retry in a second.")
            envelope = parse(endpoint, request.body)
            if endpoint == MESSAGES:
                envelope.version = request.headers.get(b"anthropic-version")
                envelope.is_beta = request.query == "beta=true"
            decision = decide(
                table, envelope, request.headers, uniform=shared.uniform, guarded=shared.guarded
            )
            if request.caller is not None:
                route, pinned = decision.route, crossing.PIN in request.headers
                may_use(request.caller, route=route.name, plain=route.plain, pinned=pinned)
        except ProxyError as fault:
            if decision is not None and decision.watch is not None:
                decision.watch.rejected(decision.side.name)
            # Its traceback knows this frame: under a name that stays, it would be a cycle.
            self.refuse(
                fault,
                endpoint,
                request,
                responder,
                request_id=request_id,
                started_ms=started_ms,
                envelope=envelope,
            )
            return
        arrival = Arrival(
            endpoint, request, responder, request_id, started_ms, envelope, decision, table.version
        )
        if decision.route.caching is not None and self._desk is not None:
            self._desk.receive(arrival, lambda visit: self._proceed(arrival, visit))
        else:
            self._proceed(arrival, None)

    def _proceed(self, arrival: Arrival, visit: Visit | None) -> None:
        """Prepare the request for the arm that was decided, reserve, and begin."""
        request, responder = arrival.request, arrival.responder
        envelope, decision = arrival.envelope, arrival.decision
        arm = decision.arm
        try:
            prepared = arm.handle.codec.prepare(
                envelope, arm.arm, arm.model, arm.variant, arm.handle.upstream
            )
        except (ProxyError, orjson.JSONEncodeError) as error:
            if decision.watch is not None:
                decision.watch.rejected(decision.side.name)
            self.turn_away(error if isinstance(error, ProxyError) else _too_deep(), arrival)
            return
        exchange = Exchange(
            self._shared,
            request,
            responder,
            request_id=arrival.request_id,
            envelope=envelope,
            decision=decision,
            prepared=prepared,
            table_version=arrival.table_version,
            started_ms=arrival.started_ms,
        )
        if visit is not None:
            exchange.keep(visit)
        if decision.route.sampling is not None:
            self._sample(exchange, decision.route.sampling)
        caller = request.caller
        subjects = (
            limited(caller, decision) if caller is not None or decision.route.quota is not None else None
        )
        if subjects:
            self._reserve_for(exchange, subjects, arrival)
        else:
            self._start(exchange, responder)

    def _sample(self, exchange: Exchange, sampling: Sampling) -> None:
        """Draw for the judge whether the content of this request is kept."""
        sampler = self._shared.sampler
        if sampler is not None:
            asked = sampler.draw(
                sampling,
                exchange.decision,
                exchange.envelope,
                request_id=exchange.request_id,
                started_ms=exchange.started_ms,
                uniform=self._shared.uniform,
            )
            if asked is not None:
                exchange.sample(asked)

    def crashed(self, endpoint: str, responder: Responder) -> None:
        """To be called where an exception is handled that nobody expected."""
        _log.exception("a request could not be begun")
        if not responder.started:
            fault = ProxyError("Internal error.")
            # In no event, but whoever quotes it tells which worker it was, and when.
            request_id = self._shared.ids.mint(int(time() * 1000))
            block = JSON + crossing.ids_block(request_id)
            if endpoint == MESSAGES:
                block += crossing.messages_block(request_id)
            responder.reply(fault.status, block, reply_body(endpoint, fault.status, fault.body(), request_id))

    def _start(self, exchange: Exchange, responder: Responder) -> None:
        self._shared.in_flight += 1
        responder.listener = exchange
        exchange.begin()

    def _reserve_for(self, exchange: Exchange, subjects: list[tuple[str, Quota]], arrival: Arrival) -> None:
        def then(outcome: Reservation | RateLimited, parked: Parked | None) -> None:
            del parked  # The body is complete, so there was nothing more to keep.
            if isinstance(outcome, Reservation):
                exchange.reserve(outcome)
                self._start(exchange, arrival.responder)
            else:
                self.turn_away(outcome, arrival)

        tokens, usd = most_expected(arrival.envelope, arrival.decision)
        endpoint = arrival.endpoint
        self.reserve(subjects, arrival.responder, endpoint=endpoint, tokens=tokens, usd=usd, then=then)


def limited(caller: ClientKey | None, decision: Decision | None) -> list[tuple[str, Quota]]:
    """Whose limits the request counts against; mostly nobody's."""
    subjects = []
    if caller is not None and caller.quota is not None:
        subjects.append((f"key:{caller.id}", caller.quota))
    quota = decision.route.quota if decision is not None else None
    if decision is not None and quota is not None:
        subjects.append((f"route:{decision.route.name}", quota))
    return subjects


def most_expected(envelope: Envelope, decision: Decision) -> tuple[int, float | None]:
    """What the request may take: tokens, and USD at the decided arm's price (None if that is unknown)."""
    model = decision.arm.model
    reply = envelope.max_output_tokens or min(_REPLY_TOKENS, model.max_output_tokens or _REPLY_TOKENS)
    tokens = envelope.input_tokens_estimate + reply
    price = model.price
    if price is None:
        return tokens, None
    usd = price.request_usd + (envelope.input_tokens_estimate * price.input + reply * price.output) / PER
    return tokens, usd


def _too_deep() -> ClientFault:
    # What can be read may still be nested too deeply to be written again.
    return ClientFault("The request is nested too deeply to be rewritten.", code="invalid_json")
