"""``POST /v1/messages/count_tokens``: how many tokens a Messages request would take in.

A route with an arm at an Anthropic API has it counted there: by the baseline if it is one, else by the first.
Nothing is optimized or learned. Without such an arm the answer is an estimate from the size of the request, and says
so: the header ``x-llm-optimizer-token-count`` is ``estimated`` instead of ``counted``.
"""

from collections.abc import Callable
from typing import Final

import orjson

from optimizer import events
from optimizer.routing import MESSAGES
from proxy import headers as crossing
from proxy.admission.keyring import may_use
from proxy.compiled import CompiledArm, CompiledRoute, CompiledTable
from proxy.envelope import Envelope, parse, rewrite
from proxy.errors import ModelNotFound, Overloaded, ProxyError
from proxy.http1.messages import Request, Responder
from proxy.messages_errors import messages_error
from proxy.passthrough import closing_of, withholding
from proxy.providers.anthropic import VERSION, messages_target
from proxy.record import Recorder
from proxy.relay import Relay

_JSON: Final = b"content-type: application/json\r\n"
_HOW: Final = b"x-llm-optimizer-token-count: %b\r\n"


def counter_of(route: CompiledRoute, envelope: Envelope) -> CompiledArm | None:
    """Who counts for ``route``; None when nobody there can."""
    side = route.control
    named = side.index_of(envelope.model) if envelope.model != route.name else None
    baseline = side.arms[side.baseline if named is None else named]

    def counts(arm: CompiledArm) -> bool:
        return MESSAGES in arm.handle.codec.native and arm.handle.missing is None

    if counts(baseline):
        return baseline
    # The caller's own credential belongs to one origin.
    if baseline.handle.passthrough_auth:
        return None
    return next((arm for arm in side.arms if counts(arm) and not arm.handle.passthrough_auth), None)


def count_tokens(
    request: Request,
    responder: Responder,
    table: CompiledTable | None,
    *,
    request_id: str,
    recorder: Recorder,
    finished: Callable[[], None],
) -> None:
    """Answer one request; then ``finished`` is called.

    Raises:
        ProxyError: It was not begun, and ``finished`` is not called.
    """
    if table is None:
        raise Overloaded("The proxy is starting: it has no routing table yet. Retry in a second.")
    envelope = parse(MESSAGES, request.body, needs_limit=False)
    route = table.resolve(envelope.model)
    if route is None:
        raise ModelNotFound(envelope.model)
    if request.caller is not None:
        may_use(request.caller, route=route.name, plain=route.plain, pinned=False)
    ids = crossing.ids_block(request_id) + crossing.messages_block(request_id)
    arm = counter_of(route, envelope)
    if arm is None:
        count = max(1, envelope.input_tokens_estimate)
        responder.reply(200, _JSON + ids + _HOW % b"estimated", orjson.dumps({"input_tokens": count}))
        finished()
        return
    head = _head(request, arm)
    if envelope.model != arm.model.model_id:
        changes = {"model": arm.model.model_id}
        request.body = rewrite(envelope.raw, envelope.doc, changes, known=envelope.known_member)

    def refused(fault: ProxyError) -> tuple[int, bytes, bytes]:
        return fault.status, _JSON, messages_error(fault.status, fault.body(), request_id)

    handle = arm.handle
    relay = Relay(
        request,
        responder,
        ids=ids + _HOW % b"counted",
        closing=closing_of(
            request,
            handle,
            request_id=request_id,
            recorder=recorder,
            table_version=table.version,
            finished=finished,
        ),
        refused=refused,
        withheld=withholding(handle),
    )
    relay.begin(handle.pool, head + b"content-length: %d\r\n\r\n" % len(request.body), streamed=False)


def _head(request: Request, arm: CompiledArm) -> bytes:
    handle, headers = arm.handle, request.headers
    path = messages_target(handle.upstream, arm.model, "/count_tokens")
    if request.query == "beta=true" and "?" not in path:
        path += "?beta=true"
    head = handle.opening(path) + crossing.forwarded(headers)
    if request.trace is not None:
        head += request.trace.launched(events.FIRST, None, request.head_at)
    if not any(name.lower() == "anthropic-version" for name, _ in handle.upstream.headers):
        head += b"anthropic-version: %b\r\n" % headers.get(b"anthropic-version", VERSION.encode())
    if handle.passthrough_auth:
        head += crossing.credential(headers, handle.upstream.provider)
    return head
