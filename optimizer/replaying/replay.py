"""The answer to "what would policy B have cost, and how good would it have been", or why the log can not tell.

One metric is refused alone when only it lacks evidence. The headline is the doubly robust estimate; the others stand
beside it, because estimates that disagree are a warning.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from optimizer.replaying.rows import COST, LATENCY, METRICS, QUALITY, SUCCESS, Decisions
from optimizer.replaying.targets import AsLogged, Target
from policies.offpolicy import (
    DR,
    METHODS,
    SNIPS,
    Estimate,
    Scored,
    Vectors,
    apply,
    difference,
    effective_size,
    estimate,
)
from policies.types import FloatArray

UNSUPPORTED = 0.05
"""Largest share of a policy that may lie on arms the log could not draw."""

_MOST_LEFT_OUT = 0.1
_PORTION = 4096
_WEIGHT_ERRORS = 6.0
_ROUNDING = 1e-3
_GUESSES: Mapping[str, float] = {SUCCESS: 1.0, QUALITY: 0.5}
_WORDS: Mapping[str, str] = {
    COST: "cost per request",
    QUALITY: "quality",
    SUCCESS: "success",
    LATENCY: "latency",
}


@dataclass(frozen=True, slots=True)
class MetricReport:
    """One metric: of the log itself, of the policy by every method, and the gap between the two.

    ``refused`` says why none of it is a verdict, "" if it is. ``known`` counts requests whose outcome is known.
    """

    metric: str
    logged: Estimate
    estimates: Mapping[str, Estimate]
    gap: Estimate
    known: int
    refused: str = ""

    @property
    def headline(self) -> Estimate:
        """The estimate to quote."""
        return self.estimates[DR]


@dataclass(frozen=True, slots=True)
class Replay:
    """A policy on a log. ``effective`` and ``largest_weight`` are of all rows; ``unsupported`` is a share 0..1."""

    route: str
    policy: str
    requests: int
    since: float
    until: float
    effective: float
    largest_weight: float
    unsupported: float
    metrics: Mapping[str, MetricReport]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]
    refused: str = ""


def usable(decisions: Decisions, target: Target) -> Decisions:
    """The rows that can say something about ``target``: its arms were there, as they are now."""
    wanted = target.wanted(decisions)
    keep = decisions.offered_all(wanted)
    notes = []
    if not keep.all():
        notes.append(
            f"{int((~keep).sum()):,} requests are left out: the side of the route that decided them, or the "
            "route at that time, did not have all arms of the policy."
        )
    for arm, moment in (decisions.changed or {}).items():
        if arm not in decisions.arms or not wanted[decisions.arms.index(arm)]:
            continue
        before = keep & (decisions.at < moment)
        if before.any():
            keep &= ~before
            notes.append(f"{int(before.sum()):,} requests from before {arm!r} was edited are left out.")
    return decisions.part(keep, notes) if notes else decisions


def drawable(decisions: Decisions, other: Vectors) -> NDArray[np.bool_]:
    """Rows in which the log could draw what ``other`` would play, all but ``UNSUPPORTED`` of it, shape (n,)."""
    found = np.ones(len(decisions), dtype=np.bool_)
    for start in range(0, len(decisions), _PORTION):
        stop = min(start + _PORTION, len(decisions))
        missing = np.where(decisions.logged_vectors(start, stop) > 0.0, 0.0, other(start, stop)).sum(axis=1)
        found[start:stop] = missing <= UNSUPPORTED
    return found


def _supported(decisions: Decisions, other: Vectors) -> tuple[Decisions, Vectors]:
    """Without the requests that the log can not tell about: not even a model should guess there.

    They are not like the others: mostly it was a cap that kept an arm out, on the dearest requests. Where they are many
    the whole answer is refused, so they stay.
    """
    keep = drawable(decisions, other)
    if keep.all() or not keep.any() or float((~keep).mean()) > _MOST_LEFT_OUT:
        return decisions, other
    index = np.flatnonzero(keep)
    note = f"{int((~keep).sum()):,} requests that could not have drawn what the policy plays are left out."

    def part(start: int, stop: int) -> FloatArray:
        first = int(index[start])
        vectors: FloatArray = other(first, int(index[stop - 1]) + 1)[index[start:stop] - first]
        return vectors

    return decisions.part(keep, [note]), part


def replay(
    decisions: Decisions, target: Target, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Replay:
    """Evaluate ``target`` on the rows that ``usable`` gave."""
    decisions, mine = _supported(decisions, target.vectors(decisions))
    n = len(decisions)
    known = {metric: int(np.isfinite(decisions.outcomes[metric]).sum()) for metric in METRICS}
    scored: dict[str, tuple[Scored, Scored]] = {}
    theirs = AsLogged().vectors(decisions)
    for done, metric in enumerate(METRICS):
        rows = decisions.logged(metric)
        if n:
            guess = _GUESSES.get(metric, 0.0)
            scored[metric] = (
                apply(rows, mine, decisions.n_arms, guess=guess),
                apply(rows, theirs, decisions.n_arms, guess=guess),
            )
        progress(done + 1, len(METRICS))
    first = scored[SUCCESS][0] if n else None
    unsupported = float(first.unsupported.mean()) if first is not None else 0.0
    effective = effective_size(first.overlap) if first is not None else 0.0
    refused = _refusal(decisions, target, first, effective, unsupported)
    return Replay(
        route=decisions.route,
        policy=target.name,
        requests=n,
        since=float(decisions.at[0]) if n else 0.0,
        until=float(decisions.at[-1]) if n else 0.0,
        effective=effective,
        largest_weight=float(first.overlap.max()) if first is not None else 0.0,
        unsupported=unsupported,
        metrics={metric: _report(metric, *pair, known[metric], refused) for metric, pair in scored.items()},
        left_out=decisions.left_out or {},
        notes=decisions.notes,
        refused=refused,
    )


def sentences(report: Replay) -> list[str]:
    """The answer in words, the refusals included."""
    opening = (
        f"{report.policy!r} on route {report.route!r}: {report.requests:,} randomised requests, worth "
        f"{report.effective:,.0f} requests of this policy's own (largest weight {report.largest_weight:.1f})."
    )
    said = [opening]
    if report.refused:
        return [*said, f"No verdict: {report.refused}"]
    for metric, found in report.metrics.items():
        word = _WORDS[metric]
        if found.refused:
            said.append(f"No verdict on {word}: {found.refused}")
            continue
        best, gap = found.headline, found.gap
        change = f"{100 * gap.mean / found.logged.mean:+.1f} %" if found.logged.mean else "no share"
        surely = "" if gap.low > 0.0 or gap.high < 0.0 else "; the log can not tell the two apart"
        said.append(
            f"{word.capitalize()}: {best.mean:.4g} ({best.low:.4g} to {best.high:.4g}), "
            f"as logged {found.logged.mean:.4g}: {change}{surely}."
        )
        if disagree(found.estimates):
            said.append(f"The methods disagree about {word}; treat it with care.")
    return said


def disagree(estimates: Mapping[str, Estimate]) -> bool:
    """Whether the self-normalised estimate is far from the headline, by their own errors."""
    one, other = estimates[DR], estimates[SNIPS]
    noise = 3.0 * sqrt(one.error**2 + other.error**2)
    return abs(one.mean - other.mean) > noise + _ROUNDING * abs(one.mean)


def _report(metric: str, mine: Scored, theirs: Scored, known: int, refused: str) -> MetricReport:
    estimates = {method: estimate(mine, method) for method in METHODS}
    gap = difference(mine, theirs)
    if not known:
        refused = refused or f"no request's {_WORDS[metric]} is known."
    elif not refused:
        refused = gap.refused or _blind(mine, known)
    return MetricReport(metric, estimate(theirs), estimates, gap, known, refused)


def _blind(scored: Scored, known: int) -> str:
    """A rate of ratings that depends on the arm is corrected for; an arm that nobody rates can not be."""
    overlap = float(scored.overlap.sum())
    seen = float(scored.weight.sum())
    if overlap > 0.0 and abs(seen / overlap - 1.0) > 0.25:
        return f"of what it would play, too little was rated or measured ({known:,} outcomes are known)."
    return ""


def _refusal(
    decisions: Decisions, target: Target, scored: Scored | None, effective: float, unsupported: float
) -> str:
    if scored is None:
        return "there is no randomised request with all arms of the policy."
    if unsupported > UNSUPPORTED:
        return (
            f"{100 * unsupported:.0f} % of the policy lies on arms that the log did not draw "
            f"({_missing(decisions, target)}); give them a floor and ask again."
        )
    if effective < 1.0:
        return "the log has no request that this policy would have decided alike."
    found = estimate(scored)
    if found.refused:
        return found.refused
    # The weights of a correct log average 1 but for what it could not draw.
    mean = float(scored.overlap.mean())
    error = float(scored.overlap.std()) / sqrt(_draws(scored))
    if abs(mean - (1.0 - unsupported)) > _WEIGHT_ERRORS * error + 1e-9:
        return (
            f"the logged probabilities are not those that arms were drawn with (weights average {mean:.2f})."
        )
    return ""


def _draws(scored: Scored) -> int:
    """Independent draws among the rows: units, or rows."""
    return len(scored.overlap) if scored.units is None else len(np.unique(scored.units))


def _missing(decisions: Decisions, target: Target) -> str:
    drawn = decisions.vectors[np.unique(decisions.vector_of)].max(axis=0, initial=0.0) > 0.0
    names: Sequence[str] = [
        arm
        for arm, wanted, seen in zip(decisions.arms, target.wanted(decisions), drawn, strict=True)
        if wanted and not seen
    ]
    return ", ".join(names) if names else "for some requests"
