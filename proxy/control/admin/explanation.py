"""A logged decision in sentences: why this request went where it went, and what came of it.

Pure. Events of other versions may lack fields, and may name words that are not known here: what is not there is not
said, and nothing is guessed.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from optimizer import events

_REASONS: Final[Mapping[str, str]] = {
    "bandit": "The arm was drawn at random with the probabilities that the optimizer had learned",
    "pinned": "The caller asked for this arm (x-llm-optimizer-pin), so nothing was drawn",
    "single": "Only this arm could serve the request, so nothing was drawn",
    "plain": "The model was asked for by its own name, and no route has that name, so nothing was drawn",
    "home": "The request names state that its provider holds, so only the home upstream could serve it",
    "embeddings": "Embeddings keep their model, because vectors of two models can not be compared",
}
_WHYS: Final[Mapping[str, str]] = {
    events.FIRST: "first",
    events.RETRY: "tried again",
    events.FALLBACK: "fallback",
    events.LARGER_CONTEXT: "for more context",
    events.HEDGE: "hedge, because the one before was slow",
    events.CONTINUATION: "continued the cut stream",
}
_OUTCOMES: Final[Mapping[str, str]] = {
    events.COMPLETED: "It completed",
    events.UPSTREAM_FAULT: "It failed upstream",
    events.CALLER_FAULT: "It was refused as the caller's fault",
    events.CENSORED: "It did not end, so nothing is learned from it",
}
_MOST_LISTED: Final = 10
_LARGEST: Final = 1e15


def explain(data: Mapping[str, Any], seen: Iterable[str] = ()) -> list[str]:
    """Sentences about the ``data`` of a ``request.v1`` event, in the order in which things happened.

    ``seen`` are those about what a contextual decision saw; they stand where it was made.
    """
    return [*_addressed(data), *_divided(data), *_chosen(data), *seen, *_tried(data), *_ended(data)]


def _addressed(data: Mapping[str, Any]) -> Iterator[str]:
    asked, route = data.get("requested_model"), data.get("route")
    version = data.get("table_version")
    table = f" in routing table {version}" if version else ""
    reason = data.get("reason")
    if reason == "passthrough":
        yield "The request was passed through: its endpoint is not optimized, so no decision was made."
    elif reason == "undecided":
        named = f" for {asked!r}" if asked else ""
        yield f"The request{named} was refused before anything was decided."
    elif route is not None and asked not in (None, route):
        yield f"It asked for {asked!r}, which belongs to route {route!r}{table}."
    elif route is not None:
        yield f"It asked for route {route!r}{table}."
    elif asked is not None:
        yield f"It asked for the model {asked!r}{table}."


def _divided(data: Mapping[str, Any]) -> Iterator[str]:
    """What a rollout had to do with it."""
    rollout, side = data.get("rollout"), data.get("side")
    if rollout is None:
        return
    if data.get("guard_lost"):
        yield (
            f"Rollout {rollout} would have given it to the candidate, but nobody guarded the rollout at that moment, "
            "so it got the control."
        )
        return
    if data.get("stopped"):
        yield (
            f"Rollout {rollout} would have given it to the candidate, but this worker had stopped the candidate for "
            "failing too often, so it got the control."
        )
        return
    if data.get("unserved"):
        yield (
            f"Rollout {rollout} would have given it to the candidate, but no arm of the candidate could serve it, "
            "so it got the control; the rollout's guards count that."
        )
        return
    chance = _percent(data.get("side_probability"))
    with_chance = f", which {chance} of the requests get" if chance else ""
    yield f"Rollout {rollout} was under way; it fell to the {side}{with_chance}{_unit(data)}."


def _unit(data: Mapping[str, Any]) -> str:
    match data.get("unit"):
        case "header":
            return "; the sticky header decides, so the same value always falls to the same side"
        case "user":
            return "; the `user` field decides, so the same user always falls to the same side"
        case _:
            return ""


def _chosen(data: Mapping[str, Any]) -> Iterator[str]:
    arm = data.get("arm")
    if arm is None:
        return
    if data.get("cached"):
        yield (
            f"The answer came from the cache: arm {arm!r} had given it to request {data.get('cached_from')}. "
            "Nobody was asked, it cost nothing, and nothing is learned from it, nor from feedback on it."
        )
        return
    left_out = data.get("filtered")
    if isinstance(left_out, Mapping) and left_out:
        listed = [f"{name} ({why})" for name, why in list(left_out.items())[:_MOST_LISTED]]
        more = f" and {len(left_out) - _MOST_LISTED} more" if len(left_out) > _MOST_LISTED else ""
        yield f"These arms could not serve it: {', '.join(listed)}{more}."
    why = _REASONS.get(str(data.get("reason")))
    if why is None:
        yield f"It went to arm {arm!r}."
    elif data.get("reason") == "bandit":
        shares = _shares(data.get("arms"), data.get("probabilities"))
        if data.get("draw") is not None:
            why += " for requests like this one"
        if data.get("policy") == "fixed":
            why, policy = "The arm was drawn with the route's fixed shares, which do not learn", ""
        else:
            policy = f" (policy {data['policy']})" if data.get("policy") else ""
        yield f"{why}{policy}{f': {shares}' if shares else ''}."
        chance = _percent(data.get("propensity"))
        yield f"It fell on {arm!r}{f', whose probability was {chance}' if chance else ''}."
    else:
        yield f"{why}: {arm!r}."
    baseline = data.get("baseline_arm")
    if baseline is not None and baseline != arm:
        yield f"Without the optimizer it would have gone to the baseline, {baseline!r}."


def _shares(arms: Any, probabilities: Any) -> str:
    if not isinstance(arms, list) or not isinstance(probabilities, list):
        return ""
    known = [
        (share, arm)
        for arm, share in zip(arms, map(_number, probabilities), strict=False)
        if share is not None
    ]
    known.sort(key=lambda pair: -pair[0])
    listed = [f"{arm} {_percent(share)}" for share, arm in known[:_MOST_LISTED] if share > 0.0]
    return ", ".join(listed) + (", ..." if len(known) > _MOST_LISTED else "")


def _tried(data: Mapping[str, Any]) -> Iterator[str]:
    attempts = data.get("attempts")
    rows = [row for row in attempts if isinstance(row, Mapping)] if isinstance(attempts, list) else []
    if len(rows) < 2:
        return
    yield f"It took {len(rows)} attempts: {'; '.join(_attempt(row) for row in rows[:_MOST_LISTED])}."
    if data.get("served_by"):
        yield f"In the end {data['served_by']!r} served it."


def _attempt(row: Mapping[str, Any]) -> str:
    why = _WHYS.get(str(row.get("why")), "")
    ended = row.get("error") or "served it"
    status = f" with {row['status']}" if row.get("status") and row.get("error") else ""
    took = _number(row.get("ms"))
    ms = f" after {took:.0f} ms" if took is not None else ""
    return f"{row.get('arm') or row.get('upstream')}{f' ({why})' if why else ''}: {ended}{status}{ms}"


def _ended(data: Mapping[str, Any]) -> Iterator[str]:
    ended = _OUTCOMES.get(str(data.get("outcome")))
    if ended is None:
        return
    status = f" with status {data['status']}" if data.get("status") else ""
    error = f" ({data['error.type']})" if data.get("error.type") else ""
    ms, first = _number(data.get("duration_ms")), _number(data.get("ttft_ms"))
    took = f" after {ms / 1000:.2f} s" if ms is not None else ""
    streamed = f", the first token after {first / 1000:.2f} s" if first is not None else ""
    cost = _number(data.get("cost_usd"))
    paid = f", and cost {cost:.6f} USD" if cost is not None else ""
    yield f"{ended}{status}{error}{took}{streamed}{paid}."


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < _LARGEST else None


def _percent(share: Any) -> str:
    known = _number(share)
    return f"{100 * known:.4g} %" if known is not None else ""
