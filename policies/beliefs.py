"""What is believed about the arms of a route for a request with features x, in the form that an index is made of.

Quality is linear in x, cost, latency and time to first token are log-linear; the levels are the context-free
posteriors, the slopes come from ``policies.linear``. Without features (d = 1) this is the context-free belief.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from policies.linear import LinearSums, Slopes, fit_slopes
from policies.objective import LOG_METRICS, QUALITY, Utility, posterior_of, scatter_of
from policies.posterior import Posterior, log_noise
from policies.quadrature import normal_cdf
from policies.types import ArmEvidence, FloatArray, Goal, PolicyParams

COST = "cost"
COST_USD = "cost_usd"

# A logarithm that stands for "nothing": exp() of it is 0.
_NOTHING = -700.0
# Dollars are predicted from logarithms; so many observations weigh as much as the log-normal assumption.
_LOG_NORMAL = 20.0


@dataclass(frozen=True, slots=True)
class Line:
    """One metric of K arms: mean ``weights`` (K, d) @ x, of variance x' ``spread`` (K, d, d) x + ``level`` (K,)."""

    weights: FloatArray
    spread: FloatArray
    level: FloatArray


@dataclass(frozen=True, slots=True)
class Beliefs:
    """Everything an index, and the constraints on it, are made of. K arms, d features.

    ``value`` (K, d), ``charges`` (C, K, d) and ``noise`` (K,): the objectives' part of the index but for quality, as in
    ``policies.contextual.Index``. ``quality``: expected quality, of which the objectives want ``pursued`` (K,) times.
    ``cost`` (K, d): ln of the expected cost in USD, of which ``priced`` (K,) says who has ever been observed. ``late``
    (K,): probability of a reply that takes too long. ``gain`` 0..1: how sure it is that the features tell the arms'
    quality apart. ``slopes``: by metric how it depends on x, (K, d), without any level: the constants are 0.
    """

    value: FloatArray
    charges: FloatArray
    noise: FloatArray
    quality: Line
    pursued: FloatArray
    cost: FloatArray
    priced: FloatArray
    late: FloatArray
    gain: float
    slopes: Mapping[str, FloatArray] = field(default_factory=dict)

    def cost_usd(self, x: FloatArray) -> FloatArray:
        """Expected cost of every arm, shape (..., K)."""
        cost: FloatArray = np.exp(np.clip(x @ self.cost.T, _NOTHING, 60.0))
        return cost


def form(
    evidence: Sequence[ArmEvidence],
    goals: Sequence[Goal],
    params: PolicyParams,
    *,
    size: int,
    linear: Mapping[str, Sequence[LinearSums | None]],
    guesses_usd: Sequence[float | None] | None = None,
    late: tuple[str, float] | None = None,
) -> Beliefs:
    """Form the beliefs of one side.

    Args:
        evidence: One per arm.
        goals: What to pursue.
        params: Knobs of the policy.
        size: Number of features d.
        linear: Sums by metric (``quality``, ``cost``, ``latency``, ``ttft``), one per arm; a metric that is missing is
            believed not to depend on x.
        guesses_usd: What an arm may cost that was never observed; None where nobody knows.
        late: The metric (``latency`` or ``ttft``) and the time in seconds beyond which a reply is late.
    """
    utility = Utility(evidence, goals, params)
    slopes = {
        metric: fit_slopes(sums, size, noise=_expected_noise(metric), max_memory=params.max_memory)
        for metric, sums in linear.items()
    }
    value, charges, pursued = _objectives(evidence, utility, slopes, size)
    quality = posterior_of(QUALITY, evidence, params, maximize=True)
    assert quality is not None  # Its prior has a centre.
    quality_slope = slopes.get(QUALITY)
    return Beliefs(
        value=value,
        charges=charges,
        noise=utility.spread(without=QUALITY) ** 2,
        quality=Line(
            _line(quality, quality_slope, size),
            np.zeros((utility.n_arms, size, size)) if quality_slope is None else quality_slope.spread,
            quality.spread**2,
        ),
        pursued=pursued,
        cost=_cost(evidence, params, slopes.get(COST), size, guesses_usd),
        priced=np.array([arm.signal(COST).weight > 0.0 for arm in evidence]),
        late=_late(evidence, params, late),
        gain=0.0 if quality_slope is None else quality_slope.gain,
        slopes={metric: _level_free(slope) for metric, slope in slopes.items()},
    )


def _level_free(slope: Slopes) -> FloatArray:
    weights = slope.weights.copy()
    weights[:, 0] = 0.0
    return weights


