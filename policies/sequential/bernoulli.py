"""Is something happening too often? E-processes for shares of yes/no outcomes, one-sided.

An e-process is a bet against a hypothesis: it starts at 1, its expectation under the hypothesis is at most 1 at
every stopping time, so it reaches 1/alpha with probability alpha at most, however often one looks (Ville). Both
tests bet with a mixture over how much worse the odds may be, so that small and large harm are both found.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log, log1p
from typing import Any, Final

GROWTHS: Final = ((1.8, 0.1), (5.0, 0.8), (20.0, 0.1))
"""Odds ratios to bet on against control, with their weights, which sum to 1."""

SHARE_GROWTHS: Final = ((1.7, 0.15), (3.0, 0.25), (6.0, 0.45), (20.0, 0.15))
"""The same against a share that is known, which leaves evidence for small excesses too."""

# Before the first outcomes the control's share is believed to be 2 %: half an event in 25 outcomes.
_PRIOR_EVENTS = 0.5
_PRIOR_OUTCOMES = 25.0
# No bet is placed before the control has shown this much: a first block may be large, and a bet on a wrong belief
# would cost dearly.
_LESSON = 8
_LEAST_SHARE = 1e-4
_MOST_SHARE = 0.9


def log_mixture(logs: Iterable[float], weights: Iterable[float]) -> float:
    """ln(sum(w * exp(l))) without overflow; -inf when nothing is left."""
    terms = [value + log(weight) for value, weight in zip(logs, weights, strict=True)]
    top = max(terms)
    return top if top == -inf else top + log(sum(exp(term - top) for term in terms))


def raised(share: float, odds_ratio: float) -> float:
    """The share whose odds are ``odds_ratio`` times those of ``share``; both in (0, 1)."""
    return odds_ratio * share / (1.0 - share + odds_ratio * share)


def log_evidence_above(
    events: int, outcomes: int, share: float, *, growths: Sequence[tuple[float, float]] = SHARE_GROWTHS
) -> float:
    """ln of the e-process against "the share of events is at most ``share``".

    It depends on the sums only, so outcomes may be added in any grouping.

    Args:
        events: How many of ``outcomes`` were events.
        outcomes: All of them, >= events.
        share: The greatest share that is acceptable, in [0, 1).
        growths: Odds ratios above 1 to bet on, with weights summing to 1.

    Raises:
        ValueError: If ``share`` is outside [0, 1).
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"share must lie in [0, 1), not {share}")
    base = max(share, _LEAST_SHARE)
    logs = []
    for ratio, _ in growths:
        bet = raised(base, ratio)
        logs.append(events * log(bet / base) + (outcomes - events) * log((1.0 - bet) / (1.0 - base)))
    return log_mixture(logs, (weight for _, weight in growths))


@dataclass(slots=True)
class TwoSample:
    """Against "the candidate's share of events is at most that of the concurrent control".

    Outcomes are gathered into blocks that hold at least one of each side. For a block of c control and t candidate
    outcomes the bet (p, q) multiplies the evidence by p^y (1-p)^(c-y) q^z (1-q)^(t-z) over the same with both sides at
    m = (c p + t q) / (c + t): the point of the hypothesis that is nearest to the bet (Turner, Ly and Grünwald). Its
    expectation is at most 1 whatever the shares are, as long as the candidate's is no greater, so a disturbance that
    hits both sides is no evidence. ``p`` is what control has shown in the blocks before.

    The intended share of the candidate is no substitute for a block's composition t / (c + t), although it would keep
    a tenth more evidence: outcomes are known when requests end, and of a candidate that is slower fewer have ended than
    were assigned to it. What is missing would count against it: it would be rolled back for errors that nobody made.

    ``peak`` is the greatest ln evidence so far: a test that has rejected stays rejected.
    """

    growths: Sequence[tuple[float, float]] = GROWTHS
    logs: list[float] | None = None
    peak: float = 0.0
    control_events: int = 0
    control_outcomes: int = 0
    waiting: tuple[int, int, int, int] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        if self.logs is None:
            self.logs = [0.0] * len(self.growths)

    @property
    def value(self) -> float:
        """ln of the evidence at present."""
        return log_mixture(self.logs or (), (weight for _, weight in self.growths))

    def add(self, control: tuple[int, int], candidate: tuple[int, int]) -> None:
        """Take outcomes in, each side as (events, outcomes).

        Raises:
            ValueError: If a side has more events than outcomes, or a negative count.
        """
        for events, outcomes in (control, candidate):
            if not 0 <= events <= outcomes:
                raise ValueError(f"{events} events among {outcomes} outcomes")
        y, c, z, t = self.waiting
        y, c, z, t = y + control[0], c + control[1], z + candidate[0], t + candidate[1]
        if c and t:
            self._bet(y, c, z, t)
            self.waiting = (0, 0, 0, 0)
        else:
            self.waiting = (y, c, z, t)

    def _bet(self, y: int, c: int, z: int, t: int) -> None:
        if self.control_outcomes >= _LESSON:
            p = (self.control_events + _PRIOR_EVENTS) / (self.control_outcomes + _PRIOR_OUTCOMES)
            p = min(max(p, _LEAST_SHARE), _MOST_SHARE)
            events, calm = log(p), log1p(-p)
            assert self.logs is not None
            for place, (ratio, _) in enumerate(self.growths):
                # ln q = ln(ratio p) - shift and ln(1 - q) = ln(1 - p) - shift, see ``raised``.
                shift = log1p((ratio - 1.0) * p)
                q = ratio * p / (1.0 - p + ratio * p)
                m = p + t / (c + t) * (q - p)
                up, down = log(m), log1p(-m)
                self.logs[place] += (
                    y * (events - up)
                    + (c - y) * (calm - down)
                    + z * (log(ratio) + events - shift - up)
                    + (t - z) * (calm - shift - down)
                )
            if max(self.logs) > self.peak:  # the mixture lies below its best bet
                self.peak = max(self.peak, self.value)
        self.control_events += y
        self.control_outcomes += c

    def snapshot(self) -> dict[str, Any]:
        """Everything that ``restore`` needs, as plain values."""
        return {
            "logs": list(self.logs or ()),
            "peak": self.peak,
            "control": [self.control_events, self.control_outcomes],
            "waiting": list(self.waiting),
        }

    @classmethod
    def restore(
        cls, data: Mapping[str, Any], *, growths: Sequence[tuple[float, float]] = GROWTHS
    ) -> "TwoSample":
        """The test as it was.

        Raises:
            KeyError, TypeError, ValueError: If ``data`` is no snapshot of a test with these ``growths``.
        """
        logs = [float(value) for value in data["logs"]]
        if len(logs) != len(growths):
            raise ValueError(f"{len(logs)} bets were saved, {len(growths)} are placed")
        events, outcomes = data["control"]
        y, c, z, t = data["waiting"]
        return cls(growths, logs, float(data["peak"]), int(events), int(outcomes), (y, c, z, t))
