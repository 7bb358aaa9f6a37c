"""Every way of failing, by name. A behaviour gets a ``Visit`` and writes what it wants to its socket.

A behaviour that returns has left the connection in order: the next request may come on it. One that ends it raises
``Cut``; one that objects to the request raises ``Quarrel``.
"""

import asyncio
import gzip
import time
from collections.abc import Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING

from loadtests.faults import stream_faults, wire
from loadtests.faults.saying import (
    ANSWER,
    END,
    PAUSE_S,
    Behaviour,
    break_off,
    end,
    events,
    opened,
    remaining,
    say,
)
from loadtests.faults.wire import chunk

if TYPE_CHECKING:
    from loadtests.faults.upstream import Visit


# Answers.


async def answer(visit: "Visit") -> None:
    """The whole answer, as asked for."""
    left = remaining(visit)
    if not visit.streamed:
        await visit.write(wire.framed(200, visit.dialect.document(left)))
        return
    await opened(visit)
    await say(visit, left)
    await end(visit, len(left))


async def spaced(visit: "Visit") -> None:
    """A model whose tokens end in blanks instead of beginning with them."""
    words = [f"{word} " for word in wire.TEXT.split(" ")]
    words[-1] = words[-1].strip()
    count, how = int(visit.options[0]), visit.options[1]
    await opened(visit)
    for word in words[:count]:
        await visit.write(chunk(visit.dialect.token(word)))
    await break_off(visit, how)


async def slow(visit: "Visit") -> None:
    """The whole answer after so many milliseconds."""
    await asyncio.sleep(float(visit.argument) / 1000)
    visit.argument = ""
    await answer(visit)


async def slow_tokens(visit: "Visit") -> None:
    """A stream with a pause of so many milliseconds before every token."""
    await opened(visit)
    for token in wire.TOKENS:
        await asyncio.sleep(float(visit.argument) / 1000)
        await visit.write(chunk(visit.dialect.token(token)))
    await end(visit, len(wire.TOKENS))


async def compressed(visit: "Visit") -> None:
    """gzip, though nobody asked for it."""
    if not visit.streamed:
        body = gzip.compress(visit.dialect.document(wire.TOKENS))
        await visit.write(wire.framed(200, body, headers={"content-encoding": "gzip"}))
        return
    await visit.write(
        wire.head(
            200,
            {"content-type": wire.EVENTS, "content-encoding": "gzip", "transfer-encoding": "chunked"},
        )
    )
    packed = gzip.compress(b"".join(events(visit.dialect)))
    for start in range(0, len(packed), 40):
        await visit.write(chunk(packed[start : start + 40]))
    await visit.write(END)


