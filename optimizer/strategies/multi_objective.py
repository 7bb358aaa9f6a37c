"""``multi_objective``: make a route pursue several weighted objectives.

A route that learns gets the objectives themselves: its policy pursues them from then on. A route with fixed shares
gets the mixture that is expected to serve them best, with the exploration floor on the other arms. Utilities are those
of the policies: linear in dollars, seconds and quality, each over its scale; a failed request gains nothing and is
paid for twice.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from optimizer.rollouts.records import Candidate, Proposal
from optimizer.settings import Objective, RouteSettings, Settings
from optimizer.strategies.base import (
    NO_IMPROVEMENT,
    NOT_ENOUGH_DATA,
    Checked,
    NoProposal,
    Parameter,
    Situation,
    read,
    takes_constraints,
)
from optimizer.strategies.figures import ENOUGH, Belief, Figures
from optimizer.strategies.goals import goals, objectives_of, read_objectives
from optimizer.strategies.keeping import Keeping
from optimizer.strategies.words import arms_text, fixed_candidate, learning_off
from policies.types import FloatArray

FIXED: Final = "fixed"

_MOVED: Final = 1e-4
"""Shares that differ by less are the same: they are published rounded, and a sure gain of nothing is no change."""


class MultiObjective:
    """See the module."""

    name = "multi_objective"
    summary = "Pursue several objectives at once, by their weights."
    parameters = (
        Parameter(
            "objectives",
            "list",
            "What to pursue: [{name, weight, direction: minimize|maximize, scale}]; a text is the metric alone.",
            required=True,
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
        return values, problems

    def propose(self, situation: Situation, parameters: Mapping[str, Any]) -> Proposal | NoProposal:
        """See ``base.Strategy``."""
        figures = Figures(situation)
        objectives = objectives_of(parameters["objectives"])
        refused = learning_off(situation) or unseen(figures, objectives)
        if refused is not None:
            return refused
        utility = figures.utility(goals(situation.route, objectives))
        if situation.route.policy.name == FIXED:
            return self._best_mixture(figures, utility, objectives)
        if objectives == situation.route.objectives:
            return NoProposal(NO_IMPROVEMENT, "The route pursues exactly these objectives already.")
        changed = replace(situation.route, objectives=objectives)
        shares = (
            self._mixture(figures, utility, objectives)
            if takes_constraints(changed)
            else figures.shares_of(changed)
        )
        return self._answer(figures, utility, shares, Candidate(objectives=objectives))

    def _best_mixture(
        self, figures: Figures, utility: Belief, objectives: tuple[Objective, ...]
    ) -> Proposal | NoProposal:
        shares = self._mixture(figures, utility, objectives)
        return self._answer(figures, utility, shares, fixed_candidate(figures, shares))

    def _mixture(self, figures: Figures, utility: Belief, objectives: tuple[Objective, ...]) -> FloatArray:
        """The shares that serve the objectives best and break no bound; the present ones if there are none."""
        keeping = Keeping(figures, {}, strategy=self.name)
        judged = keeping.judged(*_beliefs(figures, objectives))
        shares = keeping.best(-utility.mean, judged, [*keeping.own(), *keeping.standing()])
        return figures.present if shares is None else shares

    def _answer(
        self, figures: Figures, utility: Belief, shares: FloatArray, candidate: Candidate
    ) -> Proposal | NoProposal:
        if float(np.abs(shares - figures.present).max()) < _MOVED:
            return NoProposal(
                NO_IMPROVEMENT, "What is served now is the mixture that serves the objectives best."
            )
        against_now = utility.effect(figures.present, shares)
        if against_now.low <= 0.0:
            return NoProposal(
                NO_IMPROVEMENT,
                f"Nothing is known to serve the objectives better than what is served now: the change of utility lies "
                f"in {against_now.low:+.3g}..{against_now.high:+.3g}.",
            )
        summary = (
            f"Serve {arms_text(figures, shares)}: utility {against_now.candidate:.3g} instead of "
            f"{against_now.baseline:.3g} now (change {against_now.low:+.3g}..{against_now.high:+.3g})."
        )
        return figures.proposal(candidate, shares, summary, beliefs=[utility])


def unseen(figures: Figures, objectives: tuple[Objective, ...]) -> NoProposal | None:
    """Why nothing can be said yet: a metric that counts is unknown on the baseline, or on all other arms."""
    needed: dict[str, float] = {}
    for objective in objectives:
        if objective.weight <= 0.0:
            continue
        belief = _belief(figures, objective)
        weight = belief.weight if belief is not None else np.zeros(len(figures.ids))
        others = [int(index) for index in np.flatnonzero(figures.served) if index != figures.baseline]
        if weight[figures.baseline] >= ENOUGH and any(weight[index] >= ENOUGH for index in others):
            continue
        for index in (figures.baseline, *others):
            if weight[index] < ENOUGH:
                needed[f"{objective.metric} of {figures.ids[index]}"] = float(np.ceil(ENOUGH - weight[index]))
    if not needed:
        return None
    return NoProposal(
        NOT_ENOUGH_DATA,
        f"Every objective needs {ENOUGH:g} observations of the baseline and of one other arm. Cost and latency come "
        f"with traffic; send ratings and custom metrics to POST /v1/feedback.",
        needed,
    )


def _beliefs(figures: Figures, objectives: tuple[Objective, ...]) -> list[Belief]:
    found = [_belief(figures, objective) for objective in objectives if objective.weight > 0.0]
    return [belief for belief in found if belief is not None]


def _belief(figures: Figures, objective: Objective) -> Belief | None:
    return (
        figures.cost
        if objective.metric == "cost"
        else figures.belief(objective.metric, maximize=objective.maximize)
    )
