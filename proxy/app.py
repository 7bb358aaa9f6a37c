"""The data plane's application: which path means what.

Implements ``proxy.http1.messages.Application``. A handler either replies at once or hands the request to the
``Entrance`` of optimized ones or to a ``Relay``. Every path below /v1 asks for a client key while keys are on.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import time
from typing import Protocol
from urllib.parse import unquote

import orjson

from optimizer.ids import RequestIds
from optimizer.keys import ClientKey
from optimizer.routing import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES, RoutingTable
from proxy import headers as crossing
from proxy.admission.keyring import Keyring, may_pass_through, may_see
from proxy.admission.meter import Meters
from proxy.admission.parked import Parked
from proxy.admission.rate_limited import RateLimited
from proxy.admission.reservation import Reservation
from proxy.cache.cache import ResponseCache
from proxy.compiled import CompiledTable, UpstreamHandle
from proxy.content import Sampler
from proxy.counting import count_tokens
from proxy.entrance import JSON, Entrance, limited
from proxy.errors import ClientFault, Overloaded, ProxyError, Unavailable, error_body
from proxy.http1.messages import BodyMode, Request, Responder
from proxy.messages_errors import COUNT_PATH, PATH, messages_error
from proxy.passthrough import check_method, check_path, pass_through
from proxy.record import Recorder
from proxy.trace import Tracer
from proxy.turn import Turn

OPTIMIZED: Mapping[str, str] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/responses": RESPONSES,
    PATH: MESSAGES,
}
_LOCAL: Mapping[str, tuple[str, ...]] = {
    "/v1/models": ("GET", "HEAD"),
    "/v1/feedback": ("POST",),
    COUNT_PATH: ("POST", "OPTIONS"),
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


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may come in, and how far."""

    keyring: Keyring
    meters: Meters


