"""Error statuses: which are worth another attempt, where, when, and what the caller is told in the end."""

from loadtests.faults.scenario import Arm, Expected, Scenario, arms

FAILED = ("upstream_fault",)
CALLER = ("caller_fault",)
CENSORED = ("censored",)


def again(status: int, kind: str = "") -> Scenario:
    """One failure, then an answer of the same arm."""
    taught = "a1" if 400 <= status < 500 and status != 408 else "a0 a1"
    return Scenario(
        f"{status}-once{kind and '-' + kind}",
        f"{status}{kind and ' as ' + kind}: asked again after a pause",
        arms(f"status:{status}{kind and ',' + kind}*1"),
        Expected("complete", tries="aa", taught=taught),
    )


def elsewhere(status: int, tries: str, taught: str) -> Scenario:
    """Failures of the decided arm only."""
    return Scenario(
        f"{status}-next",
        f"{status} every time: the next arm",
        arms(f"status:{status}", "answer"),
        Expected("complete", tries=tries, taught=taught),
    )


def waits(
    name: str,
    says: str,
    fault: str,
    *,
    gap: float,
    tries: str = "aa",
    within_s: float = 1.0,
    slow: bool = False,
) -> Scenario:
    """A 429 that says when to come back."""
    return Scenario(
        name,
        says,
        arms(f"status:429,{fault}*1", "answer"),
        Expected("complete", tries=tries, gaps=(gap,), taught=f"{tries[-1]}1", within_s=within_s),
        slow=slow,
    )


