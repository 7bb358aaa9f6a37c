"""What a simulation showed, next to what was to be had: the answer of ``llm-optimizer simulate`` in its three forms."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimizer.settings import RouteSettings
from optimizer.simulating.experiment import Experiment, Trial, mean_and_deviation
from optimizer.simulating.frontier import Frontier, Hindsight, hindsight
from proxy.cli.output import percent, print_table, say


@dataclass(frozen=True, slots=True)
class Goal:
    """What the yardsticks are read at: a mean ``cost`` in USD, or a mean ``quality``; ``why`` says where it is from."""

    cost: float | None
    quality: float | None
    why: str


def goal_of(route: RouteSettings, seen: Hindsight, spent: float) -> Goal:
    """A cost target, else a quality floor, else what the policy spent."""
    limits = route.constraints
    quality, cost = seen.single.get(route.baseline, (float("nan"), float("nan")))
    if limits.cost_per_request_usd is not None:
        return Goal(limits.cost_per_request_usd, None, "the cost target")
    if limits.cost_ratio is not None:
        return Goal(limits.cost_ratio * cost, None, f"{limits.cost_ratio:g} of the cost of {route.baseline}")
    if limits.quality_floor is not None:
        return Goal(None, limits.quality_floor, "the quality floor")
    if limits.quality_ratio is not None:
        why = f"{limits.quality_ratio:g} of the quality of {route.baseline}"
        return Goal(None, limits.quality_ratio * quality, why)
    return Goal(spent, None, "the same cost")


def answer(experiment: Experiment, seeds: Sequence[int], trials: Sequence[Trial]) -> dict[str, Any]:
    """Everything, as JSON."""
    seen = hindsight(experiment.world.part(experiment.report))
    spent = mean_and_deviation([trial.cost for trial in trials])[0]
    goal = goal_of(experiment.route, seen, spent)
    arms = experiment.world.arms
    outcomes = experiment.world.quality[experiment.report]
    latencies = [trial.latency for trial in trials if trial.latency is not None]
    late = [trial.late for trial in trials if trial.late is not None]
    return {
        "queries": {"burn_in": len(experiment.burn_in), "reported": len(experiment.report)},
        "missing_outcomes": int(np.isnan(outcomes).sum()),
        "features": experiment.world.size,
        "goal": {"cost_usd": goal.cost, "quality": goal.quality, "is": goal.why},
        "policy": {
            "quality": _spread([trial.quality for trial in trials]),
            "cost_usd": _spread([trial.cost for trial in trials]),
            "latency_s": _spread(latencies) if latencies else None,
            "late_share": _spread(late) if late else None,
            "shares": {arm: mean_and_deviation([trial.shares[arm] for trial in trials])[0] for arm in arms},
        },
        "yardsticks": {
            "best_single": _single(seen, goal),
            "context_free_mix": _point(seen.mix, goal),
            "per_category_mix": _point(seen.category, goal) if len(experiment.world.groups) > 1 else None,
            "per_query_oracle": _point(seen.oracle, goal),
        },
        "single_arms": {arm: {"quality": q, "cost_usd": c} for arm, (q, c) in seen.single.items()},
        "seeds": [_row(seed, trial) for seed, trial in zip(seeds, trials, strict=True)],
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    mean, deviation = mean_and_deviation(values)
    return {"mean": mean, "sd": deviation}


def _single(seen: Hindsight, goal: Goal) -> dict[str, Any] | None:
    arm = (
        seen.cheapest_above(goal.quality) if goal.quality is not None else seen.best_within(goal.cost or 0.0)
    )
    if arm is None:
        return None
    quality, cost = seen.single[arm]
    return {"arm": arm, "quality": quality, "cost_usd": cost}


def _point(curve: Frontier, goal: Goal) -> dict[str, Any] | None:
    if goal.quality is not None:
        cost = curve.cost_at(goal.quality)
        return None if cost is None else {"quality": curve.quality_at(cost), "cost_usd": cost}
    assert goal.cost is not None
    return {
        "quality": curve.quality_at(goal.cost),
        "cost_usd": min(max(goal.cost, curve.cost[0]), curve.cost[-1]),
    }


def _row(seed: int, trial: Trial) -> dict[str, Any]:
    return {
        "seed": seed,
        "quality": trial.quality,
        "cost_usd": trial.cost,
        "latency_s": trial.latency,
        "late_share": trial.late,
        "shares": trial.shares,
    }


def as_csv(result: dict[str, Any]) -> str:
    """A line per seed; shares in columns of their own."""
    arms = list(result["single_arms"])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["seed", "quality", "cost_usd", "latency_s", "late_share", *(f"share.{arm}" for arm in arms)]
    )
    for row in result["seeds"]:
        measured = [row[name] for name in ("seed", "quality", "cost_usd", "latency_s", "late_share")]
        writer.writerow([*measured, *(row["shares"].get(arm, 0.0) for arm in arms)])
    return text.getvalue()


def show(result: dict[str, Any]) -> None:
    """For people."""
    policy, goal = result["policy"], result["goal"]
    queries = result["queries"]
    wanted = (
        f"${goal['cost_usd']:.4g} a request" if goal["quality"] is None else f"quality {goal['quality']:.4f}"
    )
    say(
        f"{queries['reported']} queries after {queries['burn_in']} of burn-in, {len(result['seeds'])} seed(s), "
        f"{result['features']} feature(s). Compared at {wanted} ({goal['is']})."
    )
    say("")
    rows = [
        [
            "this policy",
            *_measured(policy["quality"], policy["cost_usd"], len(result["seeds"])),
            _against(result),
        ]
    ]
    names = {
        "best_single": "best single arm",
        "context_free_mix": "best fixed mix",
        "per_category_mix": "best mix per category",
        "per_query_oracle": "oracle",
    }
    for name, label in names.items():
        point = result["yardsticks"][name]
        if point is not None:
            arm = f" ({point['arm']})" if "arm" in point else ""
            rows.append([label + arm, f"{point['quality']:.4f}", f"{point['cost_usd']:.4g}", ""])
        elif name != "per_category_mix":
            rows.append(
                [label, "-", "-", "none is good enough" if goal["quality"] else "none is cheap enough"]
            )
    for arm, point in result["single_arms"].items():
        share = f"{100.0 * policy['shares'][arm]:.3g} %"
        rows.append(
            [f"always {arm}", f"{point['quality']:.4f}", f"{point['cost_usd']:.4g}", f"policy: {share}"]
        )
    print_table(["", "quality", "USD a request", ""], rows)
    if result["missing_outcomes"]:
        say("")
        say(
            f"  {result['missing_outcomes']} outcomes are not in the data: an arm's own mean is of the queries that it "
            "answered, so neither it nor a mix of such means was to be had for all"
        )
    if policy["late_share"] is not None:
        say("")
        say(
            f"  replies over the latency target: {percent(100.0 * policy['late_share']['mean'])} (5 % are allowed)"
        )


def _measured(quality: dict[str, float], cost: dict[str, float], seeds: int) -> tuple[str, str]:
    if seeds == 1:
        return f"{quality['mean']:.4f}", f"{cost['mean']:.4g}"
    return f"{quality['mean']:.4f} ± {quality['sd']:.4f}", f"{cost['mean']:.4g} ± {cost['sd']:.2g}"


def _against(result: dict[str, Any]) -> str:
    goal, policy = result["goal"], result["policy"]
    mix = result["yardsticks"]["context_free_mix"]
    if goal["quality"] is not None:
        gap = policy["quality"]["mean"] - goal["quality"]
        cheaper = (
            ""
            if mix is None
            else f", {policy['cost_usd']['mean'] / mix['cost_usd']:.2f}x the fixed mix's cost"
        )
        return f"{gap:+.4f} to the floor{cheaper}"
    spent = (
        ""
        if goal["is"] == "the same cost"
        else f", {policy['cost_usd']['mean'] / goal['cost_usd']:.3f}x target"
    )
    return f"{policy['quality']['mean'] - mix['quality']:+.4f} to the fixed mix{spent}"