class DataPlane:
    """Routes requests of the public listener. ``table`` is swapped whole by the worker."""

    def __init__(
        self,
        *,
        ids: RequestIds,
        recorder: Recorder,
        admin: AdminPlane,
        feedback: Feedback,
        admission: Admission,
        uniform: Callable[[], float],
        turn: Turn,
        call_later: Callable[..., asyncio.TimerHandle],
        sampler: Sampler | None = None,
        cache: ResponseCache | None = None,
    ) -> None:
        self.recorder = recorder
        self.tracer = Tracer()
        self.sampler = sampler
        self.cache = cache
        self.meters = admission.meters
        self.turn = turn
        self.ids = ids
        self.uniform = uniform
        self.call_later = call_later
        self.table: CompiledTable | None = None
        self.guarded = False
        self.draining = False
        self.buffered_reply_bytes = 1024 * 1024
        self.in_flight = 0
        self._admin = admin
        self._feedback = feedback
        self._keyring = admission.keyring
        self._entrance = Entrance(self)
        self._models = b""

    def use(self, table: CompiledTable) -> None:
        """Swap the table; requests under way keep the one they began with."""
        self.table = table
        self.buffered_reply_bytes = table.source.limits.buffered_reply_bytes
        self.turn.shedder.target_s = table.source.limits.shed_delay_s
        self.tracer.rate = table.source.trace_rate
        self._models = _models_body(table.source)
        if self.cache is not None:
            self.cache.use(table)

    def body_mode(self, request: Request) -> BodyMode:
        try:
            return self._body_mode(request)
        except ProxyError as error:
            if request.path.startswith(PATH):
                error.render = _as_messages
            raise

    def _body_mode(self, request: Request) -> BodyMode:
        path = request.path
        if path.startswith("/v1/"):
            # Before the body, so that nobody makes us hold one without a key.
            request.caller = self._keyring.identify(request.headers)
        if path in OPTIMIZED:
            if request.headers.get(b"content-encoding", b"identity") != b"identity":
                raise ClientFault(
                    "Send the body without a content-encoding: it has to be read here.",
                    status=415,
                    code="unsupported_content_encoding",
                )
            return BodyMode.BUFFER if self.turn.takes() else _declined(path)
        if path == COUNT_PATH:
            return BodyMode.BUFFER if self.turn.takes() else _declined(path)
        if path.startswith("/v1/") and path not in _LOCAL and not path.startswith(_ONE_MODEL):
            return BodyMode.STREAM if self.turn.takes() else BodyMode.DECLINE
        return BodyMode.BUFFER

    def essential(self, request: Request) -> bool:
        return self._admin.owns(request.path)

    def refusal_headers(self) -> bytes:
        # In no event, but whoever quotes it tells which worker it was, and when.
        return crossing.ids_block(self.ids.mint(int(time() * 1000)))

    def handle(self, request: Request, responder: Responder) -> None:
        path = request.path
        endpoint = OPTIMIZED.get(path)
        if endpoint is not None and request.method == "POST":
            self.turn.do(self._entrance.begin, endpoint, request, responder)
            return
        if self._admin.owns(path):
            self._admin.forward(request, responder)
            return
        if path == COUNT_PATH and request.method == "POST":
            self.turn.do(self._count_tokens, request, responder)
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

    def _local(self, path: str, allowed: tuple[str, ...], request: Request, responder: Responder) -> None:
        method = request.method
        if method == "OPTIONS":
            responder.reply(204, _allow(allowed), b"")
        elif method not in allowed:
            message = f"{path[:200]} takes {', '.join(allowed)}, not {method}."
            body = error_body(message, kind="invalid_request_error", code="method_not_allowed")
            if path in (PATH, COUNT_PATH):
                body = _as_messages(405, body)
            responder.reply(405, JSON + _allow(allowed), body)
        elif path == "/v1/models":
            responder.reply(
                200, JSON, self._models if request.caller is None else self._models_of(request.caller)
            )
        elif path.startswith(_ONE_MODEL):
            self._model(path, request.caller, responder)
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

    def _models_of(self, key: ClientKey) -> bytes:
        """What one key may use."""
        table = self.table
        if table is None:
            return self._models

        def shown(name: str) -> bool:
            route = table.resolve(name)
            return route is not None and may_see(key, route=route.name, plain=route.plain)

        return _models_body(table.source, shown)

    def _model(self, path: str, key: ClientKey | None, responder: Responder) -> None:
        name = unquote(path.removeprefix(_ONE_MODEL))
        table = self.table
        route = table.resolve(name) if table is not None else None
        seen = route is not None and (key is None or may_see(key, route=route.name, plain=route.plain))
        if table is not None and seen:
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

    def _count_tokens(self, request: Request, responder: Responder) -> None:
        if responder.gone:
            return
        started_ms = int(time() * 1000)
        entrance = self._entrance
        request_id = entrance.mint(request, started_ms)

        def refuse(fault: ProxyError) -> None:
            entrance.refuse(fault, MESSAGES, request, responder, request_id=request_id, started_ms=started_ms)

        def begin(outcome: Reservation | RateLimited | None, parked: Parked | None) -> None:
            del parked  # The body is complete, so there was nothing more to keep.
            if isinstance(outcome, RateLimited):
                refuse(outcome)
                return
            if outcome is not None:
                outcome.settle(tokens=None, usd=None)
            self.in_flight += 1
            try:
                count_tokens(
                    request,
                    responder,
                    self.table,
                    request_id=request_id,
                    recorder=self.recorder,
                    finished=self.finished,
                )
            except ProxyError as fault:
                self.finished()
                refuse(fault)
            except Exception:  # noqa: BLE001  # whatever it is, the caller must not wait for ever
                self.finished()
                entrance.crashed(MESSAGES, responder)

        subjects = limited(request.caller, None)
        if subjects:
            entrance.reserve(subjects, responder, endpoint=MESSAGES, tokens=0, usd=0.0, then=begin)
        else:
            begin(None, None)

    def _pass_through(self, request: Request, responder: Responder) -> None:
        started_ms = int(time() * 1000)
        entrance = self._entrance
        request_id = entrance.mint(request, started_ms)

        def refuse(fault: ProxyError) -> None:
            entrance.refuse(fault, "other", request, responder, request_id=request_id, started_ms=started_ms)

        def then(outcome: Reservation | RateLimited, parked: Parked | None) -> None:
            if isinstance(outcome, RateLimited):
                refuse(outcome)
                return
            # What these paths use is not known, so the request itself is all that is counted.
            outcome.settle(tokens=None, usd=None)
            self._carry(request, responder, handle, request_id)
            if parked is not None:
                _replay(parked, responder)

        try:
            handle = self._passthrough_handle(request)
        except ProxyError as fault:
            refuse(fault)
            return
        subjects = limited(request.caller, None)
        if subjects:
            entrance.reserve(subjects, responder, endpoint="other", tokens=0, usd=0.0, then=then)
        else:
            self._carry(request, responder, handle, request_id)

    def _passthrough_handle(self, request: Request) -> UpstreamHandle:
        check_method(request.method)
        check_path(request.path, _SERVED_HERE)
        if request.caller is not None:
            may_pass_through(request.caller)
        handle = self.table.passthrough_handle(request.path) if self.table is not None else None
        if handle is None:
            raise ClientFault(
                f"{request.path[:200]} is not optimized and the configuration names no upstream "
                "for it (passthrough).",
                status=404,
                code="no_passthrough",
            )
        if handle.missing is not None:
            raise Unavailable(f"Upstream {handle.upstream.name!r}: {handle.missing}.")
        return handle

    def _carry(self, request: Request, responder: Responder, handle: UpstreamHandle, request_id: str) -> None:
        self.in_flight += 1
        pass_through(
            request,
            responder,
            handle,
            request_id=request_id,
            recorder=self.recorder,
            table_version=self.table.version if self.table is not None else 0,
            finished=self.finished,
        )


def _replay(parked: Parked, responder: Responder) -> None:
    """Hand what came while the request was parked to whoever listens now."""
    listener = responder.listener
    if listener is None:
        return
    for data in parked.body:
        listener.client_body(data)
    if parked.ended:
        listener.client_end()


def _declined(path: str) -> BodyMode:
    if path.startswith(PATH):
        # The engine's own words for it have another shape.
        raise Overloaded("The proxy has more requests than it can serve. Retry after a second.")
    return BodyMode.DECLINE


def _as_messages(status: int, body: bytes) -> bytes:
    """An error of a request that has no id yet."""
    return messages_error(status, body, "")


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


def _models_body(table: RoutingTable, shown: Callable[[str], bool] = lambda name: True) -> bytes:
    names = dict.fromkeys([route.name for route in table.routes] + [model.name for model in table.models])
    return orjson.dumps(
        {"object": "list", "data": [_model_object(name, table) for name in names if shown(name)]}
    )
