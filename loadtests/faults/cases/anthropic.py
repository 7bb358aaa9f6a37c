"""The same faults in the shape of Anthropic's Messages API. The caller speaks OpenAI, so nothing compares to it."""

from loadtests.faults.scenario import Arm, Expected, Scenario

FAILED = ("upstream_fault",)
GOOD = Arm("answer", provider="anthropic")
THREE = "alpha beta gamma"
NEXT = Expected("complete", tries="ab|aab", within_s=1.6)


def claude(
    name: str, says: str, fault: str, expected: Expected, *others: Arm, stream: bool = True
) -> Scenario:
    """Arms of Anthropic's."""
    return Scenario(
        f"anthropic-{name}",
        says,
        (Arm(fault, provider="anthropic"), *others),
        expected,
        stream=stream,
        elsewhere=True,
    )


def broken(*code: str, text: str = THREE) -> Expected:
    """An error event in OpenAI's shape."""
    return Expected("broken", text=text, code=code, outcome=FAILED, taught="a0", within_s=1.6)


SCENARIOS = (
    claude("whole", "a whole stream", "answer", Expected("complete", taught="a1")),
    claude("500", "500: asked again", "status:500*1", Expected("complete", tries="aa"), stream=False),
    claude("529", "529 overloaded: asked again", "status:529*1", Expected("complete", tries="aa")),
    claude(
        "429",
        "429 with Retry-After: told with it",
        "status:429,after=60",
        Expected("refused", status=(429,), code=("rate_limit_exceeded",), retry_after=(1, 60)),
    ),
    claude("401", "our key refused: the next arm", "auth:401", Expected("complete", tries="ab"), GOOD),
    claude(
        "too-long",
        "prompt is too long, no larger context: passed on",
        "too-long",
        Expected("refused", status=(400,), outcome=("caller_fault",)),
        stream=False,
    ),
    Scenario(
        "anthropic-too-long-larger",
        "prompt is too long: the arm with the larger context",
        (Arm("too-long", provider="anthropic", context=200_000), Arm("answer", context=1_000_000)),
        Expected("complete", tries="ab", taught="b1"),
        elsewhere=True,
    ),
    claude("nothing", "a stream of no bytes: tried again, unseen", "only-done:nothing", NEXT, GOOD),
    claude(
        "tool-call",
        "a whole tool call: its finish reason is tool_calls",
        "tool",
        Expected("complete", text="", finish="tool_calls", taught="a1"),
    ),
    claude(
        "tool-cut", "half a tool call: an error event", "tool-cut:reset", broken("upstream_reset", text="")
    ),
    claude("pings", "only pings: the next arm", "before-token:comments", NEXT, GOOD),
    claude("start-silence", "message_start and a ping, then silence", "before-token:role", NEXT, GOOD),
    claude("error-first", "overloaded_error first: tried again, unseen", "error-event:0", NEXT, GOOD),
    claude("reset-early", "reset after message_start: tried again, unseen", "cut:0,reset", NEXT, GOOD),
    claude("end-early", "ended after message_start: tried again, unseen", "cut:0,end", NEXT, GOOD),
    claude("reset", "reset after tokens: an error event", "cut:3,reset", broken("upstream_reset")),
    claude("end", "ended after tokens: an error event", "cut:3,end", broken("upstream_protocol_error")),
    claude("stall", "silence after tokens: an error event", "cut:3,stall", broken("upstream_timeout")),
    claude("error-event", "overloaded_error after tokens: an error event", "error-event:3", broken()),
    claude(
        "no-stop",
        "stop_reason given, message_stop missing: complete",
        "no-done:end",
        Expected("complete", taught="a1"),
    ),
    claude(
        "no-stop-open",
        "stop_reason given, connection left open: complete at once",
        "no-done:stall",
        Expected("complete", taught="a1"),
    ),
    claude(
        "no-reason",
        "message_stop without a stop_reason: an error event",
        "no-finish:3",
        broken("upstream_protocol_error"),
    ),
    claude("bytes", "every byte in a chunk of its own", "shaped:bytes", Expected("complete")),
    claude("crlf", "CRLF line ends", "shaped:crlf", Expected("complete")),
    claude(
        "malformed",
        "one event that is no JSON: skipped, or a clean error event",
        "malformed",
        Expected("whole or broken", text=THREE),
    ),
)
