"""The data plane's application: which path means what, and the straight line of an optimized request.

Implements ``proxy.http1.messages.Application``. Everything is synchronous; a handler either replies at
once or hands the request to an ``Exchange`` or a ``Relay``. One table is read per request.
"""

import logging
from collections.abc import Callable, Mapping
from time import perf_counter, time
from typing import Protocol
from urllib.parse import unquote

import orjson

from optimizer.ids import RequestIds
from optimizer.routing import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, RoutingTable
from proxy import headers as crossing
from proxy.compiled import CompiledTable
from proxy.dispatch import decide
from proxy.envelope import Envelope, parse
from proxy.errors import ClientFault, Overloaded, ProxyError, Unavailable, error_body
from proxy.exchange import Exchange
from proxy.http1.messages import BodyMode, Request, Responder
from proxy.passthrough import check_method, check_path, pass_through
from proxy.record import Ending, Recorder, Timing
from proxy.refusal import outcome_of_fault
from proxy.turn import Turn

_log = logging.getLogger("llm_optimizer.app")

JSON = b"content-type: application/json\r\n"
OPTIMIZED: Mapping[str, str] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/responses": RESPONSES,
}
_LOCAL: Mapping[str, tuple[str, ...]] = {
    "/v1/models": ("GET", "HEAD"),
    "/v1/feedback": ("POST",),
    "/health": ("GET", "HEAD"),
    "/health/live": ("GET", "HEAD"),
    "/health/ready": ("GET", "HEAD"),
}
_ONE_MODEL = "/v1/models/"
_SERVED_HERE = frozenset((*OPTIMIZED, *_LOCAL))


class AdminPlane(Protocol):
    """Where the paths of the optimizer process go."""

    def owns(self, path: str) -> bool: ...

    def forward(self, request: Request, responder: Responder) -> None: ...


class Feedback(Protocol):
    """Who takes ``POST /v1/feedback``."""

    def post(self, request: Request, responder: Responder) -> None: ...


