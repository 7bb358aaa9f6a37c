"""Budgets on recorded prompts: the table of ``paretobandit``, and what delay, wrong beliefs and noisy judges cost.

One half of the prompts is burnt in (and was tuned on), the other half is reported: every figure is of prompts that the
policy had not seen, and the yardsticks know the reported half's own means.
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from loadtests.learning.routes import route
from loadtests.learning.team import Team
from loadtests.learning.worlds import PARETOBANDIT, Recorded, halves, paretobandit
from loadtests.processes import Failed
from optimizer.settings import Constraints, ContextSettings, PolicySettings
from optimizer.simulating.experiment import Experiment, mean_and_deviation, perform
from optimizer.simulating.frontier import hindsight
from optimizer.simulating.playing import Feedback
from optimizer.simulating.product import product_loop
from optimizer.simulating.world import IntArray
from policies.types import FloatArray

Row: TypeAlias = dict[str, Any]

BUDGETS = (2.9e-5, 8.3e-5, 2.3e-4, 6.6e-4, 1.9e-3, 5.3e-3, 1.5e-2)
MARGINS: Mapping[float, float] = {8.3e-5: 0.012, 2.3e-4: 0.022}
"""How far above the context-free mix a budget must end; everywhere else at most .003 below it."""

PASSES = 2
BINDING = 0.9
"""A budget of more than this part of what always taking the best arm costs is no budget to keep to."""

CONTEXT = ContextSettings(lexical=True)


@dataclass(frozen=True, slots=True)
class Played:
    """One seed: mean reward and cost of the reported half, and the shares of the arms."""

    quality: float
    cost: float
    shares: tuple[float, ...]


def one(task: tuple[Experiment, int]) -> Played:
    """Play one seed."""
    experiment, seed = task
    _, course = perform(experiment, product_loop, seed)
    return Played(float(course.quality.mean()), float(course.cost.mean()), tuple(course.shares.tolist()))


def budgeted(recorded: Recorded, budget: float | None, context: ContextSettings | None) -> Experiment:
    """The experiment at one budget; None bounds nothing."""
    burn_in, report = halves(recorded)
    world = recorded.seen(context, burn_in) if context is not None else recorded.world
    settings = route(
        world.arms,
        baseline=world.arms[-1],
        constraints=Constraints(cost_per_request_usd=budget),
        context=context,
    )
    return Experiment(settings, world, burn_in, report, passes=PASSES)


def budgets(team: Team) -> list[Row]:
    """Every budget: with context, without, the published router, and what was to be had."""
    recorded = paretobandit()
    _, report = halves(recorded)
    seen = hindsight(recorded.world.part(report))
    routers = {"context": CONTEXT, "plain": None}
    plan = [
        (name, budget, budgeted(recorded, budget, context))
        for name, context in routers.items()
        for budget in BUDGETS
    ]
    found = team.run(
        "paretobandit", one, [(played, seed) for _, _, played in plan for seed in range(team.seeds)]
    )
    trials = {
        (name, budget): found[number * team.seeds : (number + 1) * team.seeds]
        for number, (name, budget, _) in enumerate(plan)
    }
    other = published(team, recorded)
    rows: list[Row] = []
    for number, budget in enumerate(BUDGETS):
        best = seen.best_within(budget)
        row: Row = {
            "budget": budget,
            "cheapest": min(cost for _, cost in seen.single.values()),
            "binds": bool(budget < BINDING * seen.mix.cost[-1]),
            "best_single": None if best is None else {"arm": best, "quality": seen.single[best][0]},
            "mix": seen.mix.quality_at(budget),
            "category": seen.category.quality_at(budget),
            "oracle": seen.oracle.quality_at(budget),
            "margin": MARGINS.get(budget, -0.003),
            "published": spread(other[number], budget) if other else None,
        }
        for name in routers:
            row[name] = spread([(trial.quality, trial.cost) for trial in trials[name, budget]], budget)
        rows.append(row)
    return rows


def spread(trials: Sequence[tuple[float, float]], budget: float) -> Row:
    """Reward and spend, mean and standard deviation over seeds, of (reward, cost) trials."""
    quality, deviation = mean_and_deviation([trial[0] for trial in trials])
    spent = [trial[1] / budget for trial in trials]
    return {
        "quality": quality,
        "sd": deviation,
        "spent": float(np.mean(spent)),
        "spent_sd": mean_and_deviation(spent)[1],
        "seeds": len(trials),
    }


def published(team: Team, recorded: Recorded) -> list[list[tuple[float, float]]] | None:
    """(reward, cost) by budget and seed of the published router on the same halves, orders and features."""
    if team.published is None:
        return None
    burn_in, report = halves(recorded)
    world = recorded.seen(CONTEXT, burn_in)
    models = json.loads(PARETOBANDIT.with_name("models_k3.json").read_text(encoding="utf-8"))["models"]
    listed = {model["model_id"]: (model["input_cost_per_m"], model["output_cost_per_m"]) for model in models}
    orders = []
    for seed in range(team.seeds):
        rng = np.random.default_rng([seed, 0x51])
        orders.append(
            np.concatenate([*(rng.permutation(burn_in) for _ in range(PASSES)), rng.permutation(report)])
        )
    with tempfile.TemporaryDirectory(prefix="published-") as scratch:
        source = Path(scratch) / "world.npz"
        np.savez(
            source,
            x=whitened(world.x, burn_in),
            reward=world.quality,
            cost=world.cost,
            arms=np.array(world.arms),
            prices=np.array([listed[arm] for arm in world.arms]),
            budgets=np.array(BUDGETS),
            orders=np.array(orders),
            before=PASSES * len(burn_in),
        )
        found = team.run(
            "paretobandit, published", partial(_published, team.published, source), range(team.seeds)
        )
    return [[seed[number] for seed in found] for number in range(len(BUDGETS))]


def whitened(x: FloatArray, fitted_on: IntArray, directions: int = 25) -> FloatArray:
    """The bias and the leading principal components at unit variance: what the published router expects of features."""
    moved = x[:, 1:] - x[fitted_on, 1:].mean(axis=0)
    _, _, axes = np.linalg.svd(moved[fitted_on], full_matrices=False)
    found = moved @ axes[:directions].T
    return np.concatenate((np.ones((len(x), 1)), found / found[fitted_on].std(axis=0)), axis=1)


def _published(python: Path, source: Path, seed: int) -> list[tuple[float, float]]:
    """(reward, cost) by budget of one seed."""
    command = [str(python), str(Path(__file__).with_name("published.py")), str(source), str(seed)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=source.parent)
    if ran.returncode:
        raise Failed(f"{python} could not play: {ran.stderr.strip().splitlines()[-1:]}")
    return [(reward, cost) for reward, cost in json.loads(ran.stdout)]


_DELAYS = ((1.0, 0), (1.0, 200), (0.2, 0), (0.2, 200), (0.05, 200))


def delay(team: Team) -> list[Row]:
    """A share of the ratings, so many requests late, at two budgets; costs always arrive with the reply."""
    recorded = paretobandit()
    plan = [
        (budget, share, late, replace(budgeted(recorded, budget, CONTEXT), feedback=Feedback(share, late)))
        for budget in (2.3e-4, 6.6e-4)
        for share, late in _DELAYS
    ]
    found = team.run("delay", one, [(played, seed) for *_, played in plan for seed in range(team.seeds)])
    rows = []
    for number, (budget, share, late, _) in enumerate(plan):
        trials = found[number * team.seeds : (number + 1) * team.seeds]
        figures = spread([(trial.quality, trial.cost) for trial in trials], budget)
        rows.append({"budget": budget, "share": share, "delay": late, **figures})
    return rows


def priors(team: Team) -> list[Row]:
    """Beliefs that are wrong: about how good arms are at all, and about which of them is better.

    Nothing is burnt in, nothing bounds the cost: the mean of the first requests shows what finding out costs.
    """
    recorded = paretobandit()
    everyone = np.arange(recorded.world.n_queries)
    truth = recorded.world.quality
    plan: list[tuple[str, float, Experiment]] = []
    for strength in (1.0, 5.0, 50.0):
        policy = PolicySettings(floor=0.005, prior_strength=strength)
        settings = route(recorded.world.arms, baseline=recorded.world.arms[-1], policy=policy)
        cold = Experiment(settings, recorded.world, everyone[:0], everyone)
        plan += [
            ("ratings as recorded, near .9", strength, cold),
            ("the same less .5, near .4", strength, replace(cold, told=np.clip(truth - 0.5, 0.0, 1.0))),
            ("squeezed to a tenth, near .09", strength, replace(cold, told=0.1 * truth)),
            ("after 200 requests with best and worst swapped", strength, _misled(cold, 200)),
        ]
    found = team.run("priors", one, [(played, seed) for *_, played in plan for seed in range(team.seeds)])
    rows = []
    for number, (world, strength, _) in enumerate(plan):
        trials = found[number * team.seeds : (number + 1) * team.seeds]
        quality, deviation = mean_and_deviation([trial.quality for trial in trials])
        shares = np.mean([trial.shares for trial in trials], axis=0)
        rows.append(
            {
                "world": world,
                "strength": strength,
                "quality": quality,
                "sd": deviation,
                "seeds": len(trials),
                "best_share": float(shares[int(np.argmax(truth.mean(axis=0)))]),
                "best": float(truth.mean(axis=0).max()),
            }
        )
    return rows


def _misled(cold: Experiment, requests: int) -> Experiment:
    """The same after ``requests`` whose ratings were those of the best arm for the worst one, and the other way."""
    world = cold.world
    n = world.n_queries
    twice = world.part(np.concatenate((np.arange(n), np.arange(n))))
    ranks = np.argsort(world.quality.mean(axis=0))
    swapped = world.quality.copy()
    swapped[:, ranks] = world.quality[:, ranks[::-1]]
    first = np.random.default_rng(0x51).permutation(n)[:requests]
    told: FloatArray = np.concatenate((swapped, world.quality))
    return replace(cold, world=twice, burn_in=first, report=np.arange(n, 2 * n), told=told)


_JUDGES = (
    ("the recorded score", 1.0, 0.0, 0.0, False),
    ("of every tenth request", 0.1, 0.0, 0.0, False),
    ("noise sd .127", 1.0, 0.127, 0.0, False),
    ("noise sd .127, of every tenth", 0.1, 0.127, 0.0, False),
    ("noise sd .25", 1.0, 0.25, 0.0, False),
    ("one model's answers .04 too good", 1.0, 0.127, 0.04, False),
    ("only good or bad, at .85", 1.0, 0.0, 0.0, True),
)


def judge(team: Team) -> list[Row]:
    """Ratings by a judge that errs: noise, a liking for one model's answers, two words instead of a scale."""
    recorded = paretobandit()
    budget = 2.3e-4
    base = budgeted(recorded, budget, CONTEXT)
    tasks = [
        (
            replace(
                base, feedback=Feedback(share), told=_judged(base.world.quality, seed, sd, liking, binary)
            ),
            seed,
        )
        for _, share, sd, liking, binary in _JUDGES
        for seed in range(team.seeds)
    ]
    found = team.run("judge", one, tasks)
    rows = []
    for number, (name, share, *_) in enumerate(_JUDGES):
        trials = found[number * team.seeds : (number + 1) * team.seeds]
        figures = spread([(trial.quality, trial.cost) for trial in trials], budget)
        rows.append({"judge": name, "share": share, "budget": budget, **figures})
    return rows


def _judged(truth: FloatArray, seed: int, sd: float, liking: float, binary: bool) -> FloatArray:
    told = truth + np.random.default_rng([seed, 0x10D6E]).normal(0.0, sd, truth.shape) if sd else truth.copy()
    # The middle one in price: liking the dearest or the cheapest would be stopped by the budget.
    told[:, truth.shape[1] // 2] += liking
    judged: FloatArray = (told >= 0.85).astype(np.float64) if binary else np.clip(told, 0.0, 1.0)
    return judged
