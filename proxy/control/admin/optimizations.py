"""Optimizations: make, show, and the commands that move them.

Answers come from the book in memory, so reading works while the database is away; so does everything that takes traffic
away from a candidate.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web

from optimizer.rollouts.codec import to_plain
from optimizer.rollouts.faults import Conflict, NotFound, Outdated, Refused, StoreAway
from optimizer.rollouts.records import SPLITTING, Optimization, Status
from optimizer.rollouts.transitions import ABORT, DELETE, DEPLOY, PAUSE, PROMOTE, RESUME, RETRY, ROLLBACK
from optimizer.settings import RolloutPlan
from optimizer.strategies.base import describe
from optimizer.strategies.registry import STRATEGIES
from proxy.config.problems import Problem
from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.admin.idempotency import once
from proxy.control.admin.models import (
    CommandRequest,
    DeployRequest,
    PromoteRequest,
)
from proxy.control.admin.ownership import at_route, by_id, unknown, wish_of
from proxy.control.admin.reading import read_body, read_query, refusal
from proxy.control.admin.rollout_request import plan_of
from proxy.control.optimization_desk import OptimizationDesk, Unacceptable

_TAKING: Final = frozenset((ROLLBACK, ABORT, PAUSE))
_TAG = re.compile(r'"([0-9]{1,18})"|([0-9]{1,18})')

Shape = Callable[[OptimizationDesk, Optimization], dict[str, Any]]


async def create(call: Call) -> web.StreamResponse:
    """Make an optimization: 201 with what its strategy proposes, or 400 with every problem."""
    desk = await at_route(call)
    if isinstance(desk, web.StreamResponse):
        return desk

    async def work() -> tuple[int, Mapping[str, Any]]:
        wish = await wish_of(call)
        try:
            record = await desk.create(wish, actor=call.actor)
        except Unacceptable as refused:
            raise refusal(
                "No optimization was made: the request is not valid.", refused.problems
            ) from refused
        except Refused as refused:
            problem = Problem(refused.field, str(refused))
            raise refusal("No optimization was made: the request is not valid.", [problem]) from refused
        except Conflict as conflict:
            raise _conflict(conflict) from conflict
        return 201, shown(desk, record)

    return await once(call, desk.answers, work)


@by_id
async def show(call: Call, desk: OptimizationDesk) -> web.StreamResponse:
    """One optimization with its revision as ETag; 304 when the caller has that one and nothing is being measured."""
    record = _record(call, desk)
    tag = f'"{record.revision}"'
    known = call.request.headers.get("If-None-Match", "").strip() in (tag, f"W/{tag}")
    # What is measured moves on without a new revision.
    if known and record.status not in SPLITTING:
        return web.Response(status=304, headers={"ETag": tag})
    response = answer(shown(desk, record))
    response.headers["ETag"] = tag
    return response


@by_id
async def deploy(call: Call, desk: OptimizationDesk) -> web.StreamResponse:
    """Bring the proposal to traffic; 202 when there is none yet: then it is deployed as soon as there is one."""
    asked = await read_body(call, DeployRequest, optional=True)
    plan = plan_of(asked.canary, call.services.settings.deployment)
    return await _command(call, desk, DEPLOY, asked, shape=_deployment, plan=plan)


@by_id
async def promote(call: Call, desk: OptimizationDesk) -> web.StreamResponse:
    """On to the next stage, or with ``full`` to all traffic."""
    asked = await read_body(call, PromoteRequest, optional=True)
    return await _command(call, desk, PROMOTE, asked, shape=_deployment, full=asked.full)


@by_id
async def pause(call: Call, desk: OptimizationDesk) -> web.StreamResponse:
    """Hold the rollout at its stage."""
    asked = await read_body(call, CommandRequest, optional=True)
    return await _command(call, desk, PAUSE, asked, shape=_deployment)


@by_id
async def resume(call: Call, desk: OptimizationDesk) -> web.StreamResponse:
    """Go on with the stage."""
    asked = await read_body(call, CommandRequest, optional=True)
    return await _command(call, desk, RESUME, asked, shape=_deployment)


@by_id
async def retry(call: Call, desk: OptimizationDesk) -> web.StreamResponse:
    """Begin a new attempt with the first stage."""
    asked = await read_body(call, CommandRequest, optional=True)
    return await _command(call, desk, RETRY, asked, shape=_deployment)


@by_id
async def abort(call: Call, desk: OptimizationDesk) -> web.StreamResponse:
    """Take the candidate off all traffic, for good until somebody says ``retry``."""
    asked = await read_body(call, CommandRequest, optional=True)
    return await _command(call, desk, ABORT, asked, shape=shown)


@by_id
async def rollback(call: Call, desk: OptimizationDesk) -> web.StreamResponse:
    """Take the candidate off all traffic."""
    asked = await read_body(call, CommandRequest, optional=True)
    return await _command(call, desk, ROLLBACK, asked, shape=_rollback)


@by_id
async def delete(call: Call, desk: OptimizationDesk) -> web.StreamResponse:
    """Take it off every list; what changes a route must be rolled back before."""
    return await _command(call, desk, DELETE, read_query(call, CommandRequest), shape=_deletion)


async def strategies(call: Call) -> web.StreamResponse:
    """Every strategy with its parameters."""
    del call
    return answer({"strategies": [describe(strategy) for strategy in STRATEGIES.values()]})


def shown(desk: OptimizationDesk, record: Optimization) -> dict[str, Any]:
    """A record as every endpoint shows it."""
    row: dict[str, Any] = to_plain(record)
    effects = {effect["metric"]: effect for effect in row["proposal"]["effects"]} if row["proposal"] else {}
    cost, quality = effects.get("cost"), effects.get("quality")
    return row | {
        "measured": _measured(desk, record),
        "candidate_percentage": record.candidate_percentage,
        "metrics": {
            "cost_reduction": -cost["change"] / cost["baseline"] if cost and cost["baseline"] else None,
            "quality_score": quality["candidate"] if quality else None,
            "deployment_percentage": record.candidate_percentage,
        },
        "plan": to_plain(desk.plan(record)),
        "verbs": list(desk.verbs(record)),
    }


def _measured(desk: OptimizationDesk, record: Optimization) -> dict[str, Any]:
    """The guards as they stand now, while there is a comparison; afterwards as they stood when it ended."""
    if record.status not in SPLITTING:
        return {"guards": _guards(record.measured), "needs": None}
    progress = desk.progress(record)
    if progress is None:
        return {"guards": {}, "needs": None}
    return {"guards": _guards(progress.by_guard()), "needs": to_plain(progress.needs)}


def _guards(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The last verdicts by guard; ``samples`` are the candidate's."""
    return {
        name: {**verdict, "samples": verdict.get("candidate_samples")}
        for name, verdict in measured.items()
        if isinstance(verdict, Mapping) and "verdict" in verdict
    }


