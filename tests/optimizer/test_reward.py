"""What an outcome teaches."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer import events, reward
from policies.types import Moments

SMALL = ("key-small", "key-default")
LARGE = ("key-large", "key-default")


def taught(data):
    """Lessons per arm as dictionaries."""
    known = {"large/default": LARGE, "small/default": SMALL}
    found = reward.lessons(data, keys_of=known.get, cost_of=lambda _: reward.cost_lessons(data))
    return [(keys, dict(lessons)) for keys, lessons in found]


def test_a_completed_request_teaches_cost_and_latency_at_once(learning):
    """Success, validity, cost in logarithms and dollars, and duration in log seconds."""
    found = taught(learning["data"](cost_usd=0.002, duration_ms=500.0))

    assert found == [
        (
            SMALL,
            {
                "success": 1.0,
                "valid": 1.0,
                "cost@v1": math.log(0.002),
                "cost_usd@v1": 0.002,
                "latency": math.log(0.5),
            },
        )
    ]


def test_a_stream_teaches_time_to_first_token(learning):
    """Only streams have one."""
    streamed = taught(learning["data"](stream=True, ttft_ms=100.0))[0][1]
    whole = taught(learning["data"](stream=False, ttft_ms=100.0))[0][1]

    assert streamed["ttft"] == pytest.approx(math.log(0.1))
    assert "ttft" not in whole


@pytest.mark.parametrize("outcome", [events.CALLER_FAULT, events.CENSORED, "something new"])
def test_what_was_not_the_arms_doing_teaches_nothing(learning, outcome):
    """Caller's mistakes, hang-ups and overload say nothing about the arm."""
    assert taught(learning["data"](outcome=outcome)) == []


def test_an_upstream_fault_is_a_failure_of_the_arm(learning):
    """And teaches neither cost nor latency."""
    assert taught(learning["data"](outcome=events.UPSTREAM_FAULT)) == [(SMALL, {"success": 0.0})]


def test_pass_through_teaches_nothing(learning):
    """Without a route there is nothing to learn about."""
    assert taught(learning["data"](route=None)) == []


def test_an_unknown_cost_is_no_lesson_and_a_free_reply_is_a_tiny_one(learning):
    """Unknown is not free."""
    unknown = taught(learning["data"](cost_usd=None))[0][1]
    free = taught(learning["data"](cost_usd=0.0))[0][1]

    assert not [name for name in unknown if name.startswith("cost")]
    assert free["cost@v1"] == math.log(reward.LEAST_USD)
    assert free["cost_usd@v1"] == 0.0


@pytest.mark.parametrize("usd", [-1.0, math.nan, math.inf, "1"])
def test_nonsense_is_no_cost(usd):
    """Only an amount of money is one."""
    assert reward.costs(usd, "v1") == []


@pytest.mark.parametrize(
    ("signals", "valid"),
    [
        ({"empty": 1}, 0.0),
        ({"json_valid": 0}, 0.0),
        ({"empty": 0, "json_valid": 1}, 1.0),
        ({"refusal": 1}, 1.0),
    ],
)
def test_empty_and_invalid_replies_are_certain_failures(learning, signals, valid):
    """A refusal may be the right answer, so it is recorded and not judged."""
    lessons = taught(learning["data"](signals=signals))[0][1]

    assert lessons["valid"] == valid
    assert {name: lessons[name] for name in signals} == signals


def test_finish_reasons_are_recorded(learning):
    """Truncation and filters become rates."""
    lessons = taught(learning["data"](**{"gen_ai.response.finish_reasons": ["length"]}))[0][1]

    assert (lessons["truncated"], lessons["content_filter"]) == (1.0, 0.0)


