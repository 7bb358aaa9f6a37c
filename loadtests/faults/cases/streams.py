"""Streams that end wrongly, say odd things, or come in odd bytes."""

from loadtests.faults.scenario import Arm, Expected, Scenario, arms

FAILED = ("upstream_fault",)
THREE = "alpha beta gamma"
NEXT = Expected("complete", tries="ab|aab", within_s=1.5)
WHOLE = Expected("complete", taught="a1", outcome=("completed",))


def unseen(name: str, says: str, fault: str) -> Scenario:
    """Before the first token: another attempt, and the caller sees one good stream."""
    return Scenario(name, f"{says}: tried again, unseen", arms(fault, "answer"), NEXT, stream=True)


def broken(name: str, says: str, fault: str, *code: str, text: str = THREE) -> Scenario:
    """After tokens, on a route that does not continue."""
    return Scenario(
        name,
        f"{says}: an error event, no [DONE]",
        arms(fault, "answer"),
        Expected("broken", text=text, code=code, outcome=FAILED, taught="a0", billed=bool(text)),
        stream=True,
    )


def whole(name: str, says: str, fault: str, **changes: object) -> Scenario:
    """Odd, and yet a complete answer."""
    return Scenario(name, says, arms(fault, "answer"), WHOLE, stream=True, **changes)  # type: ignore[arg-type]