async def large(visit: "Visit") -> None:
    """A reply of so many megabytes; ``large:2,close``: cut when three quarters of it are sent."""
    size, *how = visit.options
    padding = b'{"padding":"' + b"x" * (int(size) * 1024 * 1024) + b'",'
    whole = wire.framed(200, padding + visit.dialect.document(wire.TOKENS)[1:])
    if not how:
        await visit.write(whole)
        return
    await visit.write(whole[: len(whole) * 3 // 4])
    await asyncio.sleep(PAUSE_S)
    await break_off(visit, how[0])


async def close_delimited(visit: "Visit") -> None:
    """A stream without chunks or length, as old servers send it: so many tokens, or ``all`` and a proper end."""
    await visit.write(wire.head(200, {"content-type": wire.EVENTS, "connection": "close"}))
    count = None if visit.argument == "all" else int(visit.argument)
    await visit.write(visit.dialect.opening())
    for token in wire.TOKENS[:count]:
        await visit.write(visit.dialect.token(token))
    if count is None:
        await visit.write(visit.dialect.finish(len(wire.TOKENS)) + visit.dialect.done())
    visit.close()


async def tool(visit: "Visit") -> None:
    """A whole call of a tool instead of a text."""
    await opened(visit)
    await visit.write(chunk(visit.dialect.tool_call(whole=True)))
    await end(visit, 5, reason="tool_calls")


# Nothing, or half of something.


async def blackhole(visit: "Visit") -> None:
    """Takes the request and never says a word."""
    await visit.silence()


async def reset(visit: "Visit") -> None:
    """A reset instead of a reply."""
    visit.reset()


async def close(visit: "Visit") -> None:
    """The connection closed instead of a reply."""
    visit.close()


async def cut_head(visit: "Visit") -> None:
    """Half of a reply head, then ``reset`` or ``close``."""
    await visit.write(b"HTTP/1.1 200 OK\r\ncontent-type: applic")
    await break_off(visit, visit.argument)


async def cut_body(visit: "Visit") -> None:
    """A content-length, half of the body, then ``reset``, ``close`` or ``stall``."""
    whole = wire.framed(200, visit.dialect.document(wire.TOKENS))
    await visit.write(whole[:-60])
    await break_off(visit, visit.argument)


async def truncated_json(visit: "Visit") -> None:
    """JSON that stops in the middle, with the length it really has."""
    await visit.write(wire.framed(200, visit.dialect.document(wire.TOKENS)[:-60]))


async def slow_head(visit: "Visit") -> None:
    """A reply head that takes so many milliseconds from its first to its last byte."""
    whole = wire.framed(200, visit.dialect.document(wire.TOKENS))
    body = whole.index(b"\r\n\r\n") + 4
    for position in range(body):
        await visit.write(whole[position : position + 1])
        await asyncio.sleep(float(visit.argument) / 1000 / body)
    await visit.write(whole[body:])


async def endless_head(visit: "Visit") -> None:
    """Header after header."""
    await visit.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        await visit.write(b"x-more: " + b"y" * 1000 + b"\r\n")
        await asyncio.sleep(0.001)


async def extra_bytes(visit: "Visit") -> None:
    """A reply to which bytes are added that nobody asked for."""
    await visit.write(
        wire.framed(200, visit.dialect.document(wire.TOKENS)) + b'HTTP/1.1 200 OK\r\n\r\n{"a":1}'
    )


async def bad_chunk(visit: "Visit") -> None:
    """A chunked body whose chunk sizes are none; streamed after two tokens."""
    if visit.streamed:
        await opened(visit)
        await say(visit, wire.TOKENS[:2])
    else:
        await visit.write(wire.head(200, {"content-type": wire.JSON, "transfer-encoding": "chunked"}))
    await visit.write(b"zz\r\n{}\r\n")
    await visit.silence()


async def two_lengths(visit: "Visit") -> None:
    """Two content-lengths that differ."""
    body = visit.dialect.document(wire.TOKENS)
    heads = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\ncontent-length: %d\r\n\r\n"
    await visit.write(heads % len(body) + body)
    visit.close()


async def early_hints(visit: "Visit") -> None:
    """1xx replies before the real one."""
    await visit.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 2)
    await visit.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
    await answer(visit)


async def only_continue(visit: "Visit") -> None:
    """100 Continue, and then nothing."""
    await visit.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    await visit.silence()


async def switching(visit: "Visit") -> None:
    """101, unasked."""
    await visit.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
    await visit.silence()


async def race(visit: "Visit") -> None:
    """Keeps connections alive and closes each just when it is used again."""
    if visit.served:
        visit.close()
    await answer(visit)


# Statuses.


async def status(visit: "Visit") -> None:
    """``status:503,html,retry-after=2``: a status with a JSON, HTML or empty body.

    ``after`` is Retry-After as seconds or any text, ``ms`` is retry-after-ms, ``date`` Retry-After as the HTTP date
    that is so many seconds ahead; ``late`` waits so many milliseconds before it answers, ``should`` is x-should-retry.
    """
    code, *options = visit.options
    kind, body = wire.JSON, visit.dialect.error(int(code), f"Failed with {code}.")
    headers: dict[str, str] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name == "html":
            kind, body = "text/html", b"<html><body><h1>Bad Gateway</h1><hr>nginx</body></html>"
        elif name == "empty":
            body = b""
        elif name == "after":
            headers["retry-after"] = value
        elif name == "ms":
            headers["retry-after-ms"] = value
        elif name == "date":
            headers["retry-after"] = formatdate(time.time() + float(value), usegmt=True)
        elif name == "should":
            headers["x-should-retry"] = value
        elif name == "late":
            await asyncio.sleep(float(value) / 1000)
        else:
            raise ValueError(option)
    await visit.write(wire.framed(int(code), body, kind=kind, headers=headers))


async def auth(visit: "Visit") -> None:
    """401 or 403, quoting the key that was sent, as providers do."""
    headers = visit.attempt.headers
    key = headers.get("authorization") or headers.get("x-api-key") or ""
    code = int(visit.argument)
    body = visit.dialect.error(code, f"Incorrect API key provided: {key}.")
    await visit.write(wire.framed(code, body))


async def missing(visit: "Visit") -> None:
    """404: the model does not exist (any more)."""
    await visit.write(
        wire.framed(404, visit.dialect.error(404, f"The model `{visit.attempt.model}` is gone."))
    )


async def too_long(visit: "Visit") -> None:
    """400: the prompt is larger than the context window."""
    await visit.write(wire.framed(400, visit.dialect.too_long()))


async def policy(visit: "Visit") -> None:
    """400: the prompt breaks the content policy; ``azure`` says it as Azure does."""
    code = "content_filter" if visit.argument == "azure" else "content_policy_violation"
    body = visit.dialect.error(400, "Your request was rejected as a result of our safety system.", code=code)
    await visit.write(wire.framed(400, body))


async def filtered(visit: "Visit") -> None:
    """An answer that the provider's filter cut off and says so."""
    said = wire.TOKENS[:3]
    if not visit.streamed:
        await visit.write(wire.framed(200, visit.dialect.document(said, "content_filter")))
        return
    await opened(visit)
    await say(visit, said)
    await end(visit, len(said), reason="content_filter")


async def redirect(visit: "Visit") -> None:
    """A redirect to another origin, with which the key and the prompt would travel."""
    where = {"location": f"{visit.other_origin}/v1/chat/completions?tag={visit.attempt.tag}"}
    await visit.write(wire.framed(int(visit.argument), b"", headers=where))


# 200s that are none.


async def error_200(visit: "Visit") -> None:
    """200 with an error object."""
    await visit.write(wire.framed(200, visit.dialect.error(500, "The engine is overloaded.")))


async def html_200(visit: "Visit") -> None:
    """200 with somebody's login page."""
    await visit.write(wire.framed(200, b"<!doctype html><title>Sign in</title>", kind="text/html"))


async def empty_200(visit: "Visit") -> None:
    """200 and no byte more."""
    await visit.write(wire.framed(200, b""))


BEHAVIOURS: Mapping[str, Behaviour] = {
    ANSWER: answer,
    "spaced": spaced,
    "slow": slow,
    "slow-tokens": slow_tokens,
    "gzip": compressed,
    "large": large,
    "close-delimited": close_delimited,
    "tool": tool,
    "blackhole": blackhole,
    "reset": reset,
    "close": close,
    "cut-head": cut_head,
    "cut-body": cut_body,
    "truncated-json": truncated_json,
    "slow-head": slow_head,
    "endless-head": endless_head,
    "extra-bytes": extra_bytes,
    "bad-chunk": bad_chunk,
    "two-lengths": two_lengths,
    "early-hints": early_hints,
    "only-continue": only_continue,
    "switching": switching,
    "race": race,
    "status": status,
    "auth": auth,
    "missing": missing,
    "too-long": too_long,
    "policy": policy,
    "filtered": filtered,
    "redirect": redirect,
    "error-200": error_200,
    "html-200": html_200,
    "empty-200": empty_200,
    "before-token": stream_faults.before_token,
    "cut": stream_faults.cut,
    "tool-cut": stream_faults.tool_cut,
    "thought-cut": stream_faults.thought_cut,
    "other-kind": stream_faults.other_kind,
    "half-event": stream_faults.half_event,
    "murmur": stream_faults.murmur,
    "no-done": stream_faults.no_done,
    "no-finish": stream_faults.no_finish,
    "only-done": stream_faults.only_done,
    "error-event": stream_faults.error_event,
    "malformed": stream_faults.malformed,
    "huge-event": stream_faults.huge_event,
    "shaped": stream_faults.shaped,
    "infinite": stream_faults.infinite,
}
