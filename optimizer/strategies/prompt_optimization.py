"""``prompt_optimization``: which prompt variant is better than the unchanged prompt, and then that one for all.

Compared are the variants of the baseline's model, on the randomised slice of the traffic (``trials``), by intention to
treat: a request counts for the prompt that was drawn for it. The unchanged prompt is the route's baseline arm. The test
runs until its confidence sequences decide (``prompt_test``), which may be long before ``test_duration_sec``. After that
time without a decision the answer is that no difference was shown, with the interval; the sequences stay valid,
so evidence that decides later is still an answer.

A winner becomes the baseline. Where shares are fixed, the share of all compared prompts moves to it; where the route
learns, the prompts it has beaten leave the route's arms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from optimizer.feedback import QUALITY
from optimizer.reward import SUCCESS
from optimizer.rollouts.overlays import apply
from optimizer.rollouts.records import Candidate, Effect, Proposal
from optimizer.routing import Arm, Variant
from optimizer.settings import RouteSettings, Settings
from optimizer.strategies import goals
from optimizer.strategies.base import (
    NO_DIFFERENCE,
    NO_IMPROVEMENT,
    NOT_APPLICABLE,
    NOT_ENOUGH_DATA,
    SAMPLE_RATIO,
    Checked,
    NoProposal,
    Parameter,
    Problem,
    Situation,
    TrialResults,
    metric_of,
    read,
    unknown_names,
)
from optimizer.strategies.figures import Figures
from optimizer.strategies.prompt_test import LEAST, Comparison, Verdict, judge, mismatch, still_needed
from optimizer.strategies.words import learning_off

UNITS: Final = {QUALITY: "ratio", SUCCESS: "ratio", "cost": "usd", "latency": "s"}


class PromptOptimization:
    """See the module."""

    name = "prompt_optimization"
    summary = "Test prompt variants against the unchanged prompt and keep a proven winner."
    parameters = (
        Parameter(
            "variants",
            "list",
            "Names of the prompts to compare, or their exact texts. Left out: every prompt of the baseline's model.",
        ),
        Parameter(
            "test_duration_sec",
            "number",
            "After so long without a decision the answer is that no difference was shown.",
            default=3600.0,
            low=0.0,
            open_low=True,
        ),
        Parameter(
            "significance_level",
            "number",
            "Largest chance of a wrong winner, over all variants, metrics and looks together.",
            default=0.05,
            low=0.0,
            high=1.0,
            open_low=True,
            open_high=True,
        ),
        Parameter(
            "metrics",
            "texts",
            "Metrics that decide: quality, success, cost, latency, or custom ones. Left out: quality.",
        ),
    )

    def check(
        self, parameters: Mapping[str, Any], settings: Settings, route: RouteSettings | None
    ) -> Checked:
        """See ``base.Strategy``."""
        raw = dict(parameters)
        if isinstance(raw.get("variants"), str):
            raw["variants"] = _listed(raw["variants"], settings.variants)
        values, problems = read(raw, self.parameters)
        named = [metric_of(name) for name in values["metrics"] or (QUALITY,)]
        values["metrics"] = list(dict.fromkeys(named))
        problems += unknown_names("metrics", "metric", named, sorted(_directions(settings)))
        if values["variants"] is not None:
            values["variants"], wrong = _names(values["variants"], settings.variants)
            problems += wrong
        if route is not None and not problems and not _challengers(route, values["variants"]):
            problems.append(Problem("variants", _nothing_to_compare(route)))
        return values, problems

    def propose(self, situation: Situation, parameters: Mapping[str, Any]) -> Proposal | NoProposal:
        """See ``base.Strategy``."""
        refused = learning_off(situation)
        if refused is not None:
            return refused
        route, trial = situation.route, situation.trials
        control = route.baseline
        variants = _challengers(route, parameters["variants"])
        if not variants:
            return NoProposal(NOT_APPLICABLE, _nothing_to_compare(route))
        if trial is None:
            return _no_trial(control, variants)
        alpha = float(parameters["significance_level"])
        directions = _directions(situation.settings)
        metrics = {name: directions[name] for name in parameters["metrics"] if name in directions}
        if not metrics:
            return NoProposal(NOT_APPLICABLE, "None of the metrics that were to decide is defined any more.")
        if mismatch(trial, (control, *variants)):
            return _mismatched(trial, control, variants)
        verdicts = judge(trial, control, variants, metrics, alpha)
        winners = [verdict for verdict in verdicts if verdict.wins]
        if winners:
            best = max(winners, key=lambda verdict: (verdict.lead, verdict.arm))
            beaten = [arm for arm in (control, *variants) if arm != best.arm]
            return _winner(situation, best, beaten, alpha)
        if all(verdict.loses for verdict in verdicts):
            return NoProposal(
                NO_IMPROVEMENT, f"Every variant is proven worse than {control}. {_intervals(verdicts)}"
            )
        level = alpha / (len(variants) * len(metrics))
        return _undecided(situation, trial, verdicts, float(parameters["test_duration_sec"]), level)


def _winner(situation: Situation, best: Verdict, beaten: Sequence[str], alpha: float) -> Proposal:
    figures = Figures(situation)
    candidate = _candidate(situation.route, best.arm, beaten)
    shares = figures.shares_of(apply(situation.route, candidate, file=situation.file))
    trial = situation.trials
    assert trial is not None
    proven = [c for c in best.comparisons if c.better]
    summary = (
        f"{best.arm} is proven better than {situation.route.baseline}: "
        f"{'; '.join(_interval(c) for c in proven)}. It becomes the baseline."
    )
    base = figures.proposal(candidate, shares, summary)
    return replace(
        base,
        effects=tuple(_effect(c) for c in best.comparisons),
        samples={arm: float(trial.arms[arm].assigned) for arm in (situation.route.baseline, best.arm)},
        confidence=max(0.0, 1.0 - 2.0 * alpha),  # each end of the interval takes alpha
    )


def _candidate(route: RouteSettings, winner: str, beaten: Sequence[str]) -> Candidate:
    policy = route.policy
    if policy.name != "fixed":
        kept = tuple(arm.id for arm in route.arms if arm.id not in beaten)
        return Candidate(arms=kept, baseline=winner)
    if not policy.fixed:
        return Candidate(baseline=winner)
    shares = {arm: share for arm, share in policy.fixed.items() if arm not in beaten and arm != winner}
    shares[winner] = sum(policy.fixed.get(arm, 0.0) for arm in (winner, *beaten))
    return Candidate(baseline=winner, policy=replace(policy, fixed=shares))


def _undecided(
    situation: Situation, trial: TrialResults, verdicts: Sequence[Verdict], duration_s: float, level: float
) -> NoProposal:
    lasted = situation.now - trial.started_at
    open_ones = [verdict for verdict in verdicts if not verdict.loses]
    needed = {
        f"{_observed(comparison.metric)} of {verdict.arm}": still_needed(comparison, level)
        for verdict in open_ones
        for comparison in verdict.comparisons
    }
    rest = _intervals(verdicts)
    if lasted >= duration_s and any(c.ready for verdict in open_ones for c in verdict.comparisons):
        return NoProposal(NO_DIFFERENCE, f"No difference was shown within {duration_s:g} s. {rest}", needed)
    return NoProposal(
        NOT_ENOUGH_DATA,
        f"The test has not decided yet; it has run for {max(0.0, lasted):.0f} s of {duration_s:g} s. {rest}",
        needed,
    )


def _no_trial(control: str, variants: Sequence[str]) -> NoProposal:
    return NoProposal(
        NOT_ENOUGH_DATA,
        f"No randomised request of {control} or its variants has been seen yet. Variants need a share of the traffic, "
        f"and requests whose arm is drawn, not pinned.",
        {f"requests of {arm}": float(LEAST) for arm in (control, *variants)},
    )


def _mismatched(trial: TrialResults, control: str, variants: Sequence[str]) -> NoProposal:
    counts = ", ".join(
        f"{arm} {trial.arms[arm].assigned} (expected {trial.arms[arm].expected:.0f})"
        for arm in (control, *variants)
        if arm in trial.arms
    )
    return NoProposal(
        SAMPLE_RATIO,
        f"The split is not the one that was drawn, so the groups may differ in more than their prompt, and nothing is "
        f"concluded: {counts}.",
    )


def _effect(comparison: Comparison) -> Effect:
    return Effect(
        metric=comparison.metric,
        unit=UNITS.get(comparison.metric, comparison.metric),
        baseline=comparison.control.mean,
        candidate=comparison.variant.mean,
        change=comparison.interval.estimate,
        low=comparison.interval.low,
        high=comparison.interval.high,
    )


def _intervals(verdicts: Sequence[Verdict]) -> str:
    return " ".join(
        f"{verdict.arm}: {'; '.join(_interval(comparison) for comparison in verdict.comparisons)}."
        for verdict in verdicts
    )


def _interval(comparison: Comparison) -> str:
    control, variant, interval = comparison.control, comparison.variant, comparison.interval
    if min(control.count, variant.count) <= 0.0:
        return f"{comparison.metric} is not known"
    return (
        f"{comparison.metric} {variant.mean:.4g} instead of {control.mean:.4g} (change {interval.low:+.3g}.."
        f"{interval.high:+.3g}, {variant.count:.0f} and {control.count:.0f} {_observed(comparison.metric)})"
    )


def _observed(metric: str) -> str:
    return "requests" if metric in (SUCCESS, "cost", "latency") else f"ratings of {metric}"


def _directions(settings: Settings) -> dict[str, bool]:
    known = goals.metrics(settings)
    return {**{name: up for name, up in known.items() if name != "ttft"}, SUCCESS: True}


def _challengers(route: RouteSettings, names: Sequence[str] | None) -> list[str]:
    """Arms of the baseline's model and parameters with another prompt, of those that were asked for."""
    own = {arm.id: arm for arm in route.arms}
    baseline = own[route.baseline]
    return [
        arm.id for arm in route.arms if _rivals(arm, baseline) and (names is None or arm.variant in names)
    ]


