"""What a route may be told: fallbacks, numbers of attempts, hedging, pins and plain models."""

from loadtests.faults.scenario import Expected, Scenario, arms

FAILED = ("upstream_fault",)
STAYS = Expected("refused", tries="aa|aaa", status=(500,), outcome=FAILED, within_s=1.5)

SCENARIOS = (
    Scenario(
        "fallbacks",
        "the route's fallbacks are gone to, in order",
        arms("status:500", "status:500", "answer"),
        Expected("complete", tries="aabc", taught="a0 a0 b0 c1"),
        fallbacks="bc",
        resilience={"attempts": 4},
    ),
    Scenario(
        "fallbacks-only",
        "with fallbacks, the route's other arms are not asked",
        arms("status:500", "answer", "answer"),
        Expected("complete", tries="aac"),
        fallbacks="c",
    ),
    Scenario(
        "likeliest",
        "without fallbacks, the likeliest other arm comes first",
        arms("status:500", "answer", "answer"),
        Expected("complete", tries="aab"),
    ),
    Scenario(
        "one-attempt",
        "retries: 0 is one attempt",
        arms("status:500", "answer"),
        Expected("refused", tries="a", status=(500,), outcome=FAILED, taught="a0"),
        resilience={"attempts": 1, "same_arm": 0},
    ),
    Scenario(
        "no-same-arm",
        "same_arm: 0 goes to the next arm at once",
        arms("status:500", "answer"),
        Expected("complete", tries="ab", taught="a0 b1"),
        resilience={"same_arm": 0},
    ),
    Scenario(
        "many-attempts",
        "the number of attempts is bounded",
        arms("status:500", "status:500", "status:500", "answer"),
        Expected("refused", tries="aab", status=(500,), outcome=FAILED, taught="a0 a0 b0"),
    ),
    Scenario("pinned", "a pinned request stays on its arm", arms("status:500", "answer"), STAYS, pinned="a"),
    Scenario(
        "pinned-401",
        "a pinned request stays on its arm, whatever is wrong",
        arms("auth:401", "answer"),
        Expected("refused", status=(502,), code=("upstream_auth_error",)),
        pinned="a",
    ),
    Scenario(
        "pinned-once",
        "a pinned request is asked again",
        arms("status:500*1", "answer"),
        Expected("complete", tries="aa"),
        pinned="a",
    ),
    Scenario(
        "plain",
        "a model asked for by its own name stays that model",
        arms("status:500", "answer"),
        STAYS,
        model="a",
    ),
    Scenario(
        "plain-silent",
        "the same when it is silent",
        arms("blackhole", "answer"),
        Expected(
            "refused", tries="a|aa", status=(504,), code=("upstream_timeout",), cancelled="a", within_s=2.2
        ),
        model="a",
    ),
    Scenario(
        "no-hedge",
        "hedging is off unless asked for",
        arms("slow:350", "answer"),
        Expected("complete", taught="a1"),
    ),
    Scenario(
        "hedge",
        "with hedging, a second attempt starts when the first is late, and the first good head wins",
        arms("slow:5000", "answer"),
        Expected("complete", tries="ab", cancelled="a", taught="b1", within_s=0.6),
        resilience={"hedge_s": 0.1},
        upstream={"first_byte_s": 10.0},
    ),
    Scenario(
        "hedge-stream",
        "the same for a stream",
        arms("slow:5000", "answer"),
        Expected("complete", tries="ab", cancelled="a", taught="b1", within_s=0.6),
        stream=True,
        resilience={"hedge_s": 0.1, "first_token_s": 10.0},
        upstream={"first_byte_s": 10.0},
    ),
    Scenario(
        "hedge-first-wins",
        "the first attempt answers after all: the second one is hung up on",
        arms("slow:300", "slow:5000"),
        Expected("complete", tries="ab|ba", served_by="a", cancelled="b", within_s=1.0),
        resilience={"hedge_s": 0.1},
        upstream={"first_byte_s": 10.0},
    ),
    Scenario(
        "hedge-instead",
        "the first attempt fails while the second one is under way: that one is the repetition",
        arms("status:500,late=200", "slow:300"),
        Expected("complete", tries="ab", within_s=0.8, taught="a0 b1"),
        resilience={"hedge_s": 0.1},
    ),
    Scenario(
        "hedge-fails",
        "the second attempt fails: the first one is still waited for",
        arms("slow:300", "status:500"),
        Expected("complete", tries="ab|ba", served_by="a", within_s=1.0),
        resilience={"hedge_s": 0.1, "attempts": 2},
        upstream={"first_byte_s": 10.0},
    ),
)
