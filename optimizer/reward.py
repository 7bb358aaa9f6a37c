"""What one outcome teaches: the only place that turns a ``request.v1`` event into lessons.

===============  =======================================================================================
ended as         lesson
===============  =======================================================================================
completed        success 1, valid 0|1, cost, latency (and ttft of streams) at once; quality when it arrives
upstream fault   success 0
caller's fault   none
censored         none (upstream 429, caller hung up, our own overload or shutdown)
===============  =======================================================================================

Of several attempts each is judged by how it ended itself: those that failed teach success 0 to their own arms
(not when the caller, a quota or we ourselves were at fault), and the last one, if it served the caller, teaches
its own cost and duration, without the waiting before. A cut stream that another arm continued teaches that arm
success and nothing else: nobody can tell whose the answer was. A kept answer that is given again teaches nothing. Only
``request.v1`` rows with a route teach. Whether the arm was drawn or pinned does not matter here: cost, latency and
failures are facts about the arm; who needs randomised rows (tests, off-policy evaluation) reads them from the log.

A reply that is empty, or no JSON although JSON was asked for, is a *certain failure*: its quality is 0
whatever anybody says later. Such failures are always seen while good replies are rated rarely, so they are
not mixed with the ratings (1 % of empty replies beside 1 % of ratings would look like half of the replies
being bad). They are learned as the rate ``valid``, and ``quality_moments`` joins the two when evidence is
read.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import isfinite, log
from typing import Any, TypeAlias

from optimizer import events
from policies.types import NOTHING, Moments

SUCCESS = "success"
VALID = "valid"
QUALITY = "quality"
# What callers say where a judge's ratings are the quality.
QUALITY_USER = "quality_user"
COST = "cost"
COST_USD = "cost_usd"
LATENCY = "latency"
TTFT = "ttft"
# Rates that are recorded for people and guards; no policy pursues them unless it is told to.
RECORDED = ("empty", "refusal", "json_valid")
TRUNCATED = "truncated"
CONTENT_FILTER = "content_filter"
BUILT_IN = frozenset(
    (SUCCESS, VALID, QUALITY_USER, COST, COST_USD, LATENCY, TTFT, *RECORDED, TRUNCATED, CONTENT_FILTER)
)
SHARES = frozenset((SUCCESS, VALID, QUALITY))

_CONTEXTUAL = frozenset((VALID, LATENCY, TTFT, COST, COST_USD))

# Costs are learned as logarithms; a free reply counts as a billionth of a dollar.
LEAST_USD = 1e-9
LEAST_SECONDS = 1e-6

ArmKeys: TypeAlias = tuple[str, str]
Lesson: TypeAlias = tuple[str, float]


def priced(signal: str, version: str) -> str:
    """Name under which a signal that depends on prices is kept."""
    return f"{signal}@{version}"


def judged(version: str) -> str:
    """Name under which the ratings of one version of a judge are kept; those of two are never compared."""
    return f"{QUALITY}@{version}"


def is_quality(signal: str) -> bool:
    """Whether a stored signal is a rating of the reply, by whomever."""
    return signal == QUALITY or signal.startswith(f"{QUALITY}@")


def contextual(lessons: Sequence[Lesson]) -> list[Lesson]:
    """What of a completed request's lessons is learned together with its features; empty for any other request."""
    if not any(signal == VALID for signal, _ in lessons):
        return []
    return [lesson for lesson in lessons if _is_contextual(lesson[0])]


@lru_cache(maxsize=4096)
def _is_contextual(signal: str) -> bool:
    return signal.partition("@")[0] in _CONTEXTUAL


def is_certain_failure(data: Mapping[str, Any]) -> bool:
    """True if the reply of a completed request was worthless on its face."""
    signals = data.get("signals") or {}
    return bool(signals) and (signals.get("empty") == 1 or signals.get("json_valid") == 0)


def lessons(
    data: Mapping[str, Any],
    *,
    keys_of: Callable[[str], ArmKeys | None],
    cost_of: Callable[[ArmKeys], Sequence[Lesson]],
) -> list[tuple[ArmKeys, list[Lesson]]]:
    """What the ``data`` of one ``request.v1`` event teaches, per arm; empty if nothing.

    Args:
        data: The event's data; fields that are missing or of a wrong type teach nothing.
        keys_of: (model key, variant key) of an arm id of the event's route, for attempts on other arms.
        cost_of: The lessons of the request's cost when it was served by an arm; usually ``cost_lessons``.
    """
    if not data.get("route") or is_cached(data):
        return []
    outcome = data.get("outcome")
    attempts: Sequence[Mapping[str, Any]] = data.get("attempts") or []
    found: list[tuple[ArmKeys, list[Lesson]]] = []
    if len(attempts) > 1:
        for attempt in attempts[:-1] if outcome == events.COMPLETED else attempts:
            failed = _keys(attempt, data, keys_of) if _attempt_failed(attempt) else None
            if failed is not None:
                found.append((failed, [(SUCCESS, 0.0)]))
    elif outcome == events.UPSTREAM_FAULT:
        keys = _decided(data)
        return [(keys, [(SUCCESS, 0.0)])] if keys is not None else []
    if outcome != events.COMPLETED:
        return found
    keys = serving_arm(data, keys_of)
    if keys is None:
        return found
    if is_continued(data):
        found.append((keys, [(SUCCESS, 1.0)]))
        return found
    if len(attempts) > 1:
        data = {**data, "duration_ms": attempts[-1].get("ms"), "ttft_ms": None}
    found.append((keys, _of_completed(data, cost_of(keys))))
    return found


