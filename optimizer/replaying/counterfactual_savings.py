"""What a route saved against one arm for everything, day by day, with error bars.

A saving is what the baseline would have cost for the same requests minus what was paid. The first part is estimated
doubly robustly from the requests that the baseline did get, weighted by how likely that was; the second is known. So
unlike a mean of the baseline's costs it is right when the baseline gets other requests than the rest. The error is
about these very requests: it is what the baseline's requests cost beside what was expected of them. Days add up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from optimizer.replaying.replay import UNSUPPORTED, drawable, usable
from optimizer.replaying.rows import COST, QUALITY, Decisions
from optimizer.replaying.targets import Shares
from policies.offpolicy import (
    Estimate,
    Scored,
    apply,
    difference,
    doubt,
    effective_size,
    scores,
    weighted_mean,
)
from policies.types import FloatArray

DAY_S = 86400
_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Saved:
    """USD saved by ``requests`` requests, and its standard error. ``effective`` sample size of the baseline's part."""

    requests: int
    actual_usd: float
    baseline_usd: float
    error_usd: float
    effective: float

    @property
    def saved_usd(self) -> float:
        """Baseline minus actual."""
        return self.baseline_usd - self.actual_usd

    @property
    def low_usd(self) -> float:
        """Lower end of the 95 % interval of what was saved."""
        return self.saved_usd - _Z95 * self.error_usd

    @property
    def high_usd(self) -> float:
        """Upper end of the 95 % interval of what was saved."""
        return self.saved_usd + _Z95 * self.error_usd

    @property
    def share(self) -> float:
        """Saved share of the baseline's cost; 0 when that is nothing."""
        return self.saved_usd / self.baseline_usd if self.baseline_usd > 0.0 else 0.0


@dataclass(frozen=True, slots=True)
class SavingsReport:
    """One route against ``baseline``. ``days`` by the day's first Unix second (UTC).

    ``quality_gap`` is as logged minus baseline; None when nobody rated. ``served_by_baseline`` counts requests that the
    baseline itself decided.
    """

    route: str
    baseline: str
    total: Saved
    days: Mapping[int, Saved]
    quality_gap: Estimate | None
    served_by_baseline: int
    left_out: Mapping[str, int]
    notes: tuple[str, ...]
    refused: str = ""


def usual_baseline(decisions: Decisions) -> str | None:
    """The arm that the newest request would have got without us; None when no row says."""
    known = np.flatnonzero(decisions.baseline >= 0)
    return decisions.arms[int(decisions.baseline[known[-1]])] if len(known) else None


def savings(decisions: Decisions, baseline: str) -> SavingsReport:
    """Compare what was paid with what ``baseline``, an arm of the log, would have cost."""
    target = Shares(baseline, {baseline: 1.0})
    rows = usable(decisions, target)
    place = rows.arms.index(baseline) if baseline in rows.arms else -1
    able = rows.eligible[:, place][rows.vector_of] if place >= 0 else np.zeros(len(rows), dtype=np.bool_)
    if not able.all():
        count = int((~able).sum())
        rows = rows.part(able, [f"{count:,} requests that {baseline!r} could not have served are left out."])
    drawn = drawable(rows, target.vectors(rows))
    if UNSUPPORTED >= float((~drawn).mean() if len(rows) else 0.0) > 0.0:
        # Mostly those that a cap kept from a dear baseline; they are unlike the others, so nothing tells their cost.
        rows = rows.part(
            drawn, [f"{int((~drawn).sum()):,} requests could not draw {baseline!r} and are left out."]
        )
    paid = rows.outcomes[COST]
    if not len(rows) or not np.isfinite(paid).any():
        nothing = Saved(0, 0.0, 0.0, 0.0, 0.0)
        return _report(rows, baseline, nothing, {}, None, "no request with a known cost can be compared.")
    theirs = target.vectors(rows)
    scored = apply(rows.logged(COST), theirs, rows.n_arms)
    # A request of unknown cost is as dear as requests like it; it is in both sums.
    as_logged = scores(apply(rows.logged(COST), rows.logged_vectors, rows.n_arms))
    actual = np.where(np.isfinite(paid), paid, as_logged)
    unsupported = float(scored.unsupported.mean())
    day = (rows.at // DAY_S).astype(np.int64)
    days = {int(which) * DAY_S: _saved(scored, actual, day == which) for which in np.unique(day)}
    total = _saved(scored, actual, np.ones(len(rows), dtype=np.bool_))
    refused = doubt(total.effective)
    if unsupported > UNSUPPORTED:
        refused = (
            f"{baseline!r} could not be drawn in {100 * unsupported:.0f} % of the requests; give it a floor."
        )
    return _report(rows, baseline, total, days, _quality_gap(rows, target), refused)


def _saved(scored: Scored, actual: FloatArray, which: NDArray[np.bool_]) -> Saved:
    n = int(which.sum())
    # Given the request, a score is random only by this part.
    surprise = (scored.weight * (scored.value - scored.model_chosen))[which]
    _, error = weighted_mean(surprise, np.ones(n), None if scored.units is None else scored.units[which])
    return Saved(
        n,
        float(actual[which].sum()),
        float(scores(scored)[which].sum()),
        error * n,
        effective_size(scored.weight[which]),
    )


def _quality_gap(rows: Decisions, target: Shares) -> Estimate | None:
    known = np.isfinite(rows.outcomes[QUALITY]) & rows.rateable
    if not known.any():
        return None
    logged = rows.logged(QUALITY)
    mine = apply(logged, rows.logged_vectors, rows.n_arms)
    return difference(mine, apply(logged, target.vectors(rows), rows.n_arms))


def _report(
    rows: Decisions,
    baseline: str,
    total: Saved,
    days: Mapping[int, Saved],
    gap: Estimate | None,
    refused: str,
) -> SavingsReport:
    place = rows.arms.index(baseline) if baseline in rows.arms else -1
    return SavingsReport(
        route=rows.route,
        baseline=baseline,
        total=total,
        days=days,
        quality_gap=gap,
        served_by_baseline=int((rows.chosen == place).sum()),
        left_out=rows.left_out or {},
        notes=rows.notes,
        refused=refused,
    )


def together(reports: Mapping[str, SavingsReport]) -> Saved:
    """All routes' totals, errors added as those of independent sums; refused ones are left out."""
    counted = [report.total for report in reports.values() if not report.refused]
    return Saved(
        sum(total.requests for total in counted),
        sum(total.actual_usd for total in counted),
        sum(total.baseline_usd for total in counted),
        sqrt(sum(total.error_usd**2 for total in counted)),
        sum(total.effective for total in counted),
    )