SCENARIOS = (
    unseen("cut-before-opening", "reset after the headers", "cut:head,reset"),
    unseen("end-before-opening", "ended properly after the headers", "cut:head,end"),
    unseen("reset-before-token", "reset after the role", "cut:0,reset"),
    unseen("close-before-token", "closed after the role", "cut:0,close"),
    unseen("end-before-token", "ended properly after the role", "cut:0,end"),
    unseen("nothing", "a stream of no events", "only-done:nothing"),
    unseen("only-done", "[DONE] and nothing else", "only-done"),
    unseen("role-and-done", "a role and [DONE]", "no-finish:0"),
    unseen("error-event-first", "an error event first", "error-event:0"),
    unseen("error-event-first-done", "an error event and [DONE]", "error-event:0,done"),
    Scenario(
        "error-event-first-alone",
        "an error event first, no other arm: told as a status",
        arms("error-event:0"),
        Expected("refused", tries="a|aa|aaa", status=(500, 502, 503), outcome=FAILED, within_s=1.5),
        stream=True,
    ),
    Scenario(
        "only-done-alone",
        "[DONE] and nothing else, no other arm: an error, not an empty answer",
        arms("only-done"),
        Expected(
            "refused",
            tries="a|aa|aaa",
            status=(502,),
            code=("upstream_protocol_error",),
            outcome=FAILED,
            within_s=1.5,
        ),
        stream=True,
    ),
    broken("reset-after-tokens", "reset after three tokens", "cut:3,reset", "upstream_reset"),
    broken("close-after-tokens", "closed after three tokens", "cut:3,close", "upstream_reset"),
    broken(
        "end-after-tokens", "ended properly, without a finish reason", "cut:3,end", "upstream_protocol_error"
    ),
    broken("no-finish", "[DONE] without a finish reason", "no-finish:3", "upstream_protocol_error"),
    broken("half-event-close", "closed in the middle of an event", "half-event:close", text="alpha beta"),
    broken("half-event-end", "ended in the middle of an event", "half-event:end", text="alpha beta"),
    broken("error-event", "an error event after three tokens", "error-event:3"),
    broken("error-event-done", "an error event and then [DONE]", "error-event:3,done"),
    broken("bad-chunk-stream", "broken framing after two tokens", "bad-chunk", text="alpha beta"),
    broken("tool-cut", "reset in the middle of a tool call", "tool-cut:reset", "upstream_reset", text=""),
    broken("huge-event", "an event of 20 MB", "huge-event:20", "upstream_protocol_error", text="alpha beta"),
    whole("no-done-end", "finish reason, [DONE] missing: complete", "no-done:end"),
    whole("no-done-close", "finish reason, closed instead of [DONE]: complete", "no-done:close"),
    whole("no-done-reset", "finish reason, reset instead of [DONE]: complete", "no-done:reset"),
    whole("no-done-open", "finish reason, connection left open: complete at once", "no-done:stall"),
    whole("late", "bytes after [DONE] are nobody's business", "shaped:late", warm=2),
    whole("byte-by-byte", "every byte in a chunk of its own", "shaped:bytes"),
    whole("crlf", "CRLF line ends", "shaped:crlf"),
    whole("cr", "CR line ends", "shaped:cr"),
    whole("bom", "a byte order mark", "shaped:bom"),
    whole("close-delimited", "no chunks, no length, ends with the connection", "close-delimited:all"),
    broken(
        "close-delimited-cut", "no chunks, no length, cut", "close-delimited:3", "upstream_protocol_error"
    ),
    Scenario(
        "tool-call",
        "a whole tool call is an answer without text",
        arms("tool"),
        Expected("complete", text="", finish="tool_calls", taught="a1"),
        stream=True,
    ),
    whole("gzip-stream", "a compressed stream, though nobody asked", "gzip"),
    Scenario(
        "malformed",
        "one event that is no JSON: skipped, or a clean error event",
        arms("malformed", "answer"),
        Expected("whole or broken", text=THREE),
        stream=True,
    ),
    Scenario(
        "usage-asked",
        "with include_usage the usage event comes after the finish reason",
        arms("status:500*1"),
        Expected("complete", tries="aa", taught="a0 a1"),
        stream=True,
        body={"stream_options": {"include_usage": True}},
    ),
    Scenario(
        "completions",
        "the older completions: reset before the first token, unseen",
        arms("cut:0,reset", "answer"),
        NEXT,
        stream=True,
        endpoint="completions",
    ),
    Scenario(
        "completions-cut",
        "the older completions: an error event after tokens",
        arms("cut:3,reset", "answer"),
        Expected("broken", text=THREE, code=("upstream_reset",), outcome=FAILED),
        stream=True,
        endpoint="completions",
    ),
    Scenario(
        "responses",
        "responses: reset before the first token, unseen",
        arms("cut:0,reset", "answer"),
        NEXT,
        stream=True,
        endpoint="responses",
    ),
    Scenario(
        "responses-cut",
        "responses: an error event after tokens, no response.completed",
        arms("cut:3,close", "answer"),
        Expected("broken", text=THREE, code=("upstream_reset",), outcome=FAILED),
        stream=True,
        endpoint="responses",
    ),
    Scenario(
        "embeddings",
        "embeddings are asked again",
        arms("status:503*1"),
        Expected("complete", tries="aa", taught="a0 a1"),
        endpoint="embeddings",
    ),
    Scenario(
        "embeddings-stay",
        "embeddings never move to another model",
        arms("status:503", "answer"),
        Expected("refused", tries="aa|aaa", status=(503,), outcome=FAILED, within_s=1.5),
        endpoint="embeddings",
    ),
    Scenario(
        "hold-tokens",
        "held back for four tokens: a reset after two is unseen",
        arms("cut:2,reset", "answer"),
        NEXT,
        stream=True,
        resilience={"hold_tokens": 4},
    ),
    Scenario(
        "hold-time",
        "held back for 300 ms: a reset soon after the first tokens is unseen",
        arms("cut:2,reset", "answer"),
        NEXT,
        stream=True,
        resilience={"hold_s": 0.3},
    ),
    Scenario(
        "hold-short",
        "an answer shorter than what is held back comes whole and at once",
        arms("answer"),
        Expected("complete", within_s=0.5, taught="a1"),
        stream=True,
        resilience={"hold_tokens": 50, "hold_s": 20.0},
    ),
    Scenario(
        "anthropic-next",
        "an OpenAI arm fails, an Anthropic one answers in OpenAI's shape",
        arms("cut:0,reset", Arm("answer", provider="anthropic")),
        NEXT,
        stream=True,
    ),
)