def _rivals(arm: Arm, baseline: Arm) -> bool:
    return arm.model_key == baseline.model_key and arm.variant_key != baseline.variant_key


def _nothing_to_compare(route: RouteSettings) -> str:
    wanted = f"the model of its baseline {route.baseline} and one of these prompts"
    return f"the route {route.name} has no arm with {wanted}."


def _listed(text: str, variants: Sequence[Variant]) -> list[str]:
    """One text is a prompt as it stands, else a list with commas."""
    if _find(text, variants) is not None:
        return [text]
    return [part.strip() for part in text.split(",") if part.strip()]


def _names(items: Sequence[Any], variants: Sequence[Variant]) -> tuple[list[str], list[Problem]]:
    names: list[str] = []
    problems: list[Problem] = []
    for index, item in enumerate(items):
        found = _find(item, variants)
        if found is None:
            known = ", ".join(variant.name for variant in variants) or "none"
            problems.append(
                Problem(
                    f"variants[{index}]",
                    f"no such prompt: {item!r}; name one or give its exact text. Known: {known}.",
                )
            )
        elif found not in names:
            names.append(found)
    return names, problems


def _find(item: Any, variants: Sequence[Variant]) -> str | None:
    if isinstance(item, Mapping):
        item = item.get("name") or item.get("template") or item.get("system")
    if not isinstance(item, str):
        return None
    text = item.strip()
    exact = next((variant.name for variant in variants if variant.name == text), None)
    if exact is not None:
        return exact
    return next(
        (v.name for v in variants if text in ((v.system or "").strip(), (v.template or "").strip()) and text),
        None,
    )