def test_a_fallback_teaches_both_arms(learning):
    """The first arm failed; the second one's own duration counts, not the time lost before."""
    found = taught(
        learning["data"](
            duration_ms=1500.0,
            attempts=[
                {"arm": "small/default", "status": 503, "error": "upstream_error", "ms": 1000.0},
                {"arm": "large/default", "status": 200, "error": None, "ms": 500.0},
            ],
        )
    )

    assert found[0] == (SMALL, {"success": 0.0})
    assert found[1][0] == LARGE
    assert found[1][1]["latency"] == pytest.approx(math.log(0.5))


def test_a_quota_refusal_before_a_fallback_is_no_failure(learning):
    """429 feeds breakers, not beliefs."""
    found = taught(
        learning["data"](
            attempts=[
                {"arm": "small/default", "status": 429, "error": "rate_limited", "ms": 5.0},
                {"arm": "large/default", "status": 200, "error": None, "ms": 500.0},
            ]
        )
    )

    assert [keys for keys, _ in found] == [LARGE]


def test_an_attempt_may_name_its_own_keys(learning):
    """So that a log can be replayed without the configuration of its day."""
    data = learning["data"](
        attempts=[
            {"arm": "small/default", "status": None, "error": "upstream_timeout", "ms": 5.0},
            {
                "arm": "gone/x",
                "model_key": "k1",
                "variant_key": "k2",
                "status": 200,
                "error": None,
                "ms": 9.0,
            },
        ]
    )

    assert [keys for keys, _ in taught(data)] == [SMALL, ("k1", "k2")]
    assert reward.serving_arm(data, {}.get) == ("k1", "k2")


def attempt(arm="small/default", **fields):
    """One of several attempts, failed unless it says otherwise."""
    model, variant = arm.split("/")
    return {
        "arm": arm,
        "upstream": "one",
        "status": 503,
        "error": "upstream_error",
        "ms": 200.0,
        "why": "first",
        "model": model,
        "model_key": f"key-{model}",
        "variant_key": f"key-{variant}",
        "cost_usd": None,
        "price_version": "v1",
        **fields,
    }


def served(arm="large/default", **fields):
    return attempt(arm, **{"status": 200, "error": None, "cost_usd": 0.004, "why": "fallback", **fields})


def test_of_several_attempts_the_last_ones_own_numbers_are_learned(learning):
    """The event's cost is of all together, its duration includes the waiting, its prices are the first arm's."""
    found = taught(
        learning["data"](
            cost_usd=0.009,
            price_version="first",
            duration_ms=1500.0,
            ttft_ms=900.0,
            stream=True,
            attempts=[attempt(cost_usd=0.005), served(price_version="v2", ms=250.0)],
        )
    )

    assert found[0] == (SMALL, {"success": 0.0})
    assert found[1] == (
        LARGE,
        {
            "success": 1.0,
            "valid": 1.0,
            "cost@v2": math.log(0.004),
            "cost_usd@v2": 0.004,
            "latency": math.log(0.25),
        },
    )


def test_a_last_attempt_of_unknown_cost_teaches_none(learning):
    """What the others cost is not its."""
    found = taught(
        learning["data"](cost_usd=0.005, attempts=[attempt(cost_usd=0.005), served(cost_usd=None)])
    )

    assert not [name for name in found[1][1] if name.startswith("cost")]


def test_a_repetition_on_the_same_arm_teaches_both_its_ends(learning):
    """A failure and a success of one arm."""
    found = taught(learning["data"](attempts=[attempt(), served("small/default", why="retry")]))

    assert [(keys, lessons["success"]) for keys, lessons in found] == [(SMALL, 0.0), (SMALL, 1.0)]


