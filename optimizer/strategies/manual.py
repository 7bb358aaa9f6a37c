"""``manual``: an operator's own change, taken to traffic like every other one: gradually, guarded, and revocable.

It proposes whatever changes the route; the effect is what is known of it at this moment, however little that is.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optimizer.rollouts.overlays import apply
from optimizer.rollouts.records import Candidate, Proposal
from optimizer.settings import PolicySettings, RouteSettings, Settings
from optimizer.strategies.base import (
    NO_IMPROVEMENT,
    NOT_APPLICABLE,
    Checked,
    NoProposal,
    Parameter,
    Problem,
    Situation,
    number,
    read,
    unknown_names,
)
from optimizer.strategies.figures import Figures
from optimizer.strategies.goals import goals, objectives_of, read_objectives
from optimizer.strategies.steering import STEERED, bounds_cost, constraints_of, read_constraints, unpriced
from optimizer.strategies.words import arms_text
from policies.registry import POLICIES

_POLICY_KEYS = ("type", "floor", "probabilities")


class Manual:
    """See the module."""

    name = "manual"
    summary = "Bring a change of your own to traffic: arms, baseline, policy, objectives or constraints."
    parameters = (
        Parameter("arms", "texts", "Ids of the arms that the route is to have. Left out: unchanged."),
        Parameter("baseline", "text", "Id of the baseline arm. Left out: unchanged."),
        Parameter(
            "policy",
            "table",
            "{type, floor, probabilities}; probabilities are shares by arm id, for `fixed`.",
        ),
        Parameter("objectives", "list", "What to pursue: [{name, weight, direction}]. Left out: unchanged."),
        Parameter(
            "constraints",
            "table",
            "What to keep, as under `routes.<name>.constraints`; an empty table is nothing. Left out: unchanged.",
        ),
    )

    def check(
        self, parameters: Mapping[str, Any], settings: Settings, route: RouteSettings | None
    ) -> Checked:
        """See ``base.Strategy``."""
        values, problems = read(parameters, self.parameters)
        if values["objectives"] is not None:
            values["objectives"], wrong = read_objectives(values["objectives"], settings)
            problems += wrong
        if values["policy"] is not None:
            values["policy"], wrong = _read_policy(values["policy"])
            problems += wrong
        if values["constraints"] is not None:
            values["constraints"], wrong = read_constraints(values["constraints"])
            problems += wrong
        if not problems and all(value is None for value in values.values()):
            problems.append(
                Problem("", f"nothing to change; give one of {', '.join(p.name for p in self.parameters)}.")
            )
        if route is not None and not problems:
            problems = _against(route, values, settings)
        return values, problems

    def propose(self, situation: Situation, parameters: Mapping[str, Any]) -> Proposal | NoProposal:
        """See ``base.Strategy``."""
        candidate = _candidate(situation.route, parameters)
        try:
            changed = apply(situation.route, candidate, file=situation.file)
            figures = Figures(situation)
            shares = figures.shares_of(changed)
        except ValueError as error:
            return NoProposal(NOT_APPLICABLE, f"The route can not become that: {error}.")
        if changed == situation.route:
            return NoProposal(
                NO_IMPROVEMENT, f"The route {situation.route.name} is served exactly so already."
            )
        utility = figures.utility(goals(changed, None))
        names = ", ".join(
            name
            for name in ("arms", "baseline", "policy", "objectives", "constraints")
            if getattr(candidate, name) is not None
        )
        return figures.proposal(
            candidate,
            shares,
            f"As asked for, with other {names}: beginning with {arms_text(figures, shares)}.",
            beliefs=[utility],
        )


def _candidate(route: RouteSettings, parameters: Mapping[str, Any]) -> Candidate:
    arms, policy, objectives = (parameters.get(name) for name in ("arms", "policy", "objectives"))
    kept = parameters.get("constraints")
    settings: PolicySettings | None = None
    if policy is not None:
        known = {"name": policy["type"], "floor": policy["floor"], "fixed": policy["probabilities"]}
        if policy["type"] not in (None, "fixed"):
            known["fixed"] = {}  # what is not read must not name arms that leave
        given = {name: value for name, value in known.items() if value is not None}
        settings = replace(route.policy, **given)
    return Candidate(
        arms=tuple(arms) if arms is not None else None,
        baseline=parameters.get("baseline"),
        policy=settings,
        objectives=objectives_of(objectives) if objectives is not None else None,
        constraints=constraints_of(kept) if kept is not None else None,
    )


def _read_policy(table: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    problems = [
        Problem(f"policy.{key}", f"no such key; known: {', '.join(_POLICY_KEYS)}.")
        for key in table
        if key not in _POLICY_KEYS
    ]
    kind = table.get("type")
    if kind is not None and kind not in POLICIES:
        problems.append(Problem("policy.type", f"must be one of {', '.join(sorted(POLICIES))}."))
    floor = number(table["floor"]) if table.get("floor") is not None else None
    if table.get("floor") is not None and (floor is None or not 0.0 <= floor <= 1.0):
        problems.append(Problem("policy.floor", "must be a number from 0 to 1."))
    shares: dict[str, float] | None = None
    if table.get("probabilities") is not None:
        shares, wrong = _read_shares(table["probabilities"])
        problems += wrong
        if kind not in (None, "fixed"):
            problems.append(
                Problem("policy.probabilities", "need the type `fixed`; the others find their own.")
            )
        kind = "fixed"
    return {"type": kind, "floor": floor, "probabilities": shares}, problems


def _read_shares(raw: Any) -> tuple[dict[str, float], list[Problem]]:
    if not isinstance(raw, Mapping):
        return {}, [Problem("policy.probabilities", "must be a table of arm ids and shares.")]
    shares = {str(arm): number(share) for arm, share in raw.items()}
    problems = [
        Problem(f"policy.probabilities.{arm}", "must be a number of at least 0.")
        for arm, share in shares.items()
        if share is None or share < 0.0
    ]
    known = {arm: share for arm, share in shares.items() if share is not None}
    if not problems and abs(sum(known.values()) - 1.0) > 1e-6:
        problems.append(Problem("policy.probabilities", f"must sum to 1, not {sum(known.values()):g}."))
    return known, problems


def _against(route: RouteSettings, values: Mapping[str, Any], settings: Settings) -> list[Problem]:
    """What the route itself has to say, before it is tried as a whole."""
    own = [arm.id for arm in route.arms]
    problems = unknown_names("arms", "arm", values["arms"] or (), own)
    if values["baseline"] is not None:
        problems += [
            Problem("baseline", problem.message)
            for problem in unknown_names("baseline", "arm", [values["baseline"]], own)
        ]
    if problems:
        return problems
    try:
        changed = apply(route, _candidate(route, values))
    except ValueError as error:
        return [Problem("", str(error))]
    if values["constraints"] and changed.policy.name != STEERED:
        return [
            Problem(
                "constraints",
                f"the policy `{changed.policy.name}` keeps none; give `policy: {{type: {STEERED}}}` too.",
            )
        ]
    strangers = unpriced(changed, settings) if bounds_cost(changed.constraints) else []
    if strangers:
        return [
            Problem("constraints", f"the price of {', '.join(strangers)} is unknown; give it under models.")
        ]
    return []
