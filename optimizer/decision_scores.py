"""How a contextual decision came about, recomputed from the frozen policy that made it and the logged features.

Pure: the logged ``data`` of a ``request.v1`` event and the ``Index`` of its selector in, scores out. What was logged is
what happened; what is recomputed explains it, and ``difference`` says how well the two agree.
"""

from base64 import b64decode
from binascii import Error
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from policies.contextual import Index
from policies.types import FloatArray

_LARGEST_EXPONENT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Score:
    """One arm as the policy saw it for this request.

    ``mean`` and ``deviation`` are those of its index; ``mean`` = ``value`` minus all of ``penalties`` (costs and times
    that objectives or constraints charge). ``given`` is the share that it has whatever the request is like.
    ``probability`` is the logged one, ``recomputed`` what the policy gives now.
    """

    arm: str
    eligible: bool
    mean: float
    deviation: float
    value: float
    penalties: tuple[float, ...]
    predicted_cost_usd: float | None
    given: float
    probability: float
    recomputed: float


@dataclass(frozen=True, slots=True)
class Scores:
    """A whole decision. ``low`` and ``high`` bound the stretch of [0, 1) that belongs to the chosen arm.

    ``difference`` is the largest between a logged and a recomputed probability.
    """

    arms: tuple[Score, ...]
    low: float
    high: float
    difference: float


def features_in(data: Mapping[str, Any]) -> tuple[str, FloatArray] | None:
    """Version and values of the logged features, shape (d,); None if there are none or they can not be read."""
    context = data.get("context")
    if not isinstance(context, Mapping):
        return None
    version, encoded = context.get("version"), context.get("x")
    if not isinstance(version, str) or not isinstance(encoded, str):
        return None
    try:
        values = np.frombuffer(b64decode(encoded, validate=True), "<f4")
    except (Error, ValueError):
        return None
    return version, values.astype(np.float64)


def scores_of(data: Mapping[str, Any], index: Index) -> Scores | None:
    """Score every arm of a decision that was drawn by ``index``; None if the event is not of such a decision."""
    found = features_in(data)
    arms, logged = data.get("arms"), data.get("probabilities")
    if found is None or not isinstance(arms, list) or not isinstance(logged, list):
        return None
    x = found[1]
    if x.size != index.size or not len(arms) == len(logged) == index.n_arms or data.get("arm") not in arms:
        return None
    left_out = data.get("filtered") or {}
    eligible = [arm not in left_out for arm in arms]
    if not any(eligible):
        return None
    recomputed = index.shares(x, np.array(eligible))
    probabilities = np.array(logged, dtype=np.float64)
    # Shares lie in arm order on [0, their sum), which is 1 but for rounding.
    ends = np.cumsum(probabilities) / probabilities.sum()
    chosen = arms.index(data["arm"])
    return Scores(
        arms=_rows(index, x, arms, eligible, probabilities, recomputed),
        low=float(ends[chosen - 1]) if chosen else 0.0,
        high=float(ends[chosen]),
        difference=float(np.abs(probabilities - recomputed).max()),
    )


def _rows(
    index: Index,
    x: FloatArray,
    arms: Sequence[str],
    eligible: Sequence[bool],
    logged: FloatArray,
    recomputed: FloatArray,
) -> tuple[Score, ...]:
    mean, deviation, value = index.mean(x), index.deviation(x), index.value @ x
    penalties = np.exp(np.minimum(index.charges @ x, _LARGEST_EXPONENT)).reshape(-1, index.n_arms)
    cost = np.exp(np.minimum(index.cost @ x, _LARGEST_EXPONENT))
    return tuple(
        Score(
            arm=str(arm),
            eligible=eligible[at],
            mean=float(mean[at]),
            deviation=float(deviation[at]),
            value=float(value[at]),
            penalties=tuple(map(float, penalties[:, at])),
            predicted_cost_usd=float(cost[at]) if cost[at] > 0.0 else None,
            given=float(index.given[at]),
            probability=float(logged[at]),
            recomputed=float(recomputed[at]),
        )
        for at, arm in enumerate(arms)
    )
