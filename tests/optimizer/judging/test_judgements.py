"""What is counted from the log about judging."""

from typing import Any

import pytest

from optimizer import events
from optimizer.judging.judgements import Judgements


def judgement(number: int, kind: str = "score", value: float | None = 0.5, **fields: Any) -> dict[str, Any]:
    data = {
        "route": "chat", "kind": kind, "result": "scored" if value is not None else "failed", "cost_usd": 0.25,
        "version": "v1", "model_key": "mk", "variant_key": "b", "value": value, "proxy": 1.0,
    }  # fmt: skip
    return {"id": f"jd_{number}", "type": events.JUDGEMENT, "data": data | fields}


def request(**fields: Any) -> dict[str, Any]:
    data = {
        "route": "chat", "outcome": "completed", "model_key": "mk", "variant_key": "b", "sampling_rate": 0.1,
        "signals": {"empty": 0, "refusal": 0}, "gen_ai.response.finish_reasons": ["stop"],
    }  # fmt: skip
    return {"id": "req", "type": events.REQUEST, "data": data | fields}


def observed(*rows: dict[str, Any]) -> Judgements:
    judgements = Judgements()
    for row in rows:
        judgements.observe(row, None)
    return judgements


def test_a_judgement_counts_once() -> None:
    """After a crash the judge is asked again, under the same id."""
    judgements = observed(judgement(1), judgement(1, value=0.9), judgement(2, value=None))

    assert judgements.totals == {("chat", "score", "scored"): 1, ("chat", "score", "failed"): 1}
    assert judgements.cost_usd == {"chat": 0.5}
    assert judgements.ratings("chat", "mk", "b", "v1") == 1


def test_versions_are_never_mixed() -> None:
    """Neither ratings nor comparisons."""
    pair = {"kind": "pair", "other_variant_key": "a"}
    judgements = observed(
        judgement(1, value=0.2), judgement(2, value=0.8, version="v2"), judgement(3, version="v2", **pair)
    )

    first = judgements.corrected("chat", "mk", "b", "v1")
    assert first is not None
    assert first.mean == 0.2
    assert judgements.pairs("chat", "v1") == {}
    assert len(judgements.pairs("chat", "v2")) == 1


def test_a_pair_is_one_whoever_answered_the_caller() -> None:
    """Both directions go into one tally, each its own way round; torn verdicts are ties and are counted."""
    judgements = observed(
        judgement(1, "pair", 1.0, variant_key="b", other_variant_key="a", consistent=True),
        judgement(2, "pair", 0.0, variant_key="a", other_variant_key="b", consistent=True),
        judgement(3, "pair", 0.5, variant_key="a", other_variant_key="b", consistent=False),
    )

    ((key, tally),) = judgements.pairs("chat", "v1").items()
    assert key == ("mk", "a", "b")
    assert (tally.count, tally.total, tally.torn) == (3, 0.5, 1)
    share = tally.share(0.05)
    assert share.low == 0.0
    assert share.estimate == pytest.approx(1 / 6)
    assert share.high <= 1.0


def test_the_snapshot_is_everything() -> None:
    """What is restored goes on as if nothing had happened."""
    before = observed(
        *(request() for _ in range(20)), *(judgement(n, value=n / 20) for n in range(12)),
        judgement(50, "pair", 1.0, other_variant_key="a", consistent=True),
    )  # fmt: skip
    after = Judgements()
    after.restore(before.snapshot())

    for judgements in (before, after):
        judgements.observe(judgement(3), None)
        judgements.observe(judgement(99), None)
    assert after.totals == before.totals
    assert after.corrected("chat", "mk", "b", "v1") == before.corrected("chat", "mk", "b", "v1")
    assert after.pairs("chat", "v1") == before.pairs("chat", "v1")
    assert after.snapshot() == before.snapshot()


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": "upstream_fault"},
        {"continued": True},
        {"signals": {"empty": 1}},
        {"signals": {"json_valid": 0}},
        {"gen_ai.response.finish_reasons": ["tool_calls"]},
    ],
)
def test_what_is_never_judged_is_not_among_the_seen(fields: dict[str, Any]) -> None:
    """Or the correction would carry ratings over to answers of another kind."""
    plain = observed(*(request() for _ in range(10)), judgement(1))
    mixed = observed(*(request() for _ in range(10)), *(request(**fields) for _ in range(50)), judgement(1))

    assert mixed.corrected("chat", "mk", "b", "v1") == plain.corrected("chat", "mk", "b", "v1")


def test_heuristics_carry_ratings_over() -> None:
    """Half of all answers were cut, but by chance only a fifth of the judged ones: the mean is corrected downwards."""
    rows = [request(), request(**{"gen_ai.response.finish_reasons": ["length"]})] * 200
    scores = [judgement(n, value=0.9, proxy=1.0) for n in range(16)]
    scores += [judgement(100 + n, value=0.1, proxy=0.0) for n in range(4)]
    judgements = observed(*rows, *scores)

    found = judgements.corrected("chat", "mk", "b", "v1")

    assert found is not None
    assert found.weight == pytest.approx(0.8 / 1.05, rel=1e-6)
    assert found.mean == pytest.approx(0.74 - 0.3 * found.weight)
    assert found.mean < 0.55
