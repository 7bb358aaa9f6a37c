"""What the guards of a rollout count: plain sums per side, so that workers, retries and restarts only ever add.

A count is booked under the side to which the unit was assigned, whatever happened afterwards (intention to treat).
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SideCounts:
    """One side of a rollout, since the last observation or summed up.

    ``assigned``: decisions for the side. ``resolved``: completed requests and ``errors``. ``errors``: the first attempt
    failed upstream, even when a fallback saved the request. ``rejected``: the upstream refused the request as the
    caller's fault (4xx); not among ``resolved``. ``invalid``: completed, but empty, not the JSON that was asked for,
    or a refusal. ``timed``: completed with a known time, ``slow`` of them above ``Guarding.reference_ms``, ``late``
    above ``Guarding.threshold_ms``. ``priced``: completed with a known cost, ``cost_usd`` and ``cost_usd2`` its sum
    and that of its square. ``rated``: feedback on quality in 0..1, with the same two sums.
    """

    assigned: int = 0
    resolved: int = 0
    errors: int = 0
    rejected: int = 0
    invalid: int = 0
    timed: int = 0
    slow: int = 0
    late: int = 0
    priced: int = 0
    cost_usd: float = 0.0
    cost_usd2: float = 0.0
    rated: int = 0
    quality: float = 0.0
    quality2: float = 0.0

    @property
    def is_possible(self) -> bool:
        """Whether nothing happened more often than it could."""
        completed = self.resolved - self.errors
        return (
            0 <= self.invalid <= completed
            and max(self.slow, self.late) <= self.timed
            and max(self.quality, self.quality2) <= self.rated
        )

    def __add__(self, other: "SideCounts") -> "SideCounts":
        # Written out: guards add a few of these per worker and quarter of a second, simulations millions.
        return SideCounts(
            self.assigned + other.assigned,
            self.resolved + other.resolved,
            self.errors + other.errors,
            self.rejected + other.rejected,
            self.invalid + other.invalid,
            self.timed + other.timed,
            self.slow + other.slow,
            self.late + other.late,
            self.priced + other.priced,
            self.cost_usd + other.cost_usd,
            self.cost_usd2 + other.cost_usd2,
            self.rated + other.rated,
            self.quality + other.quality,
            self.quality2 + other.quality2,
        )


@dataclass(frozen=True, slots=True)
class Observation:
    """What both sides did in the same stretch of time."""

    control: SideCounts = field(default_factory=SideCounts)
    candidate: SideCounts = field(default_factory=SideCounts)

    def __add__(self, other: "Observation") -> "Observation":
        return Observation(self.control + other.control, self.candidate + other.candidate)
