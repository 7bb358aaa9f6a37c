"""Streams that are cut after the caller has read some of them, on routes with ``streams.resume``."""

from loadtests.faults.scenario import Arm, Expected, Scenario, arms

RESUME = {"resume": True}
GOOD = Arm("answer", can=("prefill",))
THREE = "alpha beta gamma"
ONE_TEXT = Expected(
    "complete",
    tries="ab",
    header=1,
    served_by="a",
    continued=True,
    outcome=("completed",),
    taught="a0 b1",
    within_s=1.8,
)


def goes_on(name: str, says: str, *faults: str | Arm, expected: Expected = ONE_TEXT) -> Scenario:
    """The caller reads one answer."""
    return Scenario(name, says, arms(*faults), expected, stream=True, resilience=RESUME)


SCENARIOS = (
    goes_on("resume-reset", "reset after three tokens: continued, one text, one id", "cut:3,reset", GOOD),
    goes_on("resume-close", "closed: continued", "cut:3,close", GOOD),
    goes_on("resume-end", "ended without a finish reason: continued", "cut:3,end", GOOD),
    goes_on("resume-no-finish", "[DONE] without a finish reason: continued", "no-finish:3", GOOD),
    goes_on("resume-stall", "silence in the middle: continued", "cut:3,stall", GOOD),
    goes_on(
        "resume-error-event", "an error event in the middle: continued, not shown", "error-event:3", GOOD
    ),
    goes_on("resume-half-event", "cut in the middle of an event: continued", "half-event:close", GOOD),
    goes_on("resume-bad-chunk", "broken framing: continued", "bad-chunk", GOOD),
    goes_on(
        "resume-prefix",
        "a model that wants prefix: true",
        "cut:3,reset",
        Arm("answer:prefix", can=("prefill_prefix",)),
    ),
    goes_on(
        "resume-continue",
        "a model that wants continue_final_message",
        "cut:3,reset",
        Arm("answer:continue", can=("prefill_continue",)),
    ),
    goes_on(
        "resume-anthropic",
        "an Anthropic arm continues an OpenAI stream",
        "cut:3,reset",
        Arm("answer", provider="anthropic", can=("prefill",)),
    ),
    goes_on(
        "resume-anthropic-blank",
        "cut after a blank, which Anthropic refuses at the end of what was begun",
        "spaced:3,reset",
        Arm("answer", provider="anthropic", can=("prefill",)),
    ),
    goes_on("resume-blank", "cut after a blank", "spaced:3,reset", GOOD),
    goes_on(
        "resume-from-anthropic",
        "an OpenAI arm continues an Anthropic stream",
        Arm("cut:3,reset", provider="anthropic"),
        GOOD,
    ),
    Scenario(
        "resume-usage",
        "with include_usage: one usage event at the end",
        arms("cut:3,reset", GOOD),
        ONE_TEXT,
        stream=True,
        resilience=RESUME,
        body={"stream_options": {"include_usage": True}},
    ),
    goes_on("resume-at-end", "cut after the last word: only the end is missing", "cut:8,reset", GOOD),
    goes_on("resume-odd-text", "quotes, line ends, several bytes a character", "cut:6,reset", GOOD),
    goes_on("resume-line-end", "cut after a line end", "cut:4,reset", GOOD),
    goes_on(
        "resume-anthropic-line-end",
        "cut after a line end, which Anthropic refuses at the end of what was begun",
        "cut:4,reset",
        Arm("answer", provider="anthropic", can=("prefill",)),
    ),
    goes_on(
        "resume-reasoning",
        "cut in its reasoning, which nobody can continue: an error event",
        "thought-cut:reset",
        GOOD,
        expected=Expected("broken", text="", code=("upstream_reset",), taught="a0"),
    ),
    Scenario(
        "resume-held",
        "held back and cut later: continued",
        arms("cut:5,reset", GOOD),
        ONE_TEXT,
        stream=True,
        resilience=RESUME | {"hold_tokens": 3},
    ),
    Scenario(
        "resume-json",
        "an answer that must be JSON is not continued: an error event",
        arms("cut:3,reset", GOOD),
        Expected("broken", text=THREE, code=("upstream_reset",), taught="a0"),
        stream=True,
        resilience=RESUME,
        body={"response_format": {"type": "json_object"}},
    ),
    goes_on(
        "resume-silent",
        "the arm that should continue is silent: the first cause is told",
        "cut:3,reset",
        Arm("blackhole", can=("prefill",)),
        expected=Expected(
            "broken",
            text=THREE,
            tries="ab",
            header=1,
            served_by="a",
            code=("upstream_reset",),
            outcome=("upstream_fault",),
            cancelled="b",
            taught="a0 b0",
            within_s=1.8,
        ),
    ),
    goes_on(
        "resume-skips",
        "the next arm can't continue, the one after it can",
        "cut:3,reset",
        "answer:fresh",
        GOOD,
        expected=Expected(
            "complete", tries="ac", header=1, served_by="a", continued=True, taught="a0 c1", within_s=1.5
        ),
    ),
    goes_on(
        "resume-twice",
        "the arm that continued is cut as well: continued again",
        "cut:3,reset",
        Arm("cut:2,reset", can=("prefill",)),
        GOOD,
        expected=Expected(
            "complete", tries="abc", header=1, served_by="a", continued=True, taught="a0 b0 c1", within_s=1.5
        ),
    ),
    goes_on(
        "resume-refused",
        "the arm that should continue fails: the first cause is told",
        "cut:3,reset",
        Arm("status:400", can=("prefill",)),
        expected=Expected(
            "broken",
            text=THREE,
            tries="ab",
            header=1,
            served_by="a",
            code=("upstream_reset",),
            outcome=("upstream_fault",),
        ),
    ),
    goes_on(
        "resume-nobody",
        "nobody can continue: an error event",
        "cut:3,reset",
        "answer:fresh",
        expected=Expected("broken", text=THREE, code=("upstream_reset",), taught="a0"),
    ),
    goes_on(
        "resume-tool-call",
        "half a tool call can't be continued: an error event",
        "tool-cut:reset",
        GOOD,
        expected=Expected("broken", text="", code=("upstream_reset",), taught="a0"),
    ),
    Scenario(
        "resume-off",
        "without streams.resume nothing is continued",
        arms("cut:3,reset", GOOD),
        Expected("broken", text=THREE, code=("upstream_reset",), taught="a0"),
        stream=True,
    ),
    Scenario(
        "resume-n-2",
        "several choices can't be continued: an error event",
        arms("cut:3,reset", GOOD),
        Expected("broken", text=THREE, code=("upstream_reset",), taught="a0"),
        stream=True,
        resilience=RESUME,
        body={"n": 2},
    ),
)
