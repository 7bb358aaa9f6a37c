"""Scenes that play whole rollouts: identical sides, a margin to prove, effects of every size, sudden harm."""

from collections import Counter
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from loadtests.statistics.crowd import Crowd
from loadtests.statistics.play import Behaviour, Outcome, play
from optimizer.settings import HealthChecks, RolloutPlan, Stage

Row = dict[str, Any]

_USUAL = Behaviour()


def plan_of(percentages: tuple[float, ...], checks: HealthChecks) -> RolloutPlan:
    """A plan of these stages; time does not matter here."""
    return RolloutPlan(stages=tuple(Stage(share) for share in percentages), checks=checks)


def identical(crowd: Crowd) -> list[Row]:
    """A/A: control and candidate behave alike, everything is looked at all the time."""
    percentages, lengths = (1.0, 10.0, 50.0, 100.0), (13_000, 8_000, 4_000, 500)
    edge = HealthChecks(
        error_rate=_USUAL.error, latency_p95_ms=1.0, cost_per_request_usd=_USUAL.mean_cost_usd
    )
    flaky = Behaviour(error=0.15, rejected=0.05, invalid=0.1, quality=0.95)
    worlds = (
        ("the default checks", HealthChecks(), _USUAL),
        ("absolute thresholds exactly at what both do", edge, replace(_USUAL, late=0.05)),
        ("15 % errors on both sides", HealthChecks(), flaky),
    )
    rows = []
    for name, checks, both in worlds:
        one = partial(play, plan_of(percentages, checks), (both, both), lengths, portion=100)
        found = crowd.run(f"A/A, {name}", one, crowd.runs(2000))
        kinds = Counter(outcome.kind for outcome in found)
        blamed = Counter(str(outcome.guard) for outcome in found if outcome.kind == "fail")
        rows.append(
            {
                "world": name,
                "runs": len(found),
                "rolled_back": kinds["fail"] / len(found),
                "paused": (kinds["srm"] + kinds["baseline_over_threshold"] + kinds["baseline_failing"])
                / len(found),
                "by_guard": dict(sorted(blamed.items())),
            }
        )
    return rows


def margin(crowd: Crowd) -> list[Row]:
    """A margin of 2 percentage points: how often a candidate worse by it is promoted, and what proof costs."""
    checks = HealthChecks(non_inferiority_margin=0.02)
    cases = []
    for share, base in ((10.0, 0.005), (10.0, 0.02), (10.0, 0.10), (50.0, 0.02)):
        control = replace(_USUAL, error=base, rated=0.0)
        for worse in (0.02, 0.0):
            name = f"errors {base:.1%} → {base + worse:.1%}"
            cases.append((name, share, control, replace(control, error=base + worse)))
    rating = replace(_USUAL, rated=1.0)
    cases += [
        ("thumbs up 80.0% → 78.0%", 50.0, rating, replace(rating, quality=0.78)),
        ("thumbs up 80.0% → 80.0%", 50.0, rating, rating),
    ]
    rows = []
    for name, share, control, candidate in cases:
        one = partial(
            play,
            plan_of((share,), checks),
            (control, candidate),
            (40_000 if share < 50.0 else 14_000,),
            portion=100 if share < 50.0 else 20,
            hurry=True,
        )
        runs = crowd.runs(1000 if "errors" in name else 400)
        found = crowd.run(f"margin, {name} at {share:g} %", one, runs)
        passed = [outcome for outcome in found if outcome.kind == "pass"]
        rows.append(
            {
                "change": name,
                "worse": candidate != control,
                "percentage": share,
                "runs": len(found),
                "promoted": len(passed) / len(found),
                "rolled_back": _share(found, "fail"),
                "median_canary": median(outcome.canary for outcome in passed) if passed else None,
            }
        )
    return rows


def promotion(crowd: Crowd) -> list[Row]:
    """No margin: what becomes of a candidate, by its error rate; control has 2 %."""
    rows = []
    for errors in (0.0, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10, 0.15, 0.30):
        sides = (_USUAL, replace(_USUAL, error=errors))
        one = partial(play, plan_of((10.0, 50.0), HealthChecks()), sides, (2_000, 2_000), portion=40)
        found = crowd.run(f"no margin, {errors:g}", one, crowd.runs(500))
        back = [outcome for outcome in found if outcome.kind == "fail"]
        rows.append(
            {
                "candidate_errors": errors,
                "runs": len(found),
                "promoted": _share(found, "pass"),
                "rolled_back": len(back) / len(found),
                "median_canary": median(outcome.canary for outcome in back) if back else None,
            }
        )
    return rows


def harm(crowd: Crowd) -> list[Row]:
    """How soon the first stage takes a bad candidate back, with all guards on their share of the error budget."""
    cases = (
        ("errors 2 % → 5 %", 10.0, {"error": 0.05}),
        ("errors 2 % → 10 %", 10.0, {"error": 0.10}),
        ("errors 2 % → 30 %", 10.0, {"error": 0.30}),
        ("errors 2 % → 10 %", 1.0, {"error": 0.10}),
        ("errors 2 % → 10 %", 50.0, {"error": 0.10}),
        ("invalid replies 1 % → 10 %", 10.0, {"invalid": 0.10}),
        ("refused as the caller's fault 1 % → 10 %", 10.0, {"rejected": 0.10}),
        ("slower than control's p95 5 % → 20 %", 10.0, {"slow": 0.20}),
        ("thumbs up 80 % → 50 %, 20 % rated", 10.0, {"quality": 0.5}),
    )
    rows = []
    for name, share, changes in cases:
        rest = tuple(other for other in (50.0, 100.0) if other > share)
        plan = plan_of((share, *rest), HealthChecks())
        horizon = round(3000 / (share / 100.0))
        sides = (_USUAL, replace(_USUAL, **changes))
        one = partial(_first_stage, plan, sides, horizon, max(2, round(100.0 / share)))
        found = crowd.run(
            f"harm, {name} at {share:g} %",
            one,
            crowd.runs(1000 if "10 %" in name and "error" in name else 300),
        )
        back = [outcome for outcome in found if outcome.kind == "fail"]
        spent = sorted(outcome.canary for outcome in back)
        rows.append(
            {
                "harm": name,
                "percentage": share,
                "runs": len(found),
                "rolled_back": len(back) / len(found),
                "median_canary": median(spent) if spent else None,
                "p90_canary": spent[int(0.9 * (len(spent) - 1))] if spent else None,
                "median_requests": median(outcome.requests for outcome in back) if back else None,
            }
        )
    return rows


def _first_stage(plan: RolloutPlan, sides: Any, horizon: int, portion: int, rng: Any) -> Outcome:
    lengths = (horizon, *(0 for _ in plan.stages[1:]))
    return play(plan, sides, lengths, rng, portion=portion)


def _share(found: list[Outcome], kind: str) -> float:
    return sum(outcome.kind == kind for outcome in found) / len(found)