SCENARIOS = (
    *(again(status) for status in (408, 409, 429, 500, 502, 503, 504)),
    again(502, "html"),
    again(503, "empty"),
    Scenario(
        "500-twice-stream",
        "500 twice for a stream: the caller never notices",
        arms("status:500*2", "answer"),
        Expected("complete", tries="aab", taught="a0 a0 b1"),
        stream=True,
    ),
    elsewhere(500, "aab", "a0 a0 b1"),
    elsewhere(503, "aab", "a0 a0 b1"),
    elsewhere(429, "aab", "b1"),
    Scenario(
        "500-should-not",
        "x-should-retry: false: not the same arm again, the next one",
        arms("status:500,should=false", "answer"),
        Expected("complete", tries="ab", taught="a0 b1"),
    ),
    Scenario(
        "500-alone",
        "500 every time, no other arm: passed on after a few attempts",
        arms("status:500"),
        Expected("refused", tries="aa|aaa", status=(500,), outcome=FAILED, within_s=1.5),
    ),
    Scenario(
        "502-html-alone",
        "an HTML error page is told in OpenAI's shape",
        arms("status:502,html"),
        Expected("refused", tries="aa|aaa", status=(502,), outcome=FAILED, within_s=1.5),
    ),
    Scenario(
        "503-alone",
        "503 every time: passed on with Retry-After",
        arms("status:503"),
        Expected("refused", tries="aa|aaa", status=(503,), outcome=FAILED, retry_after=(0, 60), within_s=1.5),
    ),
    Scenario(
        "504-empty-alone",
        "an empty 504 is told in OpenAI's shape",
        arms("status:504,empty"),
        Expected("refused", tries="aa|aaa", status=(504,), outcome=FAILED, within_s=1.5),
    ),
    Scenario(
        "first-cause",
        "everything fails: the first arm's error is told, not the last one's",
        arms("status:500", "status:401", "status:400"),
        Expected("refused", tries="aab", status=(500,), outcome=FAILED),
    ),
    Scenario(
        "first-cause-429",
        "429 first, then 500: the caller is told 429, with Retry-After",
        arms("status:429,after=60", "status:500"),
        Expected("refused", tries="abb|ab", status=(429,), retry_after=(1, 60)),
    ),
    Scenario(
        "first-cause-timeout",
        "silence first, then 400 elsewhere: 504 is told",
        arms("blackhole", "status:400"),
        Expected("refused", tries="ab", status=(504,), code=("upstream_timeout",), within_s=1.6),
    ),
    waits("429-milliseconds", "retry-after-ms is waited for", "ms=300", gap=0.3, within_s=1.3),
    waits("429-seconds", "Retry-After in seconds is waited for", "after=1", gap=1.0, within_s=2.2),
    waits("429-date", "Retry-After as a date is waited for", "date=1.4", gap=0.1, within_s=2.5),
    waits(
        "429-both", "retry-after-ms is the more exact of the two", "ms=250,after=1", gap=0.25, within_s=1.0
    ),
    waits("429-absurd", "a Retry-After of a day: the next arm at once", "after=86400", gap=0, tries="ab"),
    waits("429-absurd-date", "a date in a year: the next arm at once", "date=31536000", gap=0, tries="ab"),
    waits("429-malformed", "a Retry-After that is none: the usual pause", "after=soon", gap=0.05),
    waits("429-negative", "a negative Retry-After: the usual pause", "after=-5", gap=0.05),
    waits("429-past-date", "a date that is over: the usual pause", "date=-3600", gap=0.01),
    Scenario(
        "429-alone-absurd",
        "a Retry-After of a day, no other arm: told at once, with the date",
        arms("status:429,after=86400"),
        Expected("refused", status=(429,), outcome=CENSORED, retry_after=(1, 86400), within_s=0.5),
    ),
    Scenario(
        "429-alone",
        "429 every time: passed on with Retry-After, teaches nothing",
        arms("status:429"),
        Expected(
            "refused",
            tries="aa|aaa",
            status=(429,),
            outcome=CENSORED,
            retry_after=(0, 60),
            taught="",
            within_s=1.5,
        ),
    ),
    Scenario(
        "401-next",
        "our key refused: the next arm, and the key is quoted nowhere",
        arms("auth:401", "answer"),
        Expected("complete", tries="ab", taught="b1"),
    ),
    Scenario("403-next", "403: the next arm", arms("auth:403", "answer"), Expected("complete", tries="ab")),
    Scenario(
        "401-alone",
        "our key refused, no other arm: 502, for it is not the caller's key",
        arms("auth:401"),
        Expected("refused", status=(502,), code=("upstream_auth_error",), outcome=CENSORED, taught=""),
    ),
    Scenario(
        "401-everywhere",
        "both keys refused: 502",
        arms("auth:401", "auth:403"),
        Expected("refused", tries="ab", status=(502,), code=("upstream_auth_error",), taught=""),
    ),
    Scenario(
        "missing-next",
        "404 model_not_found: the next arm",
        arms("missing", "answer"),
        Expected("complete", tries="ab"),
    ),
    Scenario(
        "missing-alone",
        "404 model_not_found, no other arm: passed on",
        arms("missing"),
        Expected("refused", status=(404,), code=("model_not_found",)),
    ),
    Scenario(
        "too-long-larger",
        "context overflow: the arm with the larger context, not the smaller one",
        arms(Arm("too-long", context=8192), Arm("answer", context=4096), Arm("answer", context=200_000)),
        Expected("complete", tries="ac", taught="c1"),
    ),
    Scenario(
        "too-long-largest",
        "context overflow, no larger context: passed on, asked once",
        arms(Arm("too-long", context=8192), Arm("answer", context=4096)),
        Expected("refused", status=(400,), code=("context_length_exceeded",), outcome=CALLER, taught=""),
    ),
    Scenario(
        "too-long-twice",
        "the larger one overflows too: the largest",
        arms(Arm("too-long", context=8192), Arm("too-long", context=16384), Arm("answer", context=200_000)),
        Expected("complete", tries="abc|ac", taught="c1"),
    ),
    Scenario(
        "policy",
        "content policy: passed on as it is, not asked again",
        arms("policy", "answer"),
        Expected("refused", status=(400,), code=("content_policy_violation",), outcome=CALLER, taught=""),
    ),
    Scenario(
        "policy-azure",
        "Azure's content_filter is passed on as it is",
        arms("policy:azure", "answer"),
        Expected("refused", status=(400,), code=("content_filter",), outcome=CALLER, taught=""),
    ),
    Scenario(
        "filtered",
        "finish reason content_filter is an answer, and stays one",
        arms("filtered", "answer"),
        Expected("complete", text="alpha beta gamma", finish="content_filter"),
    ),
    Scenario(
        "filtered-stream",
        "the same in a stream",
        arms("filtered", "answer"),
        Expected("complete", text="alpha beta gamma", finish="content_filter"),
        stream=True,
    ),
    *(
        Scenario(
            f"{status}-passed-on",
            f"{status} is the caller's: passed on, asked once",
            arms(f"status:{status}", "answer"),
            Expected("refused", status=(status,), outcome=CALLER, taught=""),
            stream=status == 422,
        )
        for status in (400, 422, 425)
    ),
)