def serving_arm(data: Mapping[str, Any], keys_of: Callable[[str], ArmKeys | None]) -> ArmKeys | None:
    """The arm of the last attempt, which is the decided one unless it failed and another took over."""
    attempts: Sequence[Mapping[str, Any]] = data.get("attempts") or []
    return _keys(attempts[-1], data, keys_of) if len(attempts) > 1 else _decided(data)


def is_continued(data: Mapping[str, Any]) -> bool:
    """True if several arms wrote the answer, one after the other, so that no quality can be told of any."""
    return bool(data.get("continued"))


def is_cached(data: Mapping[str, Any]) -> bool:
    """True if the answer had been given to an earlier request, from which all there is to learn was learned."""
    return bool(data.get("cached"))


def serving_cost(data: Mapping[str, Any]) -> tuple[Any, str]:
    """Cost of the attempt that served the caller, None when unknown, and the price version it was made with.

    The event's own cost is of all attempts together, and its price version the decided arm's.
    """
    attempts: Sequence[Mapping[str, Any]] = data.get("attempts") or []
    source = attempts[-1] if len(attempts) > 1 else data
    return source.get("cost_usd"), source.get("price_version") or ""


def cost_lessons(data: Mapping[str, Any]) -> list[Lesson]:
    """Cost of a completed request, as logarithm and in dollars, under the price version it was made with."""
    usd, version = serving_cost(data)
    if usd is None or data.get("outcome") != events.COMPLETED:
        return []
    return costs(usd, version)


def costs(usd: object, version: str) -> list[Lesson]:
    """Lessons of a known cost; none if it is no amount of money."""
    if not isinstance(usd, int | float) or not isfinite(usd) or usd < 0.0:
        return []
    return [(priced(COST, version), log(max(usd, LEAST_USD))), (priced(COST_USD, version), float(usd))]


def quality_moments(valid: Moments, rated: Moments) -> Moments:
    """Quality over all replies, from how many were valid and how valid ones were rated.

    The mean is P(valid) x E[rating | valid]. The weight is the effective sample size (Kish) of the replies
    when each rating stands for all the valid replies that nobody rated; without any rating only the certain
    failures are known, so the result weighs nothing while there are none and says 0 firmly when there is
    nothing else.
    """
    if valid.weight <= 0.0:
        return rated
    failures = max(valid.weight * (1.0 - valid.mean), 0.0)
    if failures <= 1e-9 * valid.weight:
        return rated
    good = valid.weight - failures
    ratings, rating, spread = rated.weight, rated.mean, rated.variance
    if ratings <= 0.0:
        # One imagined perfect rating keeps an unrated arm hopeful; it is taken out of the weight again below.
        ratings, rating, spread = 1.0, 1.0, 0.0
    weight = valid.weight**2 / (failures + good * good / ratings)
    if rated.weight <= 0.0:
        weight -= 1.0
    if weight <= 0.0:
        return NOTHING
    share = good / valid.weight
    mean = share * rating
    return Moments(weight, mean, max(share * (spread + rating * rating) - mean * mean, 0.0))


# Ends of attempts that no arm is to blame for: the client left, our own bound, another attempt was faster.
_BLAMELESS = events.OUR_WORDS
_REQUEST_TIMEOUT = 408


def _of_completed(data: Mapping[str, Any], cost: Sequence[Lesson]) -> list[Lesson]:
    taught = [(SUCCESS, 1.0), (VALID, 0.0 if is_certain_failure(data) else 1.0), *cost]
    duration_ms = data.get("duration_ms")
    if duration_ms:
        taught.append((LATENCY, log(max(duration_ms * 1e-3, LEAST_SECONDS))))
    if data.get("stream"):
        ttft_ms = data.get("ttft_ms")
        if ttft_ms:
            taught.append((TTFT, log(max(ttft_ms * 1e-3, LEAST_SECONDS))))
    signals = data.get("signals")
    if signals:
        for name in RECORDED:
            value = signals.get(name)
            if value is not None:
                taught.append((name, 1.0 if value else 0.0))
    reasons = data.get("gen_ai.response.finish_reasons")
    if reasons:
        taught.append((TRUNCATED, 1.0 if "length" in reasons else 0.0))
        taught.append((CONTENT_FILTER, 1.0 if "content_filter" in reasons else 0.0))
    return taught


def _decided(data: Mapping[str, Any]) -> ArmKeys | None:
    model_key, variant_key = data.get("model_key"), data.get("variant_key")
    if not isinstance(model_key, str) or not isinstance(variant_key, str):
        return None
    return model_key, variant_key


def _keys(
    attempt: Mapping[str, Any], data: Mapping[str, Any], keys_of: Callable[[str], ArmKeys | None]
) -> ArmKeys | None:
    arm = attempt.get("arm")
    if arm == data.get("arm"):
        return _decided(data)
    return _decided(attempt) or (keys_of(arm) if isinstance(arm, str) else None)


def _attempt_failed(attempt: Mapping[str, Any]) -> bool:
    """Whether an attempt is its arm's failure: not if the caller, a quota or we ourselves were at fault."""
    error, status = attempt.get("error"), attempt.get("status") or 0
    if not error or error in _BLAMELESS:
        return False
    return status == _REQUEST_TIMEOUT or not 400 <= status < 500