@pytest.mark.parametrize(
    ("fields", "teaches"),
    [
        ({"status": 503}, True),
        ({"status": 408}, True),
        ({"status": None, "error": "upstream_timeout"}, True),
        ({"status": 200, "error": "upstream_reset"}, True),
        ({"status": 400, "error": "context_length_exceeded"}, False),
        ({"status": 401, "error": "upstream_auth_error"}, False),
        ({"status": 409, "error": "conflict"}, False),
        ({"status": 429, "error": "rate_limit_exceeded"}, False),
        ({"status": None, "error": "client_gone"}, False),
        ({"status": None, "error": "overloaded"}, False),
        ({"status": 503, "error": "upstream_overloaded"}, True),
        ({"status": 200, "error": "hedged"}, False),
    ],
)
@pytest.mark.parametrize("outcome", [events.COMPLETED, events.UPSTREAM_FAULT])
def test_each_attempt_is_judged_by_how_it_ended_itself(learning, fields, teaches, outcome):
    """Not the caller's doing, not a quota's, not ours: only then it is the arm's failure, also of the last one."""
    failed = attempt(**fields)
    attempts = [failed, served()] if outcome == events.COMPLETED else [attempt("large/default"), failed]

    found = taught(learning["data"](outcome=outcome, attempts=attempts))

    assert ((SMALL, {"success": 0.0}) in found) is teaches


@pytest.mark.parametrize("outcome", [events.CENSORED, events.CALLER_FAULT])
def test_a_failure_counts_also_when_the_caller_left_in_the_end(learning, outcome):
    """The first attempt's end was known by then; the last one's was not."""
    last = served(status=None, error="client_gone") if outcome == events.CENSORED else served(status=400)

    found = taught(learning["data"](outcome=outcome, attempts=[attempt(), last]))

    assert found == [(SMALL, {"success": 0.0})]


def test_a_continued_stream_teaches_success_and_nothing_else(learning):
    """The second arm answered half a question, so its cost, speed and form say nothing about it."""
    found = taught(
        learning["data"](
            continued=True,
            stream=True,
            ttft_ms=90.0,
            signals={"empty": 0},
            attempts=[
                attempt(status=200, error="upstream_reset", cost_usd=0.001),
                served(why="continuation"),
            ],
        )
    )

    assert found == [(SMALL, {"success": 0.0}), (LARGE, {"success": 1.0})]


weights = st.floats(0.0, 1e6)
shares = st.floats(0.0, 1.0)


@given(weights, shares, weights, shares, st.floats(0.0, 0.25))
def test_quality_is_validity_times_rating(valid_weight, valid, rated_weight, rating, spread):
    """Whatever was observed, the result is a mean within 0..1 with a weight that is never negative."""
    found = reward.quality_moments(
        Moments(valid_weight, valid, valid * (1 - valid)), Moments(rated_weight, rating, spread)
    )

    assert found.weight >= 0.0
    assert 0.0 <= found.mean <= 1.0
    assert found.variance >= 0.0
    if valid_weight > 1e-6 and rated_weight > 1e-6 and valid < 1 - 1e-6:
        assert found.mean == pytest.approx(valid * rating)


def test_rare_failures_beside_rare_ratings_do_not_look_like_a_coin_toss():
    """1 % of empty replies, 1 % of ratings at 0.9: a quality of 0.89, known as well as the ratings."""
    found = reward.quality_moments(Moments(10_000, 0.99, 0.0099), Moments(100, 0.9, 0.09))

    assert found.mean == pytest.approx(0.891)
    assert 90 < found.weight < 110


def test_without_failures_quality_is_the_ratings():
    """Nothing is invented for arms that work."""
    ratings = Moments(7.0, 0.8, 0.1)

    assert reward.quality_moments(Moments(100, 1.0, 0.0), ratings) == ratings
    assert reward.quality_moments(Moments(), ratings) == ratings
    assert reward.quality_moments(Moments(100, 1.0, 0.0), Moments()).weight == 0.0


def test_an_arm_that_only_fails_is_known_to_be_worthless_without_any_rating():
    """100 empty replies need no rating."""
    found = reward.quality_moments(Moments(100, 0.0, 0.0), Moments())

    assert found.mean == 0.0
    assert found.weight == pytest.approx(99.0)


def test_few_failures_without_ratings_weigh_next_to_nothing():
    """Otherwise the arm with the most traffic would look worst."""
    found = reward.quality_moments(Moments(10_000, 0.999, 0.001), Moments())

    assert found.weight < 0.01
