"""Is the candidate surely not worse than control by a margin? E-processes against "it is worse by as much or more".

They hold exactly, at any number of outcomes and however often one looks, which intervals from a sample variance do
not: a rare event that has not happened yet makes these look certain. Both gather blocks with at least one outcome of
each side and bet, from what the blocks before have shown, on two beliefs at once: that the sides are equal, and that
each goes on as it did.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log, log1p
from typing import Any, Final

from policies.sequential.bernoulli import log_mixture
from policies.sequential.confidence import Sample

_BELIEFS: Final = (0.5, 0.5)  # weights of "equal" and "as they did"
_PRIOR_OUTCOMES = 25.0
_PRIOR_SHARE = 0.02
_PRIOR_RATINGS = 4.0
_PRIOR_VARIANCE = 0.15
_LEAST_SHARE = 1e-4
# A bet never stakes everything: one bad block must leave something to go on with.
_STAKE = 0.9


@dataclass(slots=True)
class ShareMargin:
    """Against "the candidate's share of events is at least control's plus ``margin``" (events are harm).

    For a bet (p, q) the null is represented by its nearest point (m, m + margin), nearest in c KL(p, m) + t KL(q, m +
    margin). There the slopes of both factors balance, so their expectation is at most 1 under every pair of shares at
    least ``margin`` apart. Source: Turner and Grünwald, "Exact anytime-valid confidence intervals for contingency
    tables and beyond" (2023).
    """

    margin: float
    logs: list[float] = field(default_factory=lambda: [0.0, 0.0])
    peak: float = 0.0
    seen: tuple[int, int, int, int] = (0, 0, 0, 0)
    waiting: tuple[int, int, int, int] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        _check(self.margin)

    @property
    def value(self) -> float:
        """ln of the evidence at present."""
        return log_mixture(self.logs, _BELIEFS)

    def add(self, control: tuple[int, int], candidate: tuple[int, int]) -> None:
        """Take outcomes in, each side as (events, outcomes)."""
        y, c, z, t = (old + new for old, new in zip(self.waiting, (*control, *candidate), strict=True))
        if not (c and t):
            self.waiting = (y, c, z, t)
            return
        self.waiting = (0, 0, 0, 0)
        p = self._belief(self.seen[0], self.seen[1], _PRIOR_SHARE)
        q = self._belief(self.seen[2], self.seen[3], p)
        for place, bet in enumerate((p, min(q, p + self.margin / 2.0))):
            m = self._nearest(p, bet, c, t)
            n = m + self.margin
            self.logs[place] += (
                y * log(p / m)
                + (c - y) * (log1p(-p) - log1p(-m))
                + z * log(bet / n)
                + (t - z) * (log1p(-bet) - log1p(-n))
            )
        self.peak = max(self.peak, self.value)
        self.seen = (self.seen[0] + y, self.seen[1] + c, self.seen[2] + z, self.seen[3] + t)

    def _belief(self, events: int, outcomes: int, prior: float) -> float:
        share = (events + prior * _PRIOR_OUTCOMES) / (outcomes + _PRIOR_OUTCOMES)
        return min(max(share, _LEAST_SHARE), (1.0 - self.margin) * 0.99)

    def _nearest(self, p: float, q: float, c: int, t: int) -> float:
        low, high = max(0.0, q - self.margin), p
        for _ in range(40):
            m = (low + high) / 2.0
            n = m + self.margin
            if m <= 0.0 or c * (p - m) * n * (1.0 - n) > t * (n - q) * m * (1.0 - m):
                low = m
            else:
                high = m
        return max((low + high) / 2.0, 1e-12)

    def snapshot(self) -> dict[str, Any]:
        """Everything that ``restore`` needs, as plain values."""
        return {
            "logs": list(self.logs),
            "peak": self.peak,
            "seen": list(self.seen),
            "waiting": list(self.waiting),
        }

    @classmethod
    def restore(cls, margin: float, data: Mapping[str, Any]) -> "ShareMargin":
        """The test as it was.

        Raises:
            KeyError, TypeError, ValueError: If ``data`` is no snapshot.
        """
        first, second = data["logs"]
        y, c, z, t = data["seen"]
        v, d, w, u = data["waiting"]
        return cls(margin, [float(first), float(second)], float(data["peak"]), (y, c, z, t), (v, d, w, u))


@dataclass(slots=True)
class MeanMargin:
    """Against "the candidate's mean is at most control's minus ``margin``", for values in 0..1.

    A block's difference d of means lies in -1..1, and while the hypothesis holds d + margin is expected to be at most
    0; so 1 + stake (d + margin) with a stake chosen beforehand and below 1 is a fair bet at best. Source: Waudby-Smith
    and Ramdas, "Estimating means of bounded random variables by betting" (2024).
    """

    margin: float
    logs: list[float] = field(default_factory=lambda: [0.0, 0.0])
    peak: float = 0.0
    control: Sample = field(default_factory=Sample)
    candidate: Sample = field(default_factory=Sample)
    waiting: tuple[Sample, Sample] = field(default_factory=lambda: (Sample(), Sample()))

    def __post_init__(self) -> None:
        _check(self.margin)

    @property
    def value(self) -> float:
        """ln of the evidence at present."""
        return log_mixture(self.logs, _BELIEFS)

    def add(self, control: Sample, candidate: Sample) -> None:
        """Take values in 0..1 in.

        Raises:
            ValueError: If a mean lies outside 0..1.
        """
        control, candidate = self.waiting[0] + control, self.waiting[1] + candidate
        if not (control.count and candidate.count):
            self.waiting = (control, candidate)
            return
        if not (-1e-9 <= control.mean <= 1.0 + 1e-9 and -1e-9 <= candidate.mean <= 1.0 + 1e-9):
            raise ValueError(f"values must lie in 0..1, their means are {control.mean} and {candidate.mean}")
        self.waiting = (Sample(), Sample())
        noise = _variance(self.control) / control.count + _variance(self.candidate) / candidate.count
        gained = candidate.mean - control.mean + self.margin
        for place, expected in enumerate((self.margin, self.margin + self._gap())):
            stake = min(max(expected / (noise + expected**2), 0.0), _STAKE)
            self.logs[place] += log1p(stake * gained)
        self.peak = max(self.peak, self.value)
        self.control, self.candidate = self.control + control, self.candidate + candidate

    def _gap(self) -> float:
        known = self.candidate.count
        return (self.candidate.mean - self.control.mean) * known / (known + _PRIOR_OUTCOMES)

    def snapshot(self) -> dict[str, Any]:
        """Everything that ``restore`` needs, as plain values."""
        sides = (self.control, self.candidate, *self.waiting)
        return {
            "logs": list(self.logs),
            "peak": self.peak,
            "sides": [[side.count, side.total, side.squares] for side in sides],
        }

    @classmethod
    def restore(cls, margin: float, data: Mapping[str, Any]) -> "MeanMargin":
        """The test as it was.

        Raises:
            KeyError, TypeError, ValueError: If ``data`` is no snapshot.
        """
        first, second = data["logs"]
        control, candidate, one, other = (Sample(*map(float, row)) for row in data["sides"])
        return cls(
            margin, [float(first), float(second)], float(data["peak"]), control, candidate, (one, other)
        )


def _variance(sample: Sample) -> float:
    known = sample.variance(unit=True) * sample.count if sample.count else 0.0
    return (known + _PRIOR_VARIANCE * _PRIOR_RATINGS) / (sample.count + _PRIOR_RATINGS)


def _check(margin: float) -> None:
    if not 0.0 < margin < 1.0:
        raise ValueError(f"margin must lie in (0, 1), not {margin}")
