"""The evidence of one stage of one rollout, and what follows from it.

Everything is an additive sum or an e-process over sums, so it may be looked at after every request, saved with the
learner's cursor and taken up again. The comparisons are with the concurrent control, so what hits both sides is
nobody's fault; the absolute thresholds are tested on the candidate alone, and when control breaks one too the rollout
is not rolled back for it. Requests count as independent of each other. Nothing here reads a clock or moves traffic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import ceil, exp, inf, isfinite, log
from typing import Any, Final

from optimizer.rollouts.guards import Observation, SideCounts
from optimizer.rollouts.verdicts import (
    BASELINE_FAILING,
    BASELINE_OVER_THRESHOLD,
    FAILED,
    FALSE_MISMATCH,
    FALSE_PROMOTION,
    INSUFFICIENT,
    PASSED,
    QUALITY_MARGIN,
    SAMPLE_RATIO,
    SRM,
    SUCCESS_MARGIN,
    Decision,
    Verdict,
    alphas,
    guard_names,
    stage_share,
)
from optimizer.settings import RolloutPlan
from policies.sequential.bernoulli import TwoSample, log_evidence_above
from policies.sequential.confidence import Interval, Sample, difference_bounds, mean_bounds
from policies.sequential.margin import MeanMargin, ShareMargin
from policies.sequential.ratio import log_mismatch

__all__ = ("Decision", "Evaluation", "Verdict", "expected_stage_s", "guard_names")

_COMPARED: Final[tuple[str, ...]] = ("error", "rejected", "invalid", "latency")
_LATE_SHARE: Final = 0.05  # a 95th percentile is above a bound exactly when more than this are
_BROKEN: Final = (
    0.5  # from this share of errors on a side is down, and no comparison of two such sides means much
)
_LEAST_VALUES: Final = 30  # an interval from a sample variance wants this many values on each side
_TARGET: Final = 300.0  # values per side at which such an interval is tightest
_LEAST_CONTROL: Final = 30  # before control is said to break a threshold too
_MOST_LOG: Final = log(1e12)  # evidence is shown up to here
_USUAL_ERRORS: Final = 0.02  # to tell beforehand how long a margin takes to prove


class Evaluation:
    """What is known about one (rollout, stage).

    Args:
        plan: The rollout's plan.
        stage: Index of the stage in it.
        fraction: Share of units that get the candidate, 0..1. With 1 there is no control, and guards that compare
            stay insufficient without holding anything up.
        stages: Number of stages over which the errors allowed are split.
        sticky: Units are more than one request, so requests need not split as units do, and the sample ratio is not
            tested.
        times: There is a reference that replies can be slower than; without one latency is not compared.

    Raises:
        ValueError: If there is no such stage, or ``fraction`` is outside 0..1.
    """

    def __init__(
        self,
        plan: RolloutPlan,
        stage: int,
        fraction: float,
        *,
        stages: int,
        sticky: bool = False,
        times: bool = True,
    ) -> None:
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"fraction must lie in 0..1, not {fraction}")
        self.plan = plan
        self.stage = stage
        self.fraction = fraction
        self.totals = Observation()
        self._checks = plan.checks
        self._times = times
        self._min_samples = plan.stages[stage].min_samples if stage < len(plan.stages) else 0
        self._alphas = alphas(plan.checks, stage, stages)
        self._mismatch_alpha = FALSE_MISMATCH * stage_share(stage, stages)
        self._tests = {name: TwoSample() for name in _COMPARED if name in self._alphas}
        self._watches_ratio = plan.checks.enabled and not sticky and 0.0 < fraction < 1.0
        self._mismatch = 0.0
        margin = plan.checks.non_inferiority_margin if plan.checks.enabled else None
        self._success = None if margin is None else ShareMargin(margin)
        self._rating = None if margin is None else MeanMargin(margin)

    @property
    def _compares(self) -> bool:
        return self.fraction < 1.0

    @property
    def _sides(self) -> tuple[SideCounts, SideCounts]:
        return self.totals.control, self.totals.candidate

    def observe(self, seen: Observation) -> None:
        """Take counts in. Smaller portions decide sooner, and portions are to come as they happened."""
        self.totals += seen
        for name, test in self._tests.items():
            control, candidate = _share(name, seen.control), _share(name, seen.candidate)
            if control[1] or candidate[1]:
                test.add(control, candidate)
        if self._success is not None and (seen.control.resolved or seen.candidate.resolved):
            self._success.add(_share("error", seen.control), _share("error", seen.candidate))
        if self._rating is not None and (seen.control.rated or seen.candidate.rated):
            self._rating.add(_ratings(seen.control), _ratings(seen.candidate))
        if self._watches_ratio and (seen.control.assigned or seen.candidate.assigned):
            counts = (self.totals.control.assigned, self.totals.candidate.assigned)
            split = (1.0 - self.fraction, self.fraction)
            self._mismatch = max(self._mismatch, log_mismatch(counts, split))

    def verdicts(self) -> tuple[Verdict, ...]:
        """What every guard says now."""
        if not self._checks.enabled:
            return ()
        found = [self._compared(name) for name in self._tests]
        found += [self._absolute(name) for name in ("error_rate", "latency_p95") if name in self._alphas]
        if "cost_per_request" in self._alphas:
            found.append(self._cost())
        found.append(self._quality())
        if self._success is not None and self._rating is not None:
            rates = [(side.resolved - side.errors, side.resolved) for side in self._sides]
            shares = [Sample.of_share(*rate) for rate in rates]
            found.append(self._margin(SUCCESS_MARGIN, self._success, shares))
            found.append(self._margin(QUALITY_MARGIN, self._rating, [_ratings(side) for side in self._sides]))
        found.append(self._sample_ratio())
        return tuple(found)

    def decision(self, *, enough_time: bool) -> Decision:
        """What follows from the verdicts; ``enough_time``: the stage has lasted as long as it must."""
        verdicts = self.verdicts()
        return self._trouble(verdicts) or self._progress(verdicts, enough_time)

    def snapshot(self) -> dict[str, Any]:
        """Plain values from which ``restore`` makes the same evidence."""
        return {
            "totals": asdict(self.totals),
            "tests": {name: test.snapshot() for name, test in self._tests.items()},
            "mismatch": self._mismatch,
            "success": None if self._success is None else self._success.snapshot(),
            "rating": None if self._rating is None else self._rating.snapshot(),
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take up the evidence as it was saved, in the place of none.

        Raises:
            KeyError, TypeError, ValueError: If ``data`` is no snapshot.
        """
        totals = data["totals"]
        self.totals = Observation(SideCounts(**totals["control"]), SideCounts(**totals["candidate"]))
        for name in self._tests:
            if name in data["tests"]:
                self._tests[name] = TwoSample.restore(data["tests"][name])
        self._mismatch = float(data["mismatch"])
        if self._success is not None and self._rating is not None and data["success"] is not None:
            self._success = ShareMargin.restore(self._success.margin, data["success"])
            self._rating = MeanMargin.restore(self._rating.margin, data["rating"])

    def _trouble(self, verdicts: tuple[Verdict, ...]) -> Decision | None:
        failed = [
            verdict for verdict in verdicts if verdict.verdict == FAILED and verdict.guard != SAMPLE_RATIO
        ]
        for verdict in failed:
            if not verdict.control_fails:
                return Decision(FAILED, verdict.guard, explanation=_told(verdict))
        if self._both_broken():
            said = "more than half of the requests fail upstream on both sides; that is not the candidate's fault"
            return Decision(BASELINE_FAILING, "error", explanation=said)
        for verdict in failed:
            said = f"{_told(verdict)}, but control breaks this threshold too"
            return Decision(BASELINE_OVER_THRESHOLD, verdict.guard, explanation=said)
        for verdict in verdicts:
            if verdict.guard == SAMPLE_RATIO and verdict.verdict == FAILED:
                said = (
                    f"{verdict.candidate_samples} of {verdict.candidate_samples + verdict.control_samples} requests "
                    f"went to the candidate, which a share of {self.fraction:.4g} does not explain"
                )
                return Decision(SRM, SAMPLE_RATIO, explanation=said)
        return None

    def _progress(self, verdicts: tuple[Verdict, ...], enough_time: bool) -> Decision:
        missing = self._min_samples - self.totals.candidate.resolved
        if missing > 0:
            said = (
                f"{self.totals.candidate.resolved} of {self._min_samples} outcomes of the candidate are there"
            )
            return Decision(INSUFFICIENT, None, "samples", said, {"samples": float(missing)})
        if not enough_time:
            return Decision(INSUFFICIENT, None, "time", "the stage has not lasted as long as it must")
        for verdict in verdicts:
            unproven = verdict.guard in (SUCCESS_MARGIN, QUALITY_MARGIN) and verdict.verdict != PASSED
            if unproven and self._must_prove(verdict.guard):
                return self._waits_for_margin(verdict)
        return Decision(PASSED, explanation="no guard failed, and there are enough outcomes")

    def _must_prove(self, guard: str) -> bool:
        if not self._compares:
            return False
        return guard == SUCCESS_MARGIN or self.totals.control.rated + self.totals.candidate.rated > 0

    def _waits_for_margin(self, verdict: Verdict) -> Decision:
        said = (
            f"{verdict.guard}: not yet shown that the candidate is less than {-(verdict.threshold or 0.0):.4g} worse; "
            f"the evidence is {verdict.e_value or 0.0:.3g} of {1.0 / verdict.alpha:.4g}"
        )
        evidence = log(verdict.e_value) if verdict.e_value else 0.0
        if evidence <= 0.0:
            return Decision(INSUFFICIENT, verdict.guard, "margin", said)
        # Evidence multiplies at a steady pace, so its logarithm grows with the samples.
        missing = ceil(verdict.candidate_samples * max(0.0, -log(verdict.alpha) / evidence - 1.0))
        return Decision(INSUFFICIENT, verdict.guard, "margin", said, {"samples": float(missing)})

    def _both_broken(self) -> bool:
        if not self._checks.enabled:
            return False
        limit = -log(FALSE_MISMATCH)
        return all(log_evidence_above(side.errors, side.resolved, _BROKEN) >= limit for side in self._sides)

    def _compared(self, name: str) -> Verdict:
        test, alpha = self._tests[name], self._alphas[name]
        control, candidate = _share(name, self.totals.control), _share(name, self.totals.candidate)
        if self._compares and test.peak >= -log(alpha):
            said = FAILED
        elif name == "latency" and not self._times:
            said = INSUFFICIENT
        elif self._compares and control[1] and candidate[1] >= max(1, self._min_samples):
            said = PASSED
        else:
            said = INSUFFICIENT
        return Verdict(
            name,
            said,
            alpha,
            control=_rate(control),
            candidate=_rate(candidate),
            e_value=_shown(test.value),
            control_samples=control[1],
            candidate_samples=candidate[1],
        )

    def _absolute(self, name: str) -> Verdict:
        alpha = self._alphas[name]
        threshold = _LATE_SHARE if name == "latency_p95" else min(self._checks.error_rate or 0.0, 1.0 - 1e-9)
        control, candidate = _share(name, self.totals.control), _share(name, self.totals.candidate)
        evidence = log_evidence_above(*candidate, threshold)
        enough = candidate[1] >= max(1, self._min_samples)
        return Verdict(
            name,
            FAILED if evidence >= -log(alpha) else PASSED if enough else INSUFFICIENT,
            alpha,
            control=_rate(control),
            candidate=_rate(candidate),
            threshold=threshold,
            e_value=_shown(evidence),
            control_samples=control[1],
            candidate_samples=candidate[1],
            control_fails=control[1] >= _LEAST_CONTROL and control[0] > threshold * control[1],
        )

    def _cost(self) -> Verdict:
        threshold, alpha = self._checks.cost_per_request_usd or 0.0, self._alphas["cost_per_request"]
        control, candidate = (_costs(side) for side in self._sides)
        bounds = mean_bounds(candidate, alpha, target=_TARGET)
        enough = candidate.count >= _LEAST_VALUES
        return _spread(
            Verdict(
                "cost_per_request",
                INSUFFICIENT if not enough else FAILED if bounds.low > threshold else PASSED,
                alpha,
                threshold=threshold,
                control_fails=control.count >= _LEAST_CONTROL and control.mean > threshold,
            ),
            control,
            candidate,
            bounds,
        )

    def _quality(self) -> Verdict:
        alpha, ratio = self._alphas["quality"], self._checks.quality_ratio
        control, candidate = (_ratings(side) for side in self._sides)
        threshold = 0.0 if ratio is None else min(0.0, (ratio - 1.0) * control.mean)
        bounds = difference_bounds(control, candidate, alpha, unit=True, target=_TARGET)
        enough = self._compares and min(control.count, candidate.count) >= _LEAST_VALUES
        said = INSUFFICIENT if not enough else FAILED if bounds.high < threshold else PASSED
        return _spread(Verdict("quality", said, alpha, threshold=threshold), control, candidate, bounds)

    def _margin(self, name: str, test: ShareMargin | MeanMargin, sides: Sequence[Sample]) -> Verdict:
        control, candidate = sides
        proven = self._compares and test.peak >= -log(FALSE_PROMOTION)
        return Verdict(
            name,
            PASSED if proven else INSUFFICIENT,
            FALSE_PROMOTION,
            control=_mean(control),
            candidate=_mean(candidate),
            threshold=-test.margin,
            e_value=_shown(test.value),
            control_samples=int(control.count),
            candidate_samples=int(candidate.count),
        )

    def _sample_ratio(self) -> Verdict:
        control, candidate = self.totals.control.assigned, self.totals.candidate.assigned
        total = control + candidate
        said = PASSED if self._watches_ratio and total else INSUFFICIENT
        if self._mismatch >= -log(self._mismatch_alpha):
            said = FAILED
        return Verdict(
            SAMPLE_RATIO,
            said,
            self._mismatch_alpha,
            candidate=candidate / total if total else None,
            threshold=self.fraction,
            e_value=_shown(self._mismatch),
            control_samples=control,
            candidate_samples=candidate,
        )


