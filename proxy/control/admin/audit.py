"""The audit: who did what, when."""

from dataclasses import asdict

from aiohttp import web

from optimizer.control_store.errors import StoreError, UnknownRow
from optimizer.rollouts.audit import AuditFilter
from proxy.config.problems import Problem
from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.admin.models import AuditQuery
from proxy.control.admin.reading import read_query, refusal


async def page(call: Call) -> web.StreamResponse:
    """Rows of the audit, the newest first; ``next`` leads to older ones."""
    query = read_query(call, AuditQuery)
    wanted = AuditFilter(actor=query.actor, action=query.action, target=query.target)
    try:
        # One more than is shown tells whether there are more.
        rows = await call.services.audit_page(wanted, limit=query.limit + 1, before=query.before)
    except UnknownRow as unknown:
        raise refusal(
            "The request is not valid.", [Problem("before", "names no row of the audit.")]
        ) from unknown
    except StoreError as away:
        raise AdminFault(503, "SERVICE_UNAVAILABLE", f"The audit can not be read: {away}.") from away
    shown = rows[: query.limit]
    return answer(
        {
            "audit": [asdict(row) for row in shown],
            "next": shown[-1].id if len(rows) > query.limit else None,
        }
    )
