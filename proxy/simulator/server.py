"""The simulator's HTTP side: an aiohttp application over ``performance`` and ``shapes``.

Invariant: a simulated model's delays are waited for here and nowhere else, divided by ``speed``; a caller
that hangs up ends its request at once.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from proxy.simulator import responses_shape, shapes
from proxy.simulator.asked import (
    Asked,
    Refusal,
    read_body,
    read_chat,
    read_completion,
    read_embeddings,
    read_response,
)
from proxy.simulator.performance import Occurrences, Performance, draw_source, perform
from proxy.simulator.profiles import Fault, ModelProfile

Unary = Callable[[Asked, Sequence[Performance], str, int], dict[str, Any]]
Events = Callable[[Asked, Sequence[Performance], str, int], Iterator[bytes]]

MAX_BODY = 64 * 1024 * 1024
SHORTEST_WAIT_S = 0.001


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How one endpoint reads its body and writes its replies."""

    prefix: str
    read: Callable[[Mapping[str, Any]], Asked]
    unary: Unary
    events: Events


ENDPOINTS: Mapping[str, Endpoint] = {
    "/v1/chat/completions": Endpoint("chatcmpl-", read_chat, shapes.chat, shapes.chat_events),
    "/v1/completions": Endpoint("cmpl-", read_completion, shapes.completion, shapes.completion_events),
    "/v1/responses": Endpoint(
        "resp_",
        read_response,
        lambda asked, acts, reply_id, now: responses_shape.response(asked, acts[0], reply_id, now),
        lambda asked, acts, reply_id, now: responses_shape.response_events(asked, acts[0], reply_id, now),
    ),
}


@dataclass(slots=True)
class Simulator:
    """Serves several simulated models.

    ``speed`` divides every delay (0 means no delays at all); ``clock`` gives Unix seconds for ``created``.
    """

    profiles: Sequence[ModelProfile]
    seed: int = 0
    speed: float = 1.0
    clock: Callable[[], float] = time.time
    occurrences: Occurrences = field(default_factory=Occurrences)

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_refusals])
        for path, endpoint in ENDPOINTS.items():
            app.router.add_post(path, self._handler(endpoint))
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model}", self._model)
        app.router.add_get("/health", self._health)
        return app

    def _handler(self, endpoint: Endpoint) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            asked = endpoint.read(read_body(body))
            profile = self._profile(asked.model)
            rng = draw_source(self.seed, asked.model, body, self.occurrences.next(body))
            reply_id = f"{endpoint.prefix}{rng.getrandbits(112):028x}"
            acts = [perform(profile, asked.task, rng) for _ in range(asked.choices)]
            created = int(self.clock())
            headers = {"x-request-id": f"sim_{reply_id[-16:]}"}
            fault = acts[0].fault
            if fault is not None and fault.kind == "status":
                await self._wait(acts[0].ttft_s)
                return _faulty(fault, headers)
            if asked.stream:
                events = endpoint.events(asked, acts, reply_id, created)
                return await self._stream(request, acts, list(events), headers)
            document = endpoint.unary(asked, acts, reply_id, created)
            longest = max(len(act.pieces) for act in acts)
            await self._wait(acts[0].ttft_s + longest * acts[0].token_s)
            return await _unary(request, document, headers, is_cut=fault is not None)

        return handle

    async def _stream(
        self,
        request: web.Request,
        acts: Sequence[Performance],
        events: list[bytes],
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        """Send events at the model's pace; events that are due together go out together."""
        if acts[0].fault is not None:
            events = events[: len(events) // 2]
        response = web.StreamResponse(headers={**headers, "content-type": "text/event-stream; charset=utf-8"})
        await self._wait(acts[0].ttft_s)
        await response.prepare(request)
        started = time.monotonic()
        pending: list[bytes] = []
        for number, line in enumerate(events):
            left = self._scaled(number * acts[0].token_s) - (time.monotonic() - started)
            if left > SHORTEST_WAIT_S and pending:
                await response.write(b"".join(pending))
                pending.clear()
                await asyncio.sleep(left)
            pending.append(line)
        await response.write(b"".join(pending))
        if acts[0].fault is not None:
            _cut(request)
            return response
        await response.write_eof()
        return response

    async def _embeddings(self, request: web.Request) -> web.Response:
        asked = read_embeddings(read_body(await request.read()))
        profile = self._profile(asked.model)
        await self._wait(profile.ttft_ms / 1000)
        return web.json_response(shapes.embeddings(asked))

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [_card(profile) for profile in self.profiles]})

    async def _model(self, request: web.Request) -> web.Response:
        return web.json_response(_card(self._profile(request.match_info["model"])))

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "models": len(self.profiles)})

    def _profile(self, model: str) -> ModelProfile:
        for profile in self.profiles:
            if profile.id == model:
                return profile
        raise Refusal(404, f"The model '{model}' does not exist.", code="model_not_found", param="model")

    def _scaled(self, seconds: float) -> float:
        return seconds / self.speed if self.speed > 0 else 0.0

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(self._scaled(seconds))


def _card(profile: ModelProfile) -> dict[str, Any]:
    return {"id": profile.id, "object": "model", "created": 1735689600, "owned_by": "simulator"}


def _faulty(fault: Fault, headers: Mapping[str, str]) -> web.Response:
    refusal = Refusal(fault.status, f"Simulated fault {fault.status}.", code="simulated_fault")
    extra = {"retry-after": "1"} if fault.status == 429 else {}
    return web.json_response(refusal.document(), status=fault.status, headers={**headers, **extra})


async def _unary(
    request: web.Request, document: Mapping[str, Any], headers: Mapping[str, str], *, is_cut: bool
) -> web.StreamResponse:
    whole = web.json_response(document, headers=headers)
    if not is_cut:
        return whole
    assert isinstance(whole.body, bytes)
    half = web.StreamResponse(headers={**headers, "content-type": "application/json"})
    half.content_length = len(whole.body)
    await half.prepare(request)
    await half.write(whole.body[: len(whole.body) // 2])
    _cut(request)
    return half


def _cut(request: web.Request) -> None:
    """Drop the connection so that the caller sees an incomplete reply."""
    if request.transport is not None:
        request.transport.close()


@web.middleware
async def _refusals(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    try:
        reply: web.StreamResponse = await handler(request)
    except Refusal as refusal:
        return web.json_response(refusal.document(), status=refusal.status)
    except web.HTTPNotFound:
        unknown = Refusal(404, f"Unknown request URL: {request.method} {request.path}.", code="unknown_url")
        return web.json_response(unknown.document(), status=404)
    except web.HTTPMethodNotAllowed:
        unfit = Refusal(405, f"Not allowed to {request.method} on {request.path}.")
        return web.json_response(unfit.document(), status=405)
    return reply


async def run(
    simulator: Simulator, *, host: str, port: int, on_ready: Callable[[int], None], stop: asyncio.Event
) -> None:
    """Serve until ``stop`` is set. ``on_ready`` gets the port that was taken (0 asks for a free one)."""
    runner = web.AppRunner(
        simulator.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        on_ready(int(runner.addresses[0][1]))
        await stop.wait()
    finally:
        await runner.cleanup()
