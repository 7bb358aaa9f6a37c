"""Where requests of routes that keep answers go before an upstream is asked: they get one, or go on with a ``Visit``.

A hit counts against its caller's limits as a request without tokens or cost, is recorded before its last bytes are
sent, like every request, and teaches nothing.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from optimizer import events
from optimizer.routing import MESSAGES, Quota
from proxy import headers as crossing
from proxy.admission.parked import Parked, gone
from proxy.admission.rate_limited import RateLimited
from proxy.admission.reservation import Reservation
from proxy.cache.cache import ResponseCache
from proxy.cache.entry import Entry
from proxy.cache.visit import Arrival, Visit
from proxy.http1.messages import Responder
from proxy.record import Ending, Recorder, Timing


class Host(Protocol):
    """What the desk needs of the entrance."""

    def reserve(
        self,
        subjects: list[tuple[str, Quota]],
        responder: Responder,
        *,
        endpoint: str,
        tokens: int,
        usd: float | None,
        then: Callable[[Reservation | RateLimited, Parked | None], None],
    ) -> None: ...

    def limits_of(self, arrival: Arrival) -> list[tuple[str, Quota]]: ...

    def turn_away(self, fault: RateLimited, arrival: Arrival) -> None: ...

    def crashed(self, endpoint: str, responder: Responder) -> None: ...


class Desk:
    """Sees every request of a route that keeps answers. One per worker."""

    def __init__(self, host: Host, cache: ResponseCache, recorder: Recorder) -> None:
        self._host = host
        self._cache = cache
        self._recorder = recorder

    def receive(self, arrival: Arrival, go_on: Callable[[Visit], None]) -> None:
        """Answer the request, or call ``go_on``: at once, or when another store has been asked."""
        visit, entry = self._cache.visit(arrival)
        if visit.further:
            self._ask(arrival, visit, go_on)
        else:
            self._serve(arrival, visit, entry, go_on)

    def _ask(self, arrival: Arrival, visit: Visit, go_on: Callable[[Visit], None]) -> None:
        responder, parked = arrival.responder, Parked()

        def found(entry: Entry | None) -> None:
            if responder.listener is parked:
                responder.listener = None
            try:
                if parked.gone or responder.gone:
                    self._host.turn_away(gone(), arrival)
                else:
                    self._serve(arrival, visit, entry, go_on)
            except Exception:  # noqa: BLE001  # whatever it is, the caller must not wait for ever
                self._host.crashed(arrival.endpoint, responder)

        responder.listener = parked
        self._cache.ask(arrival, visit, found)

    def _serve(
        self, arrival: Arrival, visit: Visit, entry: Entry | None, go_on: Callable[[Visit], None]
    ) -> None:
        if entry is None:
            go_on(visit)
            return

        def then(outcome: Reservation | RateLimited, parked: Parked | None) -> None:
            del parked  # The body is complete, so there was nothing more to keep.
            if isinstance(outcome, RateLimited):
                self._host.turn_away(outcome, arrival)
            else:
                outcome.settle(tokens=0, usd=0.0)
                self._answer(arrival, visit, entry, outcome.headers)

        subjects = self._host.limits_of(arrival)
        if subjects:
            endpoint = arrival.endpoint
            self._host.reserve(subjects, arrival.responder, endpoint=endpoint, tokens=0, usd=0.0, then=then)
        else:
            self._answer(arrival, visit, entry, b"")

    def _answer(self, arrival: Arrival, visit: Visit, entry: Entry, limits: bytes) -> None:
        """Give the caller what was kept, as it was sent."""
        request, side = arrival.request, arrival.decision.side
        arm = side.arms[side.ids.index(entry.arm)]
        took_ms = (perf_counter() - request.body_at) * 1000
        self._recorder.cached(
            arrival.request_id,
            envelope=arrival.envelope,
            decision=arrival.decision,
            arm=arm,
            answered=entry.request_id,
            table_version=arrival.table_version,
            timing=Timing(arrival.started_ms, took_ms, took_ms, trace=request.trace),
            ending=Ending(
                outcome=events.COMPLETED,
                status=200,
                request_bytes=len(request.body),
                response_bytes=len(entry.body),
            ),
        )
        block = (
            b"content-type: %b\r\n%b%bx-llm-optimizer-attempts: 0\r\nx-llm-optimizer-overhead-ms: %.3f\r\n%b%b"
            % (
                entry.content_type,
                crossing.ids_block(arrival.request_id),
                arm.block,
                took_ms,
                visit.block,
                limits,
            )
        )
        if arrival.endpoint == MESSAGES:
            block += crossing.messages_block(arrival.request_id, entry.left_out)
        responder = arrival.responder
        if entry.stream:
            responder.start(200, block, None)
            responder.finish(entry.body)
        else:
            responder.reply(200, block + b"x-llm-optimizer-cost-usd: 0\r\n", entry.body)
