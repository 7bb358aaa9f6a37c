"""A log with a known truth, read from disk and replayed: estimates near the truth, refusals where there is nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer import events
from optimizer.replaying.candidate import find_arm, fixed_target
from optimizer.replaying.counterfactual_savings import savings, together, usual_baseline
from optimizer.replaying.reading import log_directory, read_decisions
from optimizer.replaying.refusal import ReplayRefused
from optimizer.replaying.replay import replay, sentences, usable
from optimizer.replaying.rows import COST, LATENCY, QUALITY, SUCCESS, Decisions
from optimizer.replaying.targets import AsLogged, Shares, learned
from policies.offpolicy import SNIPS, apply, estimate

NOON = 1_795_000_000.0
EVEN = (0.4, 0.3, 0.3)


def even(_row: int) -> tuple[float, ...]:
    return EVEN


def evaluate(decisions: Any, target: Any) -> Any:
    return replay(usable(decisions, target), target)


def test_the_answer_is_near_the_truth(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """Always `large`: cost, quality, latency within their own intervals widened to 4.5 errors; said in words."""
    writer.play(world(), 4000, even)
    (decisions,) = read_decisions(log_of()).values()

    report = evaluate(decisions, Shares("always large", {"large": 1.0}))

    truth = {COST: 0.004, QUALITY: 0.8, SUCCESS: 1.0, LATENCY: 0.5}
    for metric, value in truth.items():
        found = report.metrics[metric]
        assert found.refused == ""
        assert abs(found.headline.mean - value) <= 4.5 * found.headline.error + 0.01 * value
        assert abs(found.estimates[SNIPS].mean - value) <= 4.5 * found.estimates[SNIPS].error + 0.01 * value
    assert report.refused == ""
    assert report.effective == pytest.approx(4000 * 0.3, rel=0.1)
    words = sentences(report)
    assert words[1].startswith("Cost per request: 0.00")
    assert "as logged" in words[1]


def test_the_logged_policy_costs_what_was_paid(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """SNIPS of the log on itself is the mean that everybody can compute."""
    writer.play(world(), 300, even)
    (decisions,) = read_decisions(log_of()).values()

    scored = apply(decisions.logged(COST), AsLogged().vectors(decisions), 3)

    assert estimate(scored, SNIPS).mean == pytest.approx(decisions.outcomes[COST].mean(), rel=1e-12)


def test_failures_are_cheap_and_worth_nothing(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """An arm that fails four times in ten has that success, and quality 0 in those requests."""
    writer.play(world(failing=(0.0, 0.4, 0.0)), 4000, even)
    (decisions,) = read_decisions(log_of()).values()

    report = evaluate(decisions, Shares("always large", {"large": 1.0}))

    success, quality = report.metrics[SUCCESS].headline, report.metrics[QUALITY].headline
    assert abs(success.mean - 0.6) < 4.5 * success.error
    assert abs(quality.mean - 0.8 * 0.6) < 4.5 * quality.error
    assert report.metrics[COST].headline.mean == pytest.approx(0.6 * 0.004, rel=0.15)


def test_users_of_one_arm_who_rate_more_do_not_count_more(
    writer: Any, world: Any, log_of: Callable[[], Path]
) -> None:
    """Rates of .8, .2 and .4 leave the logged policy's quality at what all replies are worth."""
    writer.play(world(rated=(0.8, 0.2, 0.4)), 5000, even)
    (decisions,) = read_decisions(log_of()).values()

    found = evaluate(decisions, Shares("even", dict(zip(decisions.arms, EVEN, strict=True)))).metrics[QUALITY]

    truth = float(
        np.dot([0.6, 0.8, 0.9], [EVEN[("small", "large", "huge").index(a)] for a in decisions.arms])
    )
    best = {"small": 0.6, "large": 0.8, "huge": 0.9}
    truth = sum(share * best[arm] for arm, share in zip(decisions.arms, EVEN, strict=True))
    assert abs(found.headline.mean - truth) < 4.5 * found.headline.error


