"""Upstreams that say nothing, or too little: every wait has an end, and it is not spent twice on the same arm."""

from loadtests.faults.scenario import Expected, Scenario, arms

FAILED = ("upstream_fault",)
NEXT = Expected("complete", tries="ab", taught="a0 b1", cancelled="a", within_s=1.6)
TOLD = Expected(
    "refused",
    tries="a|aa",
    status=(504,),
    code=("upstream_timeout",),
    outcome=FAILED,
    cancelled="a",
    within_s=2.2,
)


def streamed(name: str, says: str, fault: str) -> tuple[Scenario, Scenario]:
    """A stream whose first token never comes, with and without another arm."""
    return (
        Scenario(name, f"{says}: the next arm, unseen", arms(fault, "answer"), NEXT, stream=True),
        Scenario(f"{name}-alone", f"{says}, no other arm: 504", arms(fault), TOLD, stream=True),
    )


SCENARIOS = (
    Scenario(
        "blackhole", "no reply at all: the next arm after the deadline", arms("blackhole", "answer"), NEXT
    ),
    Scenario("blackhole-stream", "the same for a stream", arms("blackhole", "answer"), NEXT, stream=True),
    Scenario("blackhole-alone", "no reply, no other arm: 504", arms("blackhole"), TOLD),
    Scenario(
        "blackhole-everywhere",
        "all are silent: 504, each asked once",
        arms("blackhole", "blackhole"),
        Expected(
            "refused",
            tries="ab",
            status=(504,),
            code=("upstream_timeout",),
            cancelled="ab",
            taught="a0 b0",
            within_s=2.2,
        ),
    ),
    Scenario(
        "slow-head",
        "a head that drips past the deadline: the next arm",
        arms("slow-head:5000", "answer"),
        NEXT,
    ),
    Scenario("only-continue", "100 Continue and then nothing", arms("only-continue", "answer"), NEXT),
    Scenario(
        "slow", "a reply within the deadline is waited for", arms("slow:300", "answer"), Expected("complete")
    ),
    *streamed("headers-then-silence", "headers, then silence", "before-token:headers"),
    *streamed("comments-only", "headers, then only keep-alive comments", "before-token:comments"),
    *streamed("role-then-silence", "a role, then silence", "before-token:role"),
    *streamed("blanks-only", "only empty pieces", "before-token:blanks"),
    Scenario(
        "stall",
        "silence in the middle of a stream: an error event after the deadline",
        arms("cut:3,stall", "answer"),
        Expected(
            "broken",
            text="alpha beta gamma",
            code=("upstream_timeout",),
            outcome=FAILED,
            cancelled="a",
            taught="a0",
            within_s=1.6,
        ),
        stream=True,
    ),
    Scenario(
        "murmur",
        "only comments in the middle of a stream: bounded like silence",
        arms("murmur:3", "answer"),
        Expected(
            "broken",
            text="alpha beta gamma",
            code=("upstream_timeout",),
            outcome=FAILED,
            cancelled="a",
            within_s=2.2,
        ),
        stream=True,
    ),
    Scenario(
        "slow-tokens",
        "a stream may last longer than any deadline as long as it goes on",
        arms("slow-tokens:120", "answer"),
        Expected("complete", within_s=3.0, first_s=0.12),
        stream=True,
    ),
    Scenario(
        "total-unary",
        "the whole request has its deadline, attempts and pauses included",
        arms("blackhole", "blackhole", "answer"),
        Expected(
            "refused", tries="ab", status=(504,), code=("upstream_timeout",), cancelled="ab", within_s=1.5
        ),
        resilience={"total_s": 0.8},
    ),
    Scenario(
        "total-pause",
        "a pause that would go beyond the deadline is not begun: the first error is told",
        arms("status:500"),
        Expected("refused", status=(500, 504), outcome=FAILED, within_s=0.6),
        resilience={"total_s": 0.5, "backoff_s": 5.0, "max_backoff_s": 5.0},
    ),
    Scenario(
        "total-stream",
        "a stream that never ends is ended at the deadline, by an error event",
        arms("infinite"),
        Expected("broken", text="*", code=("upstream_timeout",), cancelled="a", within_s=1.5),
        stream=True,
        resilience={"total_s": 0.6},
    ),
)