def expected_stage_s(plan: RolloutPlan, stage: int, fraction: float, requests_per_s: float) -> float | None:
    """Seconds that a stage will probably take at this traffic of its route, None when there is none.

    A candidate as good as control is assumed, and, for a margin, a success rate of 98 %.
    """
    chosen = plan.stages[stage]
    margin = plan.checks.non_inferiority_margin if plan.checks.enabled else None
    samples = float(chosen.min_samples)
    if margin is not None and fraction < 1.0:
        samples = max(samples, _margin_samples(margin, fraction))
    if samples <= 0.0:
        return chosen.duration_s
    per_second = requests_per_s * fraction
    return max(chosen.duration_s, samples / per_second) if per_second > 0.0 else None


def _margin_samples(margin: float, fraction: float) -> float:
    """Outcomes of the candidate until a margin is proven, from the growth of the evidence per outcome."""
    usual, worst = _USUAL_ERRORS, min(_USUAL_ERRORS + margin * (1.0 - fraction), 0.99)
    grown = usual * log(usual / worst) + (1.0 - usual) * log((1.0 - usual) / (1.0 - worst))
    return -log(FALSE_PROMOTION) / grown if grown > 0.0 else inf


def _share(guard: str, side: SideCounts) -> tuple[int, int]:
    """(events, outcomes) of a side, for the guards that are about a share."""
    match guard:
        case "error" | "error_rate":
            return side.errors, side.resolved
        case "rejected":
            return side.rejected, side.resolved + side.rejected
        case "invalid":
            return side.invalid, side.resolved - side.errors
        case "latency":
            return side.slow, side.timed
        case _:
            return side.late, side.timed