def test_too_little_is_refused(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """300 requests speak for some 90 of one arm: no verdict, and the numbers say why."""
    writer.play(world(), 300, even)
    (decisions,) = read_decisions(log_of()).values()

    report = evaluate(decisions, Shares("always large", {"large": 1.0}))

    assert "200 are needed" in report.refused
    assert sentences(report)[-1] == f"No verdict: {report.refused}"


def test_an_arm_that_was_never_drawn_is_refused_by_name(
    writer: Any, world: Any, log_of: Callable[[], Path]
) -> None:
    """A policy on an arm with probability 0 has nothing to be judged by."""
    writer.play(world(), 600, lambda _row: (0.5, 0.5, 0.0))
    (decisions,) = read_decisions(log_of()).values()

    report = evaluate(decisions, Shares("always huge", {"huge": 1.0}))

    assert "100 % of the policy" in report.refused
    assert "huge" in report.refused


def test_wrong_propensities_are_found_out(writer: Any, log_of: Callable[[], Path]) -> None:
    """A log whose vectors are not what drew the arms has weights that do not average 1, and is refused."""
    rng = np.random.default_rng(2)
    for row in range(3000):
        arm = int(rng.choice(3, p=[0.8, 0.1, 0.1]))
        name = ("small", "large", "huge")[arm]
        body = writer.data(at=NOON + row, arm="x/y") | {
            "arm": name,
            "arms": ["small", "large", "huge"],
            "probabilities": list(EVEN),
            "propensity": EVEN[arm],
        }
        writer.node.append(writer.node.mint(NOON + row), events.REQUEST, body, NOON + row)
    (decisions,) = read_decisions(log_of()).values()

    report = evaluate(decisions, Shares("always small", {"small": 1.0}))

    assert "not those that arms were drawn with" in report.refused


def test_a_metric_nobody_reported_is_refused_alone(
    writer: Any, world: Any, log_of: Callable[[], Path]
) -> None:
    """Without ratings there is a verdict on cost, and none on quality."""
    writer.play(world(rated=(0.0, 0.0, 0.0)), 1500, even)
    (decisions,) = read_decisions(log_of()).values()

    report = evaluate(decisions, Shares("always large", {"large": 1.0}))

    assert report.metrics[COST].refused == ""
    assert report.metrics[QUALITY].refused == "no request's quality is known."


def test_an_arm_that_nobody_rates_has_no_quality(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """Ratings of other arms are no substitute."""
    writer.play(world(rated=(0.6, 0.0, 0.6)), 3000, even)
    (decisions,) = read_decisions(log_of()).values()

    report = evaluate(decisions, Shares("mostly large", {"large": 0.6, "small": 0.4}))

    assert report.metrics[COST].refused == ""
    assert "too little was rated" in report.metrics[QUALITY].refused


def test_judges_are_not_mixed(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """The judge that rated most is the rater; another version and users are left out, and that is said."""
    writer.play(world(judge="judge:strict@v2"), 400, even)
    writer.play(world(judge="judge:strict@v1", rated=(0.1, 0.1, 0.1)), 200, even, seed=1, start=NOON + 1000)
    writer.play(world(), 50, even, seed=2, start=NOON + 2000)

    (decisions,) = read_decisions(log_of()).values()
    (users,) = read_decisions(log_of(), rater="users").values()

    assert decisions.rater == "strict@v2"
    assert "strict@v1" in decisions.notes[0]
    assert not np.isfinite(decisions.outcomes[QUALITY][decisions.at >= NOON + 1000]).any()
    assert np.isfinite(users.outcomes[QUALITY][users.at >= NOON + 2000]).any()


def test_what_was_not_drawn_is_counted_by_reason(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """Pins, single arms and callers that left are no rows."""
    writer.play(world(), 3, even)
    writer.play(world(extra={"randomised": False, "reason": "pinned"}), 2, even)
    writer.play(world(extra={"outcome": events.CENSORED}), 4, even)
    writer.play(world(extra={"probabilities": [0.5]}), 1, even)

    (decisions,) = read_decisions(log_of()).values()

    assert len(decisions) == 3
    assert decisions.left_out == {
        "not drawn at random (pinned)": 2,
        "no outcome (censored)": 4,
        "malformed": 1,
    }


def test_nothing_in_a_log_stops_the_reader(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """Events of wrong shapes are left out or counted, the others are read."""
    writer.play(world(), 5, even)
    node = writer.node
    good = writer.data(at=NOON) | {
        "arms": ["small"],
        "probabilities": [1.0],
        "propensity": 1.0,
        "arm": "small",
    }
    for row, wrong in enumerate(
        (
            {"route": ["auto"]},
            {"started_ms": "noon"},
            {"arms": None},
            {"probabilities": ["half"]},
            {"probabilities": [-1.0]},
            {"propensity": None},
            {"arm": 7},
            {"context": {"version": "f1", "x": "no base64"}},
            {"context": 5},
            {"vector": 12},
            {"outcome": None},
            {"signals": 5},
        )
    ):
        node.append(node.mint(NOON + row), events.REQUEST, good | wrong, NOON + row)
    for wrong in (
        {"request_id": 3, "value": 1.0},
        {"request_id": "x", "value": "up"},
        {"value": True},
        {"metric": []},
    ):
        node.append("fb", events.FEEDBACK, {"metric": "quality", **wrong}, NOON)

    (decisions,) = read_decisions(log_of()).values()

    assert len(decisions) == 5
    assert sum((decisions.left_out or {}).values()) == 10


def test_filtered_arms_pass_their_share_on(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """Where an arm could not serve, the other policy plays what workers would: its other arms, or all alike."""
    extra = {"probabilities": [0.5, 0.5, 0.0], "filtered": {"huge": "context too long"}}
    writer.play(world(extra=extra), 10, lambda _row: (0.5, 0.5, 0.0))
    (decisions,) = read_decisions(log_of()).values()
    place = {arm: decisions.arms.index(arm) for arm in ("small", "large", "huge")}

    mixed = Shares("a", {"huge": 0.5, "large": 0.5}).vectors(decisions)(0, 10)
    alone = Shares("b", {"huge": 1.0}).vectors(decisions)(0, 10)

    assert (mixed[:, place["large"]] == 1.0).all()
    assert (alone[:, [place["small"], place["large"]]] == 0.5).all()


def test_a_side_without_an_arm_of_the_policy_is_left_out(
    writer: Any, world: Any, log_of: Callable[[], Path]
) -> None:
    """Rows of control say nothing about an arm that only the candidate has."""
    writer.play(world(), 300, even)
    two = {"arms": ["small", "large"], "probabilities": [0.5, 0.5], "propensity": 0.5}
    writer.play(world(extra=two), 200, lambda _row: (0.5, 0.5, 0.0), seed=1, start=NOON + 1000)
    (decisions,) = read_decisions(log_of()).values()

    with_huge = usable(decisions, Shares("huge", {"huge": 1.0}))
    without = usable(decisions, Shares("small", {"small": 1.0}))

    assert (len(with_huge), len(without)) == (300, 500)
    assert "200 requests are left out" in with_huge.notes[-1]


def test_an_edited_arm_is_another_arm(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """Rows from before a prompt was edited are not used for a policy that plays it."""
    writer.play(world(extra={"variant_key": "old"}), 200, even)
    writer.play(world(extra={"variant_key": "new"}), 300, even, seed=1, start=NOON + 1000)
    (decisions,) = read_decisions(log_of()).values()

    rows = usable(decisions, Shares("small", {"small": 1.0}))

    assert 300 <= len(rows) <= 315
    assert rows.at.min() > NOON + 180
    assert "before 'small' was edited" in rows.notes[-1]


def test_an_edit_is_found_whatever_the_order_of_reading(
    make_node: Any, writer: Any, world: Any, log_of: Callable[[], Path], learning: dict[str, Any]
) -> None:
    """Two workers, read one after the other: what counts is when requests began."""
    other = type(writer)(make_node(), learning["data"])
    for player, seed in ((writer, 1), (other, 2)):
        player.play(world(extra={"variant_key": "old"}), 100, even, seed=seed)
        player.play(world(extra={"variant_key": "new"}), 100, even, seed=seed + 2, start=NOON + 1000)
    other.node.writer.close()

    (decisions,) = read_decisions(log_of()).values()
    rows = usable(decisions, Shares("small", {"small": 1.0}))

    assert len(decisions) == 400
    assert (np.diff(decisions.at) >= 0.0).all()
    assert 195 <= len(rows) <= 210


def test_many_arms_refer_to_a_vector_event(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """Beyond 32 arms the vector is in a `selector.v1` event; its id ends with the eligible set."""
    arms = [f"a{number}" for number in range(40)]
    shares = [1 / 39] * 39 + [0.0]
    mask = (1 << 39) - 1
    vector = {"route": "auto", "side": "control", "arms": arms, "probabilities": shares}
    writer.node.append(f"sel-{mask:x}", events.SELECTOR, vector, NOON)
    rng = np.random.default_rng(0)
    for row in range(50):
        arm = int(rng.integers(39))
        body = writer.data(at=NOON + row, arm="x/y") | {
            "arm": arms[arm],
            "propensity": 1 / 39,
            "vector": f"sel-{mask:x}" if row else "sel-lost",
        }
        writer.node.append(writer.node.mint(NOON + row), events.REQUEST, body, NOON + row)

    (decisions,) = read_decisions(log_of()).values()

    assert len(decisions) == 49
    assert decisions.left_out == {"its probabilities are no longer in the log": 1}
    assert decisions.vectors.shape == (1, 40)
    eligible = decisions.eligible[0]
    assert eligible.sum() == 39
    assert not eligible[decisions.arms.index("a39")]


def test_contextual_rows_carry_features(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """Features come back as they were logged, and make the cost estimate more precise."""
    writer.play(world(), 1500, even, context=True)
    (decisions,) = read_decisions(log_of()).values()
    blind = decisions.part(np.ones(len(decisions), dtype=np.bool_))
    target = Shares("always large", {"large": 1.0})

    seeing = evaluate(decisions, target).metrics[COST].headline
    logged = decisions.logged(COST)
    without = estimate(
        apply(
            type(logged)(logged.arms, logged.propensity, logged.values, logged.observed, logged.vectors),
            target.vectors(decisions),
            3,
        )
    )

    assert decisions.features == "f1"
    assert decisions.x is not None
    assert set(np.unique(decisions.x[:, 1])) == {-1.0, 1.0}
    assert seeing.error < without.error
    assert len(blind) == len(decisions)


def test_prices_that_changed_are_pointed_out(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """Costs are what was charged at the time; whoever reads them is told."""
    writer.play(world(), 20, even)
    writer.play(world(extra={"price_version": "v2"}), 20, even, start=NOON + 100)

    (decisions,) = read_decisions(log_of()).values()

    assert decisions.notes[0].startswith("Prices changed meanwhile (small, large, huge)")


def test_rows_of_one_unit_share_a_number(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """Sticky callers are clusters."""
    writer.play(world(extra={"unit": "user", "unit_hash": "aa"}), 4, even)
    writer.play(world(extra={"unit": "user", "unit_hash": "bb"}), 3, even, start=NOON + 10)

    (decisions,) = read_decisions(log_of()).values()

    assert decisions.units is not None
    assert np.bincount(decisions.units).tolist() == [4, 3]


def test_savings_have_error_bars_that_hold_the_truth(
    writer: Any, world: Any, log_of: Callable[[], Path]
) -> None:
    """Against `large` for everything: two days, whose totals add up, near what is really saved."""
    made = writer.play(world(), 3000, lambda _row: (0.7, 0.25, 0.05), every=40.0)
    (decisions,) = read_decisions(log_of()).values()

    found = savings(decisions, "large")

    paid = float(decisions.outcomes[COST].sum())
    assert found.refused == ""
    assert found.total.actual_usd == pytest.approx(paid)
    assert abs(found.total.baseline_usd - 0.004 * len(made)) < 4.5 * found.total.error_usd
    assert len(found.days) >= 2
    assert sum(day.saved_usd for day in found.days.values()) == pytest.approx(found.total.saved_usd)
    assert found.quality_gap is not None
    assert found.quality_gap.high < 0.0  # `small` is worse, and the log can tell.
    assert usual_baseline(decisions) == "large"
    assert together({"auto": found, "other": found}).requests == 6000


def test_savings_against_a_rare_arm_are_refused(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """A baseline with 2 % of 1,000 requests is too little to compare with."""
    writer.play(world(), 1000, lambda _row: (0.9, 0.08, 0.02))
    (decisions,) = read_decisions(log_of()).values()

    assert "200 are needed" in savings(decisions, "huge").refused


def test_a_learning_policy_never_sees_the_outcome_it_is_judged_by(
    writer: Any, world: Any, log_of: Callable[[], Path]
) -> None:
    """It decides with what the rows before taught it, over the arms that could serve."""
    writer.play(world(), 40, even)
    (decisions,) = read_decisions(log_of()).values()
    told: list[tuple[str, int]] = []

    class Diary:
        """A policy that plays all alike and writes down what it is told."""

        def decide(self, x: Any, u: float, eligible: int | None = None) -> tuple[int, tuple[float, ...]]:
            told.append(("decide", eligible or 0))
            return 0, (0.25, 0.75)

        def outcome(self, arm: int, x: Any, **facts: Any) -> None:
            told.append(("outcome", arm))

        def rating(self, arm: int, x: Any, *, at: float, value: float) -> None:
            told.append(("rating", arm))

    places = np.array([decisions.arms.index(arm) for arm in ("large", "small")])
    rows = learned(Diary(), places, decisions, 1)

    assert rows[:, places].tolist() == [[0.25, 0.75]] * 40
    assert rows.sum(axis=1) == pytest.approx(1.0)
    assert [kind for kind, _ in told][:2] in (["decide", "outcome"], ["decide", "decide"])
    assert sum(kind == "decide" for kind, _ in told) == 40
    assert {mask for kind, mask in told if kind == "decide"} == {3}


def test_questions_without_an_answer_are_sentences(
    writer: Any, world: Any, log_of: Callable[[], Path], tmp_path: Path
) -> None:
    """No log, no such route, too many rows, unknown arms, shares that are none."""
    writer.play(world(), 20, even)
    arms = ("small", "large", "huge")

    with pytest.raises(ReplayRefused, match="no event log"):
        log_directory(tmp_path)
    assert log_directory(log_of().parent) == log_of()
    with pytest.raises(ReplayRefused, match="it has: auto"):
        read_decisions(log_of(), route="other")
    with pytest.raises(ReplayRefused, match="more decisions than fit"):
        read_decisions(log_of(), max_rows=10)
    with pytest.raises(ReplayRefused, match="Did you mean 'large'"):
        find_arm("larg", arms)
    with pytest.raises(ReplayRefused, match="sum to 1"):
        fixed_target({"probabilities": {"small": 0.5}}, arms)
    with pytest.raises(ReplayRefused, match="share of 0 or more"):
        fixed_target({"probabilities": {"small": -0.5}}, arms)
    with pytest.raises(ReplayRefused, match="stands alone"):
        fixed_target({"arm": "small", "policy": "ucb"}, arms)
    assert fixed_target({"policy": "ucb"}, arms) is None


def _capped(seed: int, n: int = 2500) -> tuple[Decisions, np.ndarray, np.ndarray]:
    """Contextual shares; on the hardest and by far dearest 4 % a cap keeps `huge` out. Also (n, 3) truths."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    x[:, 0] = 1.0
    hard = x[:, 1].astype(np.float64)
    cost = np.exp(np.stack([-7 + 0.3 * hard, -6 + 0.4 * hard, -4 + 0.5 * hard], axis=1))
    quality = np.stack([0.7 - 0.1 * hard, 0.8 - 0.05 * hard, np.full(n, 0.9)], axis=1).clip(0.02, 0.98)
    wish = np.exp(np.stack([1 - hard, 0 * hard, hard - 1], axis=1))
    shares = 0.03 + 0.91 * wish / wish.sum(axis=1, keepdims=True)
    shares[hard > np.quantile(hard, 0.96), 2] = 0.0
    shares /= shares.sum(axis=1, keepdims=True)
    rows = np.arange(n)
    arms = (shares.cumsum(axis=1) < rng.random(n)[:, None]).sum(axis=1).clip(0, 2)
    rated = np.where(rng.random(n) < 0.5, rng.random(n) < quality[rows, arms], np.nan)
    outcomes = {
        COST: cost[rows, arms] * np.exp(rng.normal(0, 0.3, n) - 0.045),
        QUALITY: rated,
        SUCCESS: np.ones(n),
        LATENCY: np.ones(n),
    }
    everyone = np.ones((n, 3), dtype=np.bool_)
    made = Decisions(
        *(
            "auto",
            ("small", "large", "huge"),
            NOON + rows,
            arms,
            shares[rows, arms],
            shares,
            everyone,
            everyone,
        ),
        *(rows, np.full(n, 2), outcomes, np.ones(n, dtype=np.bool_)),
        x=x,
        features="f1",
    )
    return made, cost, quality


@pytest.mark.slow
def test_what_a_cap_kept_out_is_left_out_and_not_guessed() -> None:
    """Half `huge`: of what could be drawn the intervals cover the truth in about 95 % of 60 logs, cost and quality."""
    half = {"small": 0.5, "huge": 0.5}
    covered = {COST: 0, QUALITY: 0, "saved": 0}
    for seed in range(60):
        decisions, cost, quality = _capped(seed)
        free = decisions.vectors[:, 2] > 0.0
        report = evaluate(decisions, Shares("half", half))
        saved = savings(decisions, "huge")
        assert report.refused == ""
        assert report.notes == ("100 requests that could not have drawn what the policy plays are left out.",)
        assert report.unsupported == 0.0
        assert saved.notes == ("100 requests could not draw 'huge' and are left out.",)
        for metric, truth in ((COST, cost), (QUALITY, quality)):
            found, value = report.metrics[metric].headline, (0.5 * (truth[:, 0] + truth[:, 2]))[free].mean()
            covered[metric] += found.low <= value <= found.high
        covered["saved"] += (
            abs(saved.total.baseline_usd - cost[free, 2].sum()) <= 1.96 * saved.total.error_usd
        )

    assert min(covered.values()) >= 53


def test_a_cap_on_many_requests_has_no_verdict() -> None:
    """Where a third could not draw it, what is left is another question than the one asked."""
    decisions, *_ = _capped(0)
    vectors = decisions.vectors.copy()
    vectors[::3, 2] = 0.0
    vectors /= vectors.sum(axis=1, keepdims=True)
    kept = replace(decisions, vectors=vectors).part(vectors[np.arange(len(vectors)), decisions.chosen] > 0.0)

    assert "arms that the log did not draw" in evaluate(kept, Shares("huge", {"huge": 1.0})).refused
    assert "could not be drawn" in savings(kept, "huge").refused