def _objectives(
    evidence: Sequence[ArmEvidence], utility: Utility, slopes: Mapping[str, Slopes], size: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """``value``, ``charges`` and ``pursued`` of ``Beliefs``."""
    success = utility.success.mean
    value = np.zeros((utility.n_arms, size))
    value[:, 0] = success * utility.bare + (1.0 - success) * utility.failed
    pursued, charges = np.zeros(utility.n_arms), []
    for term in utility.terms:
        slope = slopes.get(term.metric)
        factor = term.sign * term.weight * success / term.scale
        if term.metric in LOG_METRICS and term.sign < 0:
            line = (
                _dollars(evidence, term.posterior, slope, size)
                if term.metric == COST
                else _log_line(term.posterior, slope, size)
            )
            line[:, 0] += np.log(np.maximum(-factor, 1e-300))
            charges.append(line)
        elif term.metric in LOG_METRICS:
            value[:, 0] += term.sign * term.weight * success * term.scaled(term.posterior.mean)
        elif term.metric == QUALITY and term.sign > 0:
            pursued = pursued + factor
        else:
            value += factor[:, None] * _line(term.posterior, slope, size)
    return value, np.array(charges).reshape(len(charges), utility.n_arms, size), pursued


def _expected_noise(metric: str) -> float:
    scatter = scatter_of(metric)
    return scatter.within if scatter is not None else 1.0


def _line(posterior: Posterior, slope: Slopes | None, size: int) -> FloatArray:
    """Weights of a metric in its stored unit, shape (K, d)."""
    line = np.zeros((posterior.mean.size, size)) if slope is None else slope.weights.copy()
    line[:, 0] += posterior.mean
    return line


def _log_line(posterior: Posterior, slope: Slopes | None, size: int) -> FloatArray:
    """Weights of ln of the mean of a log-normal metric."""
    line = _line(posterior, slope, size)
    line[:, 0] += (
        log_noise(posterior) if slope is None else np.minimum(slope.noise, log_noise(posterior))
    ) / 2.0
    return line


def _dollars(
    evidence: Sequence[ArmEvidence], posterior: Posterior, slope: Slopes | None, size: int
) -> FloatArray:
    """As ``_log_line``, but true to the arithmetic mean of the bills, which is what a budget adds up."""
    line = _line(posterior, slope, size)
    noise = log_noise(posterior) if slope is None else slope.noise
    for arm, found in enumerate(evidence):
        usd = found.signal(COST_USD)
        shift = float(noise[arm]) / 2.0
        if usd.weight > 0.0 and usd.mean > 0.0:
            predicted = float(found.signal(COST).mean)
            if slope is not None:
                weights = slope.weights[arm, 1:]
                predicted += 0.5 * float(weights @ slope.scatter[arm, 1:, 1:] @ weights)
            seen = float(np.log(usd.mean)) - predicted
            shift = (usd.weight * seen + _LOG_NORMAL * shift) / (usd.weight + _LOG_NORMAL)
        line[arm, 0] += shift
    return line


def _cost(
    evidence: Sequence[ArmEvidence],
    params: PolicyParams,
    slope: Slopes | None,
    size: int,
    guesses_usd: Sequence[float | None] | None,
) -> FloatArray:
    """ln of the expected cost of every arm. A plug-in: what is unknown about a price is no reason to try it."""
    posterior = posterior_of(COST, evidence, params, maximize=False)
    if posterior is None:
        cost = np.zeros((len(evidence), size))
        cost[:, 0] = _NOTHING
    else:
        cost = _dollars(evidence, posterior, slope, size)
    for arm, guess in enumerate(guesses_usd or ()):
        if guess is not None and evidence[arm].signal(COST).weight <= 0.0:
            cost[arm] = 0.0 if slope is None or guess <= 0.0 else slope.weights[arm]
            cost[arm, 0] += np.log(guess) if guess > 0.0 else _NOTHING
    return cost


def _late(
    evidence: Sequence[ArmEvidence], params: PolicyParams, late: tuple[str, float] | None
) -> FloatArray:
    """P(later than the bound) of every arm; 0 where nothing is known or nothing is asked."""
    posterior = None if late is None else posterior_of(late[0], evidence, params, maximize=False)
    if late is None or posterior is None:
        return np.zeros(len(evidence))
    scores = (np.log(late[1]) - posterior.mean) / np.sqrt(log_noise(posterior) + posterior.spread**2)
    return np.where(posterior.weight > 0.0, 1.0 - normal_cdf(scores), 0.0)