def _rate(share: tuple[int, int]) -> float | None:
    return share[0] / share[1] if share[1] else None


def _mean(sample: Sample) -> float | None:
    return sample.mean if sample.count and isfinite(sample.mean) else None


def _costs(side: SideCounts) -> Sample:
    return Sample(side.priced, side.cost_usd, side.cost_usd2)


def _ratings(side: SideCounts) -> Sample:
    return Sample(side.rated, side.quality, side.quality2)


def _spread(verdict: Verdict, control: Sample, candidate: Sample, bounds: Interval) -> Verdict:
    return Verdict(
        verdict.guard,
        verdict.verdict,
        verdict.alpha,
        control=_mean(control),
        candidate=_mean(candidate),
        threshold=verdict.threshold,
        low=bounds.low if isfinite(bounds.low) else None,
        high=bounds.high if isfinite(bounds.high) else None,
        control_samples=int(control.count),
        candidate_samples=int(candidate.count),
        control_fails=verdict.control_fails,
    )


def _shown(log_evidence: float) -> float:
    return exp(min(log_evidence, _MOST_LOG))


def _told(verdict: Verdict) -> str:
    measured = f"{verdict.guard}: {_number(verdict.candidate)} of the candidate"
    if verdict.control is not None:
        measured += f", {_number(verdict.control)} of control"
    if verdict.threshold is not None:
        measured += f", held to {_number(verdict.threshold)}"
    return f"{measured}, after {verdict.candidate_samples} values of the candidate"


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4g}"
