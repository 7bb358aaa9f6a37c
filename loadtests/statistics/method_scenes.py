"""Scenes that measure single tests under the conditions of published and earlier measurements."""

from functools import partial
from math import log
from statistics import median
from typing import Any

import numpy as np

from loadtests.statistics.crowd import Crowd
from loadtests.statistics.rollout_scenes import Row
from optimizer.reward import SUCCESS
from optimizer.rollouts.verdicts import FALSE_MISMATCH, alphas, stage_share
from optimizer.settings import HealthChecks
from optimizer.strategies.base import TrialResults, VariantCounts
from optimizer.strategies.prompt_test import judge
from policies.sequential.bernoulli import TwoSample, log_evidence_above
from policies.sequential.confidence import Sample
from policies.sequential.ratio import log_mismatch

_HORIZON = 3000
_LOOKS = range(50, 5001, 50)


def prompts(crowd: Crowd) -> list[Row]:
    """Variants against the unchanged prompt, success 80 % and more, up to 5,000 each, a look every 50: 100 looks."""
    rows = []
    for variants, lift in ((1, 0.0), (2, 0.0), (1, 0.03), (1, 0.05)):
        one = partial(_prompt_test, variants, lift)
        found = crowd.run(f"prompts, {variants} x +{lift:g}", one, crowd.runs(4000))
        decided = [count for count in found if count is not None]
        rows.append(
            {
                "variants": variants,
                "lift": lift,
                "runs": len(found),
                "decided": len(decided) / len(found),
                "median_per_arm": median(decided) if decided else None,
            }
        )
    return rows


def _prompt_test(variants: int, lift: float, rng: np.random.Generator) -> int | None:
    names = [f"variant {number}" for number in range(variants)]
    shares = {"unchanged": 0.8} | dict.fromkeys(names, 0.8 + lift)
    events = {name: np.cumsum(rng.random(_LOOKS[-1]) < share) for name, share in shares.items()}
    for count in _LOOKS:
        arms = {
            name: VariantCounts(
                count, float(count), {SUCCESS: Sample.of_share(float(side[count - 1]), count)}
            )
            for name, side in events.items()
        }
        verdicts = judge(TrialResults(0.0, arms), "unchanged", names, {SUCCESS: True}, 0.05)
        if any(verdict.wins for verdict in verdicts):
            return count
    return None


def canaries(crowd: Crowd) -> list[Row]:
    """Control 2 % errors, 10 % canary, up to 3,000 canary requests: the error guard's test by itself."""
    product = alphas(HealthChecks(), 0, 4)["error"]
    limits = {
        "two-sample, a = .01": -log(0.01),
        f"two-sample, a = {product:.4g} (first stage)": -log(product),
    }
    rows: list[Row] = [{"rule": name} for name in limits]
    fixed = {"against 2 %, a = .01": 0.02, "against 3 %, a = .01": 0.03}
    rows += [{"rule": name} for name in fixed]
    for errors in (0.02, 0.03, 0.05, 0.10, 0.30):
        runs = crowd.runs(2000 if errors > 0.03 else 1500)
        one = partial(_canary, errors, tuple(limits.values()), tuple(fixed.values()))
        found = crowd.run(f"canary, {errors:g}", one, runs)
        for row, hits in zip(rows, zip(*found, strict=True), strict=True):
            seen = [hit for hit in hits if hit is not None]
            row[f"{errors:g}"] = [len(seen) / runs, median(seen) if seen else None]
            row["runs"] = min(runs, row.get("runs", runs))
    return rows


def _canary(
    errors: float, limits: tuple[float, ...], fixed: tuple[float, ...], rng: np.random.Generator
) -> tuple[int | None, ...]:
    control = rng.binomial(9, 0.02, _HORIZON).tolist()
    canary = (rng.random(_HORIZON) < errors).astype(int).tolist()
    test, total = TwoSample(), 0
    hits: list[int | None] = [None] * (len(limits) + len(fixed))
    for place, (y, z) in enumerate(zip(control, canary, strict=True), 1):
        test.add((y, 9), (z, 1))
        total += z
        if not z:
            continue  # none of the tests moves towards an alarm while the candidate succeeds
        for number, limit in enumerate(limits):
            if hits[number] is None and test.peak >= limit:
                hits[number] = place
        for number, share in enumerate(fixed, len(limits)):
            if hits[number] is None and log_evidence_above(total, place, share) >= -log(0.01):
                hits[number] = place
        if None not in hits:
            break
    return tuple(hits)


def ratios(crowd: Crowd) -> list[Row]:
    """The sample-ratio check, looked at after every 10 requests, up to 50,000."""
    limit = -log(FALSE_MISMATCH * stage_share(0, 4))
    rows = []
    for meant, real in ((0.1, 0.1), (0.5, 0.5), (0.1, 0.11), (0.1, 0.12), (0.5, 0.48), (0.01, 0.015)):
        one = partial(_ratio, meant, real, limit)
        found = crowd.run(f"ratio, {meant:g} -> {real:g}", one, crowd.runs(1000 if meant == real else 200))
        alarms = [count for count in found if count is not None]
        rows.append(
            {
                "meant": meant,
                "real": real,
                "runs": len(found),
                "alarms": len(alarms) / len(found),
                "median_requests": median(alarms) if alarms else None,
            }
        )
    return rows


def _ratio(meant: float, real: float, limit: float, rng: np.random.Generator) -> int | None:
    candidate: Any = np.cumsum(rng.binomial(10, real, 5000)).tolist()
    for place, count in enumerate(candidate, 1):
        if log_mismatch((10 * place - count, count), (1.0 - meant, meant)) >= limit:
            return 10 * place
    return None
