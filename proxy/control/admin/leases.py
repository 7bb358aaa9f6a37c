"""Limits: the endpoint at which workers renew their leases, and the operator's view of what is used up."""

from dataclasses import asdict

from aiohttp import web

from optimizer.lease_terms import Grants, decode_report, encode_grants
from proxy.control.admin.endpoint import AdminFault, Call, answer


async def report(call: Call) -> web.StreamResponse:
    """Record a worker's claims and grant; one answer for each."""
    try:
        claims = decode_report(await call.body())
    except ValueError as error:
        raise AdminFault(400, "INVALID_REQUEST", str(error)) from error
    leases = call.services.leases
    grants = Grants(await leases.answer(claims), leases.wait_s)
    return web.Response(body=encode_grants(grants), content_type="application/json")


async def limits(call: Call) -> web.StreamResponse:
    """Every limit in use in its current window: how much there is, how much this node's workers hold and used."""
    return answer({"limits": [asdict(meter) for meter in call.services.leases.meters()]})
