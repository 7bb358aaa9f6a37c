"""Client keys: make, list, show, revoke. The text of a key is in one answer, that of its creation, and nowhere else."""

import asyncio
from typing import Any

from aiohttp import web

from optimizer.key_store import KeyStoreFault, TooManyKeys
from optimizer.keys import ClientKey, quota_row
from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.admin.key_request import KeyProblems, read_grant, warnings
from proxy.control.admin.reading import refusal


async def create(call: Call) -> web.StreamResponse:
    """Make a key: 201 with its text, or 400 with every problem of the request."""
    core = call.services.core
    try:
        grant = read_grant(await call.document(), now=core.now())
    except KeyProblems as refused:
        raise refusal("No key was made: the request is not valid.", refused.problems) from refused
    try:
        # The commit and the file are synced; the loop has other things to do meanwhile.
        text, key = await asyncio.to_thread(call.services.keys.create, grant)
    except TooManyKeys as refused:
        raise AdminFault(409, "TOO_MANY_KEYS", str(refused)) from refused
    except KeyStoreFault as fault:
        raise AdminFault(503, "SERVICE_UNAVAILABLE", str(fault)) from fault
    shown = _shown(key, core.now())
    # Neither the key nor its last letters: the audit is read by more people than make keys.
    kept = ("name", "routes", "models", "pin", "passthrough", "expires_at", "quota")
    call.services.audit(call.actor, "keys.create", key.id, {name: shown[name] for name in kept})
    made = {"key": text, **shown}
    made["warnings"] = warnings(grant, core.configuration.settings)
    response = answer(made, status=201)
    response.headers["Cache-Control"] = "no-store"
    return response


async def listing(call: Call) -> web.StreamResponse:
    """Every key with its state, the oldest first."""
    services = call.services
    now = services.core.now()
    return answer({"keys": [_shown(key, now) for key in services.keys.all()]})


async def show(call: Call) -> web.StreamResponse:
    """One key."""
    services = call.services
    key = services.keys.get(call.request.match_info["key_id"])
    if key is None:
        raise _unknown()
    return answer(_shown(key, services.core.now()))


async def revoke(call: Call) -> web.StreamResponse:
    """End a key. Workers refuse it within a fifth of a second of the answer."""
    services = call.services
    key_id = call.request.match_info["key_id"]
    before = services.keys.get(key_id)
    try:
        key = await asyncio.to_thread(services.keys.revoke, key_id)
    except KeyStoreFault as fault:
        raise AdminFault(503, "SERVICE_UNAVAILABLE", str(fault)) from fault
    if key is None:
        raise _unknown()
    if before is None or before.revoked_at is None:
        services.audit(call.actor, "keys.revoke", key.id, {"name": key.name})
    return answer(_shown(key, services.core.now()))


def _unknown() -> AdminFault:
    return AdminFault(404, "NOT_FOUND", "There is no client key with this id; GET /api/v1/keys lists them.")


def _shown(key: ClientKey, now: float) -> dict[str, Any]:
    state = "active"
    if key.revoked_at is not None:
        state = "revoked"
    elif key.expires_at is not None and key.expires_at <= now:
        state = "expired"
    return {
        "id": key.id,
        "name": key.name,
        "state": state,
        "last4": key.last4,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "routes": key.routes,
        "models": key.models,
        "pin": key.pin,
        "passthrough": key.passthrough,
        "quota": quota_row(key.quota),
    }