async def _command(
    call: Call,
    desk: OptimizationDesk,
    verb: str,
    asked: CommandRequest,
    *,
    shape: Shape,
    full: bool = False,
    plan: RolloutPlan | None = None,
) -> web.StreamResponse:
    async def work() -> tuple[int, Mapping[str, Any]]:
        record = _record(call, desk)
        revision = _wanted_revision(call, record)
        try:
            changed = await desk.command(
                record.id,
                verb,
                actor=call.actor,
                revision=revision,
                reason=asked.reason or "",
                full=full,
                plan=plan,
            )
        except NotFound as missing:
            raise unknown() from missing
        except Outdated as outdated:
            raise _outdated(outdated.current or record) from outdated
        except Conflict as conflict:
            raise _conflict(conflict) from conflict
        except Refused as refused:
            raise refusal("The request is not valid.", [Problem(refused.field, str(refused))]) from refused
        except StoreAway as away:
            raise AdminFault(503, "SERVICE_UNAVAILABLE", str(away)) from away
        # Asked to deploy what is not proposed yet: accepted, and still to be done.
        waits = verb == DEPLOY and changed.status in (Status.COLLECTING, Status.PROPOSED)
        return (202 if waits else 200), shape(desk, changed)

    return await once(call, desk.answers, work, hasty=verb in _TAKING)


def _deployment(desk: OptimizationDesk, record: Optimization) -> dict[str, Any]:
    split = record.rollout is not None and record.status in SPLITTING
    return shown(desk, record) | {
        "deployment_id": record.rollout.id if record.rollout is not None else None,
        "current_stage": record.rollout.stage + 1 if record.rollout is not None and split else None,
    }


def _rollback(desk: OptimizationDesk, record: Optimization) -> dict[str, Any]:
    return shown(desk, record) | {"rolled_back_at": record.updated_at}


def _deletion(desk: OptimizationDesk, record: Optimization) -> dict[str, Any]:
    return shown(desk, record) | {"message": f"Optimization {record.id} is deleted."}


def _record(call: Call, desk: OptimizationDesk) -> Optimization:
    record = desk.get(call.request.match_info["optimization_id"])
    if record is None:
        raise unknown(knows_all=desk.knows_all)
    return record


def _wanted_revision(call: Call, record: Optimization) -> int | None:
    """The revision that the caller has seen, by ``If-Match``; None when any will do."""
    given = ", ".join(call.request.headers.getall("If-Match", ()))
    if not given or given.strip() == "*":
        return None
    found = [_TAG.fullmatch(tag.strip()) for tag in given.split(",")]
    if not any(tag is not None and int(tag[1] or tag[2]) == record.revision for tag in found):
        raise _outdated(record)
    return record.revision


def _outdated(record: Optimization) -> AdminFault:
    return AdminFault(
        412,
        "PRECONDITION_FAILED",
        f"It has changed meanwhile: it is {record.status} at revision {record.revision} now.",
        {"status": record.status, "revision": record.revision},
    )


def _conflict(conflict: Conflict) -> AdminFault:
    current = conflict.current
    details = (
        {} if current is None else {"id": current.id, "status": current.status, "revision": current.revision}
    )
    return AdminFault(409, "CONFLICT", str(conflict), details)