class DataPlane:
    """Routes requests of the public listener. ``table`` is swapped whole by the worker."""

    def __init__(
        self,
        *,
        ids: RequestIds,
        recorder: Recorder,
        admin: AdminPlane,
        feedback: Feedback,
        uniform: Callable[[], float],
        turn: Turn,
    ) -> None:
        self.recorder = recorder
        self.turn = turn
        self.table: CompiledTable | None = None
        self.guarded = False
        self.draining = False
        self.buffered_reply_bytes = 1024 * 1024
        self.in_flight = 0
        self._ids = ids
        self._admin = admin
        self._feedback = feedback
        self._uniform = uniform
        self._models = b""

    def use(self, table: CompiledTable) -> None:
        """Swap the table; requests under way keep the one they began with."""
        self.table = table
        self.buffered_reply_bytes = table.source.limits.buffered_reply_bytes
        self._models = _models_body(table.source)

    def body_mode(self, request: Request) -> BodyMode:
        path = request.path
        if path in OPTIMIZED:
            return BodyMode.BUFFER
        if path.startswith("/v1/") and path not in _LOCAL and not path.startswith(_ONE_MODEL):
            return BodyMode.STREAM
        return BodyMode.BUFFER

    def handle(self, request: Request, responder: Responder) -> None:
        path = request.path
        endpoint = OPTIMIZED.get(path)
        if endpoint is not None and request.method == "POST":
            self.turn.do(self._begin, endpoint, request, responder)
            return
        if self._admin.owns(path):
            self._admin.forward(request, responder)
            return
        allowed = ("POST", "OPTIONS") if endpoint is not None else _LOCAL.get(path)
        if path.startswith(_ONE_MODEL):
            allowed = ("GET", "HEAD")
        if allowed is not None:
            self._local(path, allowed, request, responder)
        elif path.startswith("/v1/"):
            self._pass_through(request, responder)
        else:
            responder.reply(
                404,
                JSON,
                error_body(
                    f"Nothing is served at {path[:200]!r}. The API lives below /v1.",
                    kind="invalid_request_error",
                    code="not_found",
                ),
            )

    def finished(self) -> None:
        """A request has recorded its event and needs nothing more."""
        self.in_flight -= 1

    def _begin(self, endpoint: str, request: Request, responder: Responder) -> None:
        if responder.gone:
            return
        try:
            self._optimize(endpoint, request, responder)
        except Exception:  # noqa: BLE001  # whatever it is, the caller must not wait for ever
            _log.exception("a request could not be begun")
            if not responder.started:
                fault = ProxyError("Internal error.")
                responder.reply(fault.status, JSON, fault.body())

    def _optimize(self, endpoint: str, request: Request, responder: Responder) -> None:
        table = self.table
        started_ms = int(time() * 1000)
        request_id = self._ids.mint(started_ms)
        envelope: Envelope | None = None
        try:
            if table is None:
                raise Overloaded("The proxy is starting: it has no routing table yet. Retry in a second.")
            envelope = parse(endpoint, request.body)
            decision = decide(table, envelope, request.headers, uniform=self._uniform, guarded=self.guarded)
            arm = decision.arm
            prepared = arm.handle.codec.prepare(
                envelope, arm.arm, arm.model, arm.variant, arm.handle.upstream
            )
        except ProxyError as fault:
            self._refuse(fault, endpoint, envelope, request, responder, request_id, started_ms)
            return
        except orjson.JSONEncodeError:
            # What can be read may still be nested too deeply to be written again.
            deep = ClientFault("The request is nested too deeply to be rewritten.", code="invalid_json")
            self._refuse(deep, endpoint, envelope, request, responder, request_id, started_ms)
            return
        exchange = Exchange(
            self,
            request,
            responder,
            request_id=request_id,
            envelope=envelope,
            decision=decision,
            prepared=prepared,
            table_version=table.version,
            started_ms=started_ms,
        )
        self.in_flight += 1
        responder.listener = exchange
        exchange.begin()

    def _refuse(
        self,
        fault: ProxyError,
        endpoint: str,
        envelope: Envelope | None,
        request: Request,
        responder: Responder,
        request_id: str,
        started_ms: int,
    ) -> None:
        """Answer a request that never got as far as an upstream, and record that it came."""
        elapsed_ms = (perf_counter() - request.body_at) * 1000
        self.recorder.undecided(
            request_id,
            endpoint=endpoint,
            envelope=envelope,
            table_version=self.table.version if self.table is not None else 0,
            timing=Timing(started_ms, elapsed_ms, elapsed_ms),
            ending=Ending(
                outcome=outcome_of_fault(fault),
                status=fault.status,
                error=fault.code,
                request_bytes=len(request.body),
            ),
        )
        block = JSON + crossing.ids_block(request_id) + crossing.retry_after(fault.status)
        responder.reply(fault.status, block, fault.body())

    def _local(self, path: str, allowed: tuple[str, ...], request: Request, responder: Responder) -> None:
        method = request.method
        if method == "OPTIONS":
            responder.reply(204, _allow(allowed), b"")
        elif method not in allowed:
            responder.reply(
                405,
                JSON + _allow(allowed),
                error_body(
                    f"{path[:200]} takes {', '.join(allowed)}, not {method}.",
                    kind="invalid_request_error",
                    code="method_not_allowed",
                ),
            )
        elif path == "/v1/models":
            responder.reply(200, JSON, self._models)
        elif path.startswith(_ONE_MODEL):
            self._model(path, responder)
        elif path == "/v1/feedback":
            self._feedback.post(request, responder)
        else:
            self._health(path, responder)

    def _health(self, path: str, responder: Responder) -> None:
        ready = self.table is not None and not self.draining
        if path == "/health/live":
            responder.reply(200, JSON, b'{"status":"alive"}')
        elif path == "/health/ready":
            state = "ready" if ready else "draining" if self.draining else "starting"
            responder.reply(200 if ready else 503, JSON, orjson.dumps({"status": state}))
        else:
            responder.reply(200, JSON, orjson.dumps({"status": "healthy" if ready else "degraded"}))

    def _model(self, path: str, responder: Responder) -> None:
        name = unquote(path.removeprefix(_ONE_MODEL))
        table = self.table
        if table is not None and table.resolve(name) is not None:
            responder.reply(200, JSON, orjson.dumps(_model_object(name, table.source)))
        else:
            responder.reply(
                404,
                JSON,
                error_body(
                    f"The model {name[:200]!r} does not exist here.",
                    kind="invalid_request_error",
                    code="model_not_found",
                    param="model",
                ),
            )

    def _pass_through(self, request: Request, responder: Responder) -> None:
        started_ms = int(time() * 1000)
        request_id = self._ids.mint(started_ms)
        table = self.table
        try:
            check_method(request.method)
            check_path(request.path, _SERVED_HERE)
            handle = table.passthrough_handle(request.path) if table is not None else None
            if table is None or handle is None:
                raise ClientFault(
                    f"{request.path[:200]} is not optimized and the configuration names no upstream "
                    "for it (passthrough).",
                    status=404,
                    code="no_passthrough",
                )
            if handle.missing is not None:
                raise Unavailable(f"Upstream {handle.upstream.name!r}: {handle.missing}.")
        except ProxyError as fault:
            self._refuse(fault, "other", None, request, responder, request_id, started_ms)
            return
        self.in_flight += 1
        pass_through(
            request,
            responder,
            handle,
            request_id=request_id,
            recorder=self.recorder,
            table_version=table.version,
            finished=self.finished,
        )


def _allow(methods: tuple[str, ...]) -> bytes:
    return b"allow: " + ", ".join(methods).encode() + b"\r\n"


def _model_object(name: str, table: RoutingTable) -> dict[str, object]:
    is_route = any(route.name == name for route in table.routes)
    return {
        "id": name,
        "object": "model",
        "created": int(table.published_at),
        "owned_by": "llm-optimizer" if is_route else "upstream",
    }


def _models_body(table: RoutingTable) -> bytes:
    names = [route.name for route in table.routes]
    names += [model.name for model in table.models if model.name not in set(names)]
    return orjson.dumps({"object": "list", "data": [_model_object(name, table) for name in names]})
