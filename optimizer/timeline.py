"""When things happened, as evidence sees it: decay clocks and resets of every route, shared by all of its sums.

Evidence is kept per (generation, epoch). The epoch is a stretch of the route's decay clock, so that a weight never
depends on when an observation was read. The generation counts the resets of an arm up to the observation; what an
older generation still counts is the product of the ``keep`` of all resets since (0 forgets it). An observation from
before a reset belongs to its older generation also when it arrives later.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp2, isfinite
from typing import NamedTuple, TypeAlias

from optimizer.decay import EPOCH_HALF_LIVES, HORIZON_HALF_LIVES, Bend, DecayClock, epoch_of

DEFAULT_HALF_LIFE_S = 7 * 86400.0
# An event from further ahead of the present than this can not delay a new half-life or a reset.
FUTURE_S = 300.0
# Several partial resets leave less than this of the oldest evidence: it is gone.
LEAST_KEPT = 1e-9

RouteArm: TypeAlias = tuple[str, str, str]  # route, model key, variant key


@dataclass(frozen=True, slots=True)
class Reset:
    """From now on, what happened before ``at`` counts ``keep`` (0..1) times; empty keys mean all arms of the route.

    With ``signals`` (their names without a version) only those count less.
    """

    route: str
    model_key: str
    variant_key: str
    at: float
    keep: float = 0.0
    signals: tuple[str, ...] = ()


class Place(NamedTuple):
    """Where an observation belongs, and its weight there."""

    generation: int
    epoch: int
    weight: float


class Timeline:
    """Clocks and resets of one node."""

    def __init__(
        self, *, clocks: Mapping[str, Iterable[Bend]] | None = None, resets: Iterable[Reset] = ()
    ) -> None:
        self._clocks = {route: DecayClock(bends) for route, bends in (clocks or {}).items()}
        self._resets: list[Reset] = list(resets)
        # Drift makes resets for ever, and only those of its own route concern an arm.
        self._by_route: dict[str, list[Reset]] = {}
        for reset in self._resets:
            self._by_route.setdefault(reset.route, []).append(reset)
        self._stored = len(self._resets)
        self._times: dict[RouteArm, tuple[float, ...]] = {}
        self._kept: dict[RouteArm, tuple[float, ...]] = {}
        self._shares: dict[tuple[RouteArm, str], tuple[float, ...]] = {}
        self._clocks_dirty = False
        self.latest = 0.0  # newest event time seen

    # --- placing ------------------------------------------------------------------------------------

    def place(self, arm: RouteArm, time: float) -> Place:
        """Where an observation of event time ``time`` (Unix seconds) belongs.

        Raises:
            ValueError: If the time is not finite.
        """
        if not isfinite(time):
            raise ValueError(f"an event time must be a finite number, got {time}")
        age = self.clock(arm[0]).age(time)
        epoch = int(age // EPOCH_HALF_LIVES)
        generation = bisect_right(self._times_of(arm), time) if arm[0] in self._by_route else 0
        return Place(generation, epoch, exp2(age - epoch * EPOCH_HALF_LIVES))

    def saw(self, time: float) -> None:
        """Take note of an event's time."""
        self.latest = max(self.latest, time)

    def clock(self, route: str) -> DecayClock:
        """The route's clock, started with the default half-life if it has none."""
        return self._clocks.get(route) or self.start(route, DEFAULT_HALF_LIFE_S)

    def start(self, route: str, half_life_s: float) -> DecayClock:
        """Give a route its clock."""
        clock = self._clocks[route] = DecayClock.start(half_life_s)
        self._clocks_dirty = True
        return clock

    def knows(self, route: str) -> bool:
        """Whether a route has a clock."""
        return route in self._clocks

    # --- reading ------------------------------------------------------------------------------------

    def kept(self, arm: RouteArm, generation: int) -> float:
        """How much evidence of a generation still counts, 0..1, by the resets of all signals."""
        if arm[0] not in self._by_route:
            return 1.0
        factors = self._kept.get(arm)
        if factors is None:
            keeps = [1.0 if reset.signals else reset.keep for reset in self._concerning(arm)]
            factors = self._kept[arm] = _products(keeps)
        return factors[generation] if generation < len(factors) else 1.0

    def share(self, arm: RouteArm, generation: int, signal: str) -> float:
        """How much of a generation's evidence about one signal still counts, beside ``kept``."""
        if arm[0] not in self._by_route:
            return 1.0
        factors = self._shares.get((arm, signal))
        if factors is None:
            name = signal.partition("@")[0]
            keeps = [reset.keep if name in reset.signals else 1.0 for reset in self._concerning(arm)]
            factors = self._shares[arm, signal] = _products(keeps)
        return factors[generation] if generation < len(factors) else 1.0

    def scale(self, arm: RouteArm, generation: int, epoch: int, age: float) -> float:
        """What sums of an epoch are to be multiplied by when the route's clock reads ``age``; 0: not readable.

        One epoch ahead is a clock that is slightly off; anything further is no time to reckon with.
        """
        if not epoch_of(age - HORIZON_HALF_LIVES) <= epoch <= epoch_of(age) + 1:
            return 0.0
        kept = self.kept(arm, generation)
        return kept * exp2(epoch * EPOCH_HALF_LIVES - age) if kept > 0.0 else 0.0

    def is_past(self, arm: RouteArm, generation: int, epoch: int, now: float) -> bool:
        """Whether sums can never be read again from ``now`` on."""
        age = self.clock(arm[0]).age(now)
        return epoch < epoch_of(age - HORIZON_HALF_LIVES) or self.kept(arm, generation) <= 0.0

    # --- being told ---------------------------------------------------------------------------------

    def set_half_life(self, route: str, half_life_s: float, *, at: float) -> None:
        """Forget at this half-life from ``at`` on, or from the newest event, so that no weight given changes.

        Raises:
            ValueError: If the half-life is not positive.
        """
        clock = self._clocks.get(route)
        if clock is None:
            self.start(route, half_life_s)
        elif clock.bend(half_life_s, self._not_before_events(at)):
            self._clocks_dirty = True

    def reset(self, reset: Reset) -> None:
        """Let older evidence count less from now on.

        Raises:
            ValueError: If ``keep`` is not within 0..1.
        """
        if not 0.0 <= reset.keep <= 1.0:
            raise ValueError(f"keep must be within 0..1, got {reset.keep}")
        # Never before an earlier one: generations are counted in this order, and stored sums carry the count.
        earliest = self._resets[-1].at if self._resets else reset.at
        at = max(self._not_before_events(reset.at), earliest)
        made = replace(reset, at=at)
        self._resets.append(made)
        self._by_route.setdefault(made.route, []).append(made)
        for arm in [arm for arm in self._times if arm[0] == made.route]:
            del self._times[arm]
        for arm in [arm for arm in self._kept if arm[0] == made.route]:
            del self._kept[arm]
        for key in [key for key in self._shares if key[0][0] == made.route]:
            del self._shares[key]

    def forget_before(self, now: float) -> None:
        """Let go of what no readable age depends on."""
        for clock in self._clocks.values():
            self._clocks_dirty |= clock.forget_before(now)

    # --- storing and comparing ------------------------------------------------------------------------

    @property
    def clocks(self) -> dict[str, tuple[Bend, ...]]:
        """Bends of every clock."""
        return {route: clock.bends for route, clock in self._clocks.items()}

    @property
    def resets(self) -> tuple[Reset, ...]:
        """All resets, oldest first."""
        return tuple(self._resets)

    def join(self, other: "Timeline") -> None:
        """Take over the clocks of routes that are unknown here.

        Raises:
            ValueError: If a route's clock or the resets differ, so that sums would not be comparable.
        """
        if other._resets != self._resets:
            raise ValueError("statistics with different resets can not be merged")
        for route, clock in other._clocks.items():
            own = self._clocks.setdefault(route, DecayClock(clock.bends))
            if own.bends != clock.bends:
                raise ValueError(f"the decay clocks of route {route!r} differ")
        self.saw(other.latest)

    def changed_clocks(self) -> dict[str, tuple[Bend, ...]] | None:
        """All clocks if one changed since ``stored``."""
        return self.clocks if self._clocks_dirty else None

    def new_resets(self) -> tuple[Reset, ...]:
        """The resets since ``stored``."""
        return tuple(self._resets[self._stored :])

    def stored(self) -> None:
        """Take note that everything is durable."""
        self._clocks_dirty = False
        self._stored = len(self._resets)

    def _not_before_events(self, at: float) -> float:
        return max(at, min(self.latest, at + FUTURE_S))

    def _concerning(self, arm: RouteArm) -> list[Reset]:
        keys = (("", ""), arm[1:])
        of_route = self._by_route.get(arm[0], ())
        return [reset for reset in of_route if (reset.model_key, reset.variant_key) in keys]

    def _times_of(self, arm: RouteArm) -> tuple[float, ...]:
        times = self._times.get(arm)
        if times is None:
            times = self._times[arm] = tuple([reset.at for reset in self._concerning(arm)])
        return times


def _products(keeps: Sequence[float]) -> tuple[float, ...]:
    """What is left of each generation after all later resets, the newest generation last."""
    products = [1.0]
    for keep in reversed(keeps):
        left = products[-1] * keep
        products.append(left if left >= LEAST_KEPT else 0.0)
    return tuple(reversed(products))
