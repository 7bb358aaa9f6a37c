"""Callers that hang up: whatever was being done for them stops, and it is nobody's failure."""

from loadtests.faults.scenario import Arm, Expected, Scenario, arms

GONE = Expected("left", cancelled="a", outcome=("censored",), taught="")

SCENARIOS = (
    Scenario(
        "leaves-waiting",
        "while waiting for the head: cancelled",
        arms("blackhole", "answer"),
        GONE,
        leaves_s=0.15,
    ),
    Scenario(
        "leaves-first-token",
        "while waiting for the first token: cancelled",
        arms("before-token:role", "answer"),
        GONE,
        stream=True,
        leaves_s=0.15,
    ),
    Scenario(
        "leaves-stream",
        "between tokens: cancelled",
        arms("infinite", "answer"),
        Expected("left", cancelled="a", outcome=("censored",), taught="", billed=True),
        stream=True,
        leaves_after=3,
    ),
    Scenario(
        "leaves-body",
        "in the middle of a body: cancelled",
        arms("cut-body:stall", "answer"),
        GONE,
        leaves_s=0.15,
    ),
    Scenario(
        "leaves-connecting",
        "while connecting: nothing more is tried",
        arms(Arm("answer", base="silent"), "answer"),
        Expected("left", outcome=("censored",), taught=""),
        leaves_s=0.15,
        settle_s=0.6,
    ),
    Scenario(
        "leaves-pause",
        "in the pause before a repetition: there is none",
        arms("status:500", "answer"),
        Expected("left", outcome=("censored",)),
        leaves_s=0.15,
        settle_s=0.8,
        resilience={"backoff_s": 0.8, "max_backoff_s": 0.8},
    ),
    Scenario(
        "leaves-second",
        "during the second attempt: that one is cancelled",
        arms("status:500", "blackhole"),
        Expected("left", tries="ab", cancelled="b", outcome=("censored",), taught="a0"),
        leaves_s=0.25,
        resilience={"same_arm": 0},
    ),
    Scenario(
        "leaves-hedged",
        "while two attempts race: both are cancelled",
        arms("slow:5000", "slow:5000"),
        Expected("left", tries="ab|ba", cancelled="ab", outcome=("censored",), taught=""),
        leaves_s=0.3,
        resilience={"hedge_s": 0.1},
        upstream={"first_byte_s": 10.0},
    ),
    Scenario(
        "leaves-continued",
        "while an answer is being continued: cancelled",
        arms("cut:3,reset", Arm("blackhole", can=("prefill",))),
        Expected(
            "left",
            tries="ab",
            cancelled="b",
            outcome=("censored", "upstream_fault"),
            taught=None,
            within_s=1.0,
        ),
        stream=True,
        leaves_s=0.3,
        resilience={"resume": True},
    ),
)
