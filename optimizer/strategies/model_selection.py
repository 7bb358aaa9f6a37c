"""``model_selection``: let a bandit run over the listed models, judged by the listed criteria.

A bandit gathers its own evidence, so nothing has to be known beforehand: what is proposed is that the route learns,
and the effect is stated with all the uncertainty there is. A route that does so already has nothing to gain.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from optimizer.rollouts.overlays import apply
from optimizer.rollouts.records import Candidate, Proposal
from optimizer.settings import RouteSettings, Settings
from optimizer.strategies.base import (
    NO_IMPROVEMENT,
    NOT_APPLICABLE,
    Checked,
    NoProposal,
    Parameter,
    Problem,
    Situation,
    read,
    unknown_names,
)
from optimizer.strategies.figures import Figures
from optimizer.strategies.goals import equal_objectives, goals, unknown_criteria
from optimizer.strategies.words import arms_text, learning_off

LEARNING: Final = "thompson"


class ModelSelection:
    """See the module."""

    name = "model_selection"
    summary = "Let the route learn which of its models serves best."
    parameters = (
        Parameter(
            "models", "texts", "Models to choose among, with every prompt that the route has. Left out: all."
        ),
        Parameter("arms", "texts", "Arms to choose among, instead of models."),
        Parameter(
            "criteria", "texts", "Metrics that count, all the same. Left out: the route's own objectives."
        ),
    )

    def check(
        self, parameters: Mapping[str, Any], settings: Settings, route: RouteSettings | None
    ) -> Checked:
        """See ``base.Strategy``."""
        values, problems = read(parameters, self.parameters)
        if values["models"] and values["arms"]:
            problems.append(Problem("arms", "give `models` or `arms`, not both."))
        problems += unknown_criteria(values["criteria"] or (), settings, "criteria")
        if values["models"]:
            own = sorted({arm.model for arm in route.arms}) if route is not None else None
            known = own if own is not None else [model.name for model in settings.models]
            problems += unknown_names("models", "model", values["models"], known)
        if route is not None and values["arms"]:
            problems += unknown_names("arms", "arm", values["arms"], [arm.id for arm in route.arms])
        if not problems and route is not None and len(_chosen(route, values)) < 2:
            problems.append(
                Problem("arms" if values["arms"] else "models", "at least two arms are needed to choose.")
            )
        return values, problems

    def propose(self, situation: Situation, parameters: Mapping[str, Any]) -> Proposal | NoProposal:
        """See ``base.Strategy``."""
        refused = learning_off(replace(situation, route=replace(situation.route, arms=situation.file.arms)))
        if refused is not None:
            return refused
        file, present = situation.file, situation.route
        listed = bool(parameters.get("models") or parameters.get("arms"))
        arms = _chosen(file, parameters) if listed else tuple(arm.id for arm in present.arms)
        unknown = [arm for arm in arms if arm not in {own.id for own in file.arms}]
        if unknown or len(arms) < 2:
            return NoProposal(
                NOT_APPLICABLE, f"The route {file.name} has not two of the arms that were listed."
            )
        candidate = _candidate(present, arms, parameters, situation.settings)
        if candidate == Candidate():
            return NoProposal(
                NO_IMPROVEMENT, f"The route {file.name} learns among exactly these arms already."
            )
        figures = Figures(situation)
        changed = apply(present, candidate, file=file)
        shares = figures.shares_of(changed)
        utility = figures.utility(goals(changed, None))
        young = [
            arm for arm in arms if situation.evidence[figures.index(arm)].pulls < present.policy.min_pulls
        ]
        nursery = (
            f" Not known well yet: {', '.join(young)}; each gets an even share until it is." if young else ""
        )
        summary = f"Learn among {len(arms)} arms, beginning with {arms_text(figures, shares)}.{nursery}"
        return figures.proposal(candidate, shares, summary, beliefs=[utility])


def _chosen(route: RouteSettings, parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Ids of the arms that were asked for, in the route's order; the baseline is always among them."""
    models, arms = parameters.get("models"), parameters.get("arms")
    return tuple(
        arm.id
        for arm in route.arms
        if arm.id == route.baseline or (arm.id in arms if arms else arm.model in models if models else True)
    )


def _candidate(
    present: RouteSettings, arms: tuple[str, ...], parameters: Mapping[str, Any], settings: Settings
) -> Candidate:
    """What differs from what is served now."""
    criteria = parameters.get("criteria")
    objectives = equal_objectives(criteria, settings) if criteria else present.objectives
    policy = present.policy
    learns = policy.name != "fixed"
    # Fixed shares of arms that leave would be refused, and a policy that learns does not read them.
    wanted = policy if learns else replace(policy, name=LEARNING, fixed={})
    return Candidate(
        arms=arms if set(arms) != {arm.id for arm in present.arms} else None,
        baseline=None,
        policy=wanted if wanted != policy else None,
        objectives=objectives if objectives != present.objectives else None,
    )
