"""Records as plain JSON values and back: one form for the event log, the routing table, the database and the API.

Evolution is additive: a reader ignores fields that it does not know, and those that it misses take their defaults.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from optimizer.rollouts.records import (
    OVERLAYING,
    SPLITTING,
    Candidate,
    Effect,
    Optimization,
    Proposal,
    Rollout,
    Status,
)
from optimizer.settings import Constraints, HealthChecks, Objective, PolicySettings, RolloutPlan, Stage

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def to_plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists, enumerations as their words; all the way down."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Status) else value


def record_of(raw: Mapping[str, Any]) -> Optimization:
    """The record that ``to_plain`` made ``raw`` of.

    Raises:
        TypeError, ValueError, AttributeError, KeyError: If it is none.
    """
    record = _build(Optimization, raw, status=Status, proposal=_proposal, rollout=_rollout, plan=plan_of)
    _check(record, raw)
    return record


def candidate_of(raw: Mapping[str, Any]) -> Candidate:
    """A candidate; raises as ``record_of`` does."""
    return _build(
        Candidate,
        raw,
        arms=tuple,
        policy=lambda row: _build(PolicySettings, row),
        objectives=lambda rows: tuple(_build(Objective, row) for row in rows),
        constraints=lambda row: _build(Constraints, row),
    )


def plan_of(raw: Mapping[str, Any]) -> RolloutPlan:
    """A plan; raises as ``record_of`` does."""
    return _build(
        RolloutPlan,
        raw,
        stages=lambda rows: tuple(_build(Stage, row) for row in rows),
        checks=lambda row: _build(HealthChecks, row),
    )


def _proposal(raw: Mapping[str, Any]) -> Proposal:
    return _build(
        Proposal,
        raw,
        candidate=candidate_of,
        effects=lambda rows: tuple(_build(Effect, row) for row in rows),
    )


def _check(record: Optimization, raw: Mapping[str, Any]) -> None:
    """See that whoever works with the record finds in it what its status says: one bad row must not stop a node."""
    if not (
        isinstance(raw["id"], str) and isinstance(raw["route"], str) and isinstance(raw["revision"], int)
    ):
        raise TypeError("id, route or revision is of another kind")
    if record.revision < 1:
        raise ValueError(f"{record.id}: {record.revision} is no revision")
    rollout = record.rollout
    if record.status in OVERLAYING and (rollout is None or record.proposal is None):
        raise ValueError(f"{record.id} is {record.status} without a rollout or a proposal")
    if record.status in SPLITTING and rollout is not None:
        if not 0 <= rollout.stage < len(rollout.plan.stages):
            raise ValueError(f"{record.id}: there is no stage {rollout.stage}")
        if not 0.0 <= rollout.percentage <= 100.0:
            raise ValueError(f"{record.id}: {rollout.percentage} is no percentage")


def _rollout(raw: Mapping[str, Any]) -> Rollout:
    return _build(Rollout, raw, plan=plan_of)


def _build(cls: type[T], raw: Mapping[str, Any], **convert: Callable[[Any], Any]) -> T:
    names = {field.name for field in fields(cls)}
    known = {name: value for name, value in raw.items() if name in names}
    for name, function in convert.items():
        if known.get(name) is not None:
            known[name] = function(known[name])
    return cls(**known)
