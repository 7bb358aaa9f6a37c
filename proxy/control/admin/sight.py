"""What a contextual decision saw of its request and how it weighed the arms: as values, and in sentences.

The features are those that were logged. Scores are recomputed from the frozen policy that decided, as long as its blob
is kept; without it they are left out, and that is said.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from optimizer.context.features import feature_names
from optimizer.decision_scores import Score, Scores, features_in, scores_of
from optimizer.routing import RoutingTable
from optimizer.selector_file import BlobRefused, load
from optimizer.steering import Kept, Steering
from policies.steering import COST, LATE, QUALITY

_MOST_NAMED: Final = 10
_BIAS: Final = "bias"
# Between what was logged and what is recomputed lie float32 and a decimal or two.
_AGREES: Final = 1e-3
_UNITS: Final[Mapping[str, str]] = {
    COST: "{:.6f} USD a request",
    QUALITY: "a quality of {:.3f}",
    LATE: "{:.1%} late replies",
}


@dataclass(frozen=True, slots=True)
class Sight:
    """One contextual decision; ``scores`` None when its policy is no longer kept."""

    version: str
    features: tuple[tuple[str, float], ...]
    draw: float | None
    policy: str
    scores: Scores | None

    def document(self) -> dict[str, Any]:
        """As plain values."""
        scores = asdict(self.scores) if self.scores is not None else {}
        return {
            "features_version": self.version,
            "features": [{"name": name, "value": value} for name, value in self.features],
            "draw": self.draw,
            "policy_blob": self.policy,
            **{name: scores.get(name) for name in ("arms", "low", "high", "difference")},
        }


def look_at(data: Mapping[str, Any], table: RoutingTable | None, directory: Path) -> Sight | None:
    """What the event of a decision says of its context; None if it has none. ``directory`` keeps the blobs.

    Reads a file, so it belongs into a thread.
    """
    found = features_in(data)
    if found is None:
        return None
    version, x = found
    # A selector that looks at requests is named by its file.
    blob = Path(str(data.get("selector") or "")).name
    drawn = data.get("draw")
    return Sight(
        version=version,
        features=tuple(zip(_names(version, len(x), table), map(float, x), strict=True)),
        draw=float(drawn) if isinstance(drawn, int | float) else None,
        policy=blob,
        scores=_scores(data, directory / blob) if blob and drawn is not None else None,
    )


def sentences(sight: Sight, chosen: str) -> Iterator[str]:
    """What was seen, how the arms were weighed, and where the draw fell."""
    told = [(name, value) for name, value in sight.features if name != _BIAS and abs(value) >= 0.005]
    told.sort(key=lambda pair: -abs(pair[1]))
    listed = ", ".join(f"{name} {value:.2f}" for name, value in told[:_MOST_NAMED])
    more = f" and {len(told) - _MOST_NAMED} more" if len(told) > _MOST_NAMED else ""
    yield f"What was seen of the request (features {sight.version}): {listed or 'nothing in particular'}{more}."
    if sight.draw is None:
        return
    scores = sight.scores
    if scores is None:
        yield f"The policy that decided ({sight.policy}) is no longer kept, so its scores can not be shown."
        yield f"The draw was {sight.draw:.4f}."
        return
    rows = sorted((row for row in scores.arms if row.eligible), key=lambda row: -row.mean)
    yield (
        f"Scores, as mean ± standard deviation: {'; '.join(_score(row) for row in rows[:_MOST_NAMED])}. An arm's "
        "probability is that of having the greatest."
    )
    if any(row.given > 0.0 for row in rows):
        floor = ", ".join(f"{row.arm} {row.given:.1%}" for row in rows[:_MOST_NAMED] if row.given > 0.0)
        yield f"Whatever the request is like, so much is for exploring: {floor}."
    yield (
        f"The draw was {sight.draw:.4f}, and {chosen!r} has the stretch from {scores.low:.4f} to {scores.high:.4f}."
    )
    if scores.difference > _AGREES:
        yield (
            f"Computed again the probabilities differ by up to {scores.difference:.4f} from those that were logged; "
            "what was logged is what was drawn from."
        )


def constraint_words(steering: Steering) -> list[str]:
    """One clause per constraint: what is asked, what happens, what it weighs, and whether it can be kept."""
    return [_kept(kept) for kept in steering.kept]


def _kept(kept: Kept) -> str:
    unit = _UNITS.get(kept.name, "{:g}")
    bound = "at least" if kept.name == QUALITY else "at most"
    now = f"now {unit.format(kept.actual)}" if kept.actual is not None else "nothing observed yet"
    weighs = f", multiplier {kept.multiplier:.4g}" if kept.multiplier > 0.0 else ", not binding"
    lost = (
        ""
        if kept.feasible
        else f"; it can not be kept with what else is asked: the nearest is {unit.format(kept.expected)}"
    )
    return f"{bound} {unit.format(kept.target)} ({now}{weighs}{lost})"


def _score(row: Score) -> str:
    charged = sum(row.penalties)
    cost = f", predicted cost {row.predicted_cost_usd:.6f} USD" if row.predicted_cost_usd is not None else ""
    return (
        f"{row.arm} {row.mean:.3f} ± {row.deviation:.3f} (worth {row.value:.3f}, charged {charged:.3f}{cost})"
    )


def _scores(data: Mapping[str, Any], path: Path) -> Scores | None:
    try:
        return scores_of(data, load(path))
    except BlobRefused:
        return None


def _names(version: str, size: int, table: RoutingTable | None) -> Sequence[str]:
    """Names of the features; of a version that is no longer in use only their numbers are known."""
    for route in table.routes if table is not None else ():
        if route.features is not None and route.features.version == version and route.features.size == size:
            return feature_names(route.features)
    return [f"x{number}" for number in range(size)]
