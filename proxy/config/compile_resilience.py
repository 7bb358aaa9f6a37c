"""What to do about upstreams that fail, and limits: blocks to the frozen types that workers act on.

Pure but for the findings. A value that is left out follows the one it must not contradict: the longest wait is never
below the first, the first token never later than the whole request.
"""

from collections.abc import Mapping, Sequence

from optimizer.routing import EMBEDDINGS, Arm, BreakerRules, Model, Quota, Resilience
from proxy.config.models_resilience import BreakerBlock, LimitsBlock, RetriesBlock, TimeoutsBlock
from proxy.config.models_route import RouteBlock
from proxy.config.problems import Findings, KeyPath

PREFILLS = ("prefill", "prefill_prefix", "prefill_continue")
# The server's patience covers a reply's head and its first byte of content, one after the other.
_FIRST_TOKEN_TIMEOUTS = 2
_USD = ("usd_per_day", "usd_per_month")


def compile_breaker(block: BreakerBlock, path: KeyPath, findings: Findings) -> BreakerRules:
    """The rules of one upstream; 0 consecutive failures switch the breaker off."""
    if not block.enabled:
        return BreakerRules(consecutive=0)
    longest = block.max_open_ms
    if longest < block.open_ms:
        if "max_open_ms" in block.model_fields_set:
            findings.problem(
                (*path, "max_open_ms"), f"must not be below open_ms, which is {block.open_ms:g}."
            )
        longest = block.open_ms
    return BreakerRules(
        consecutive=block.consecutive_failures,
        error_rate=block.error_rate,
        min_volume=block.min_requests,
        window_s=block.window_ms / 1000,
        open_s=block.open_ms / 1000,
        max_open_s=longest / 1000,
    )


def compile_resilience(
    block: RouteBlock, arms: Sequence[Arm], path: KeyPath, findings: Findings, *, timeout_ms: float
) -> Resilience:
    """What a route does about failures. ``arms`` are all it may use, ``timeout_ms`` is the server's."""
    retries, streams = block.retries, block.streams
    first_token_ms = _first_token(block.timeouts, (*path, "timeouts"), findings, timeout_ms)
    _check_hedge(block, arms, (*path, "hedge_after_ms"), findings)
    return Resilience(
        attempts=retries.attempts,
        same_arm=retries.same_arm,
        backoff_s=retries.backoff_ms / 1000,
        max_backoff_s=_longest_backoff(retries, (*path, "retries"), findings) / 1000,
        retry_after_s=retries.retry_after_ms / 1000,
        first_token_s=_seconds(first_token_ms),
        total_s=_seconds(block.timeouts.total_ms),
        hold_s=streams.hold_ms / 1000,
        hold_tokens=streams.hold_tokens,
        resume=streams.resume,
        hedge_s=_seconds(block.hedge_after_ms),
    )


def compile_quota(
    block: LimitsBlock, arms: Sequence[Arm], models: Mapping[str, Model], path: KeyPath, findings: Findings
) -> Quota | None:
    """The limits of a route; None without any. What an arm of unknown price spends could not be counted."""
    written = [name for name in _USD if getattr(block, name) is not None]
    for arm in arms if written else ():
        if models[arm.model].price is None and ("models", arm.model) not in findings.broken:
            findings.problem(
                (*path, written[0]),
                f"the price of arm {arm.id!r} is unknown, so its cost could not be counted.",
                f"Give `price` under models, at {arm.model!r}.",
            )
    quota = Quota(
        requests_per_minute=block.requests_per_minute,
        tokens_per_minute=block.tokens_per_minute,
        usd_per_day=block.usd_per_day,
        usd_per_month=block.usd_per_month,
    )
    return quota if quota != Quota() else None


def report_resume(
    arms: Sequence[Arm], models: Mapping[str, Model], path: KeyPath, findings: Findings
) -> None:
    """Say so when no arm of a route could continue a stream that was cut."""
    if not any(models[arm.model].capabilities.intersection(PREFILLS) for arm in arms):
        findings.note(
            path,
            "no arm or fallback can go on with a begun answer, so a stream that is cut ends with an error; "
            f"{', '.join(PREFILLS)} under `capabilities` of a model say that it can.",
        )


def report_other_embeddings(
    arms: Sequence[Arm],
    fallbacks: Sequence[Arm],
    models: Mapping[str, Model],
    path: KeyPath,
    findings: Findings,
) -> None:
    """Say so when a fallback of a route that serves embeddings has vectors of another kind."""
    own = {models[arm.model].model_id for arm in arms if EMBEDDINGS in models[arm.model].endpoints}
    for arm in fallbacks if own else ():
        model = models[arm.model]
        if EMBEDDINGS in model.endpoints and model.model_id not in own:
            findings.note(
                path,
                f"embeddings of {arm.id!r} can not be compared with the route's own: it stands in for chat only.",
            )


def _seconds(milliseconds: float | None) -> float | None:
    return milliseconds / 1000 if milliseconds is not None else None


def _first_token(block: TimeoutsBlock, path: KeyPath, findings: Findings, timeout_ms: float) -> float | None:
    total = block.total_ms
    if "first_token_ms" not in block.model_fields_set:
        return min(_FIRST_TOKEN_TIMEOUTS * timeout_ms, total or float("inf"))
    first = block.first_token_ms
    if first is not None and total is not None and total < first:
        findings.problem((*path, "total_ms"), f"must not be below first_token_ms, which is {first:g}.")
    return first


def _longest_backoff(block: RetriesBlock, path: KeyPath, findings: Findings) -> float:
    if block.max_backoff_ms >= block.backoff_ms:
        return block.max_backoff_ms
    if "max_backoff_ms" in block.model_fields_set:
        findings.problem(
            (*path, "max_backoff_ms"), f"must not be below backoff_ms, which is {block.backoff_ms:g}."
        )
    return block.backoff_ms


def _check_hedge(block: RouteBlock, arms: Sequence[Arm], path: KeyPath, findings: Findings) -> None:
    if block.hedge_after_ms is None:
        return
    if block.retries.attempts < 2:
        findings.problem(path, "needs a second attempt.", "Write `retries: 2` or more.")
    # An arm that was refused is another one all the same.
    if len(arms) < 2 and path[:2] not in findings.broken:
        # No problem: an optimization may leave a route with one arm, and what it is then must load again.
        findings.note(
            path, "never acts: the route has no other arm to go to. Add one to `arms` or `fallbacks`."
        )
