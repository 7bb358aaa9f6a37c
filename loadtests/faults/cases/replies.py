"""Connections that fail and replies that are none, when nothing has reached the caller yet."""

from loadtests.faults.scenario import Arm, Expected, Scenario, arms

REFUSED = Arm("answer", base="refused")
FAILED = ("upstream_fault",)
ONCE_MORE = Expected("complete", tries="aa", taught="a0 a1")
NEXT = Expected("complete", tries="aab", taught="a0 a0 b1")
# Bytes that break the rules: once more here or at once elsewhere, both are sensible.
NEXT_SOON = Expected("complete", tries="ab|aab")


def failing(code: str, *, tries: str = "aa|aaa", status: int = 502) -> Expected:
    """The caller is told; the arm was asked again with pauses, not for ever."""
    return Expected("refused", tries=tries, status=(status,), code=(code,), outcome=FAILED, within_s=1.5)


SCENARIOS = (
    Scenario(
        "refused-alone",
        "nobody listens, no other arm: repeated with pauses, then 502",
        arms(REFUSED),
        failing("upstream_connect_error"),
    ),
    Scenario("refused", "nobody listens: repeated once, then the next arm", arms(REFUSED, "answer"), NEXT),
    Scenario(
        "refused-stream",
        "the same for a stream: the caller never notices",
        arms(REFUSED, "answer"),
        NEXT,
        stream=True,
    ),
    Scenario(
        "connect-hangs",
        "no connection ever completes: the next arm after the deadline",
        arms(Arm("answer", base="silent"), "answer"),
        Expected("complete", tries="ab", taught="a0 b1", within_s=1.6),
    ),
    Scenario("reset-once", "reset instead of a reply: asked again", arms("reset*1"), ONCE_MORE),
    Scenario("reset", "reset every time: the next arm", arms("reset", "answer"), NEXT),
    Scenario(
        "reset-alone",
        "reset every time, no other arm: 502",
        arms("reset"),
        failing("upstream_reset"),
    ),
    Scenario("close-once", "closed instead of a reply: asked again", arms("close*1"), ONCE_MORE),
    Scenario(
        "reset-in-head", "reset in the middle of the head: asked again", arms("cut-head:reset*1"), ONCE_MORE
    ),
    Scenario("close-in-head", "closed in the middle of the head", arms("cut-head:close*1"), ONCE_MORE),
    Scenario(
        "reset-in-body", "reset in the middle of the body: asked again", arms("cut-body:reset*1"), ONCE_MORE
    ),
    Scenario("close-in-body", "body shorter than its length", arms("cut-body:close*1"), ONCE_MORE),
    Scenario(
        "close-in-body-alone",
        "always shorter than its length: 502, never half an answer",
        arms("cut-body:close"),
        failing("upstream_reset"),
    ),
    Scenario(
        "stall-in-body",
        "half of a body and then silence: the next arm",
        arms("cut-body:stall", "answer"),
        Expected("complete", tries="ab", taught="a0 b1", cancelled="a", within_s=1.6),
    ),
    Scenario(
        "half-json", "JSON that stops in the middle, framed well", arms("truncated-json", "answer"), NEXT_SOON
    ),
    Scenario(
        "half-json-alone",
        "half a JSON every time: 502, not 200",
        arms("truncated-json"),
        failing("upstream_protocol_error", tries="a|aa|aaa"),
    ),
    Scenario("error-200", "200 with an error object is no answer", arms("error-200", "answer"), NEXT_SOON),
    Scenario(
        "error-200-alone",
        "200 with an error object every time: 5xx",
        arms("error-200"),
        Expected("refused", tries="a|aa|aaa", status=(500, 502, 503), outcome=FAILED, within_s=1.5),
    ),
    Scenario(
        "error-200-stream",
        "a stream was asked for, 200 with an error object came",
        arms("error-200", "answer"),
        NEXT_SOON,
        stream=True,
    ),
    Scenario("html-200", "200 with a login page is no answer", arms("html-200", "answer"), NEXT_SOON),
    Scenario(
        "html-200-stream",
        "the same when a stream was asked for",
        arms("html-200", "answer"),
        NEXT_SOON,
        stream=True,
    ),
    Scenario("empty-200", "200 with nothing in it is no answer", arms("empty-200", "answer"), NEXT_SOON),
    Scenario(
        "empty-200-stream",
        "the same when a stream was asked for",
        arms("empty-200", "answer"),
        NEXT_SOON,
        stream=True,
    ),
    Scenario(
        "document-for-stream",
        "a whole document where a stream was asked for: no empty stream for the caller",
        arms("other-kind", "answer"),
        Expected("complete", tries="a|ab|aab"),
        stream=True,
    ),
    Scenario(
        "stream-for-document",
        "a stream where a document was asked for: a document for the caller",
        arms("other-kind", "answer"),
        Expected("complete", tries="a|ab|aab"),
    ),
    Scenario("bad-chunk", "chunk sizes that are none", arms("bad-chunk", "answer"), NEXT_SOON),
    Scenario("two-lengths", "two lengths that differ", arms("two-lengths", "answer"), NEXT_SOON),
    Scenario(
        "endless-head",
        "headers without end: bounded, the next arm",
        arms("endless-head", "answer"),
        Expected("complete", tries="ab|aab", cancelled="a", within_s=2.0),
    ),
    Scenario(
        "extra-bytes",
        "bytes after the reply: not taken for the next one",
        arms("extra-bytes"),
        Expected("complete", taught="a1"),
        warm=2,
    ),
    Scenario("early-hints", "1xx before the reply are skipped", arms("early-hints"), Expected("complete")),
    Scenario(
        "switching",
        "101 that nobody asked for: the next arm",
        arms("switching", "answer"),
        Expected("complete", tries="ab|aab", cancelled="a", within_s=1.6),
    ),
    Scenario(
        "redirect",
        "a redirect is not followed: key and prompt stay here",
        arms("redirect:307", "answer"),
        NEXT_SOON,
    ),
    Scenario(
        "redirect-alone",
        "a redirect is no answer for the caller either",
        arms("redirect:308"),
        failing("upstream_protocol_error", tries="a|aa|aaa"),
    ),
    Scenario(
        "keep-alive-race",
        "connections closed just when used again: asked again at once, nobody is blamed",
        arms("race"),
        Expected("complete", sees="aa", taught="a1"),
        warm=1,
    ),
    Scenario(
        "large-prompt",
        "2 MB of prompt are sent again, byte for byte",
        arms("status:500*1"),
        Expected("complete", tries="aa", taught="a0 a1", within_s=2.0),
        body={"user": "u" * 2 * 1024 * 1024},
    ),
    Scenario(
        "large-reply", "a reply of 3 MB arrives whole", arms("large:3"), Expected("complete", within_s=2.0)
    ),
    Scenario(
        "large-reply-cut",
        "a large reply that is cut after it began to go out looks cut, not whole",
        arms("large:8,close"),
        Expected("cut", outcome=FAILED, taught="a0", within_s=2.0),
    ),
    Scenario("gzip", "compressed though nobody asked: readable", arms("gzip"), Expected("complete")),
)
