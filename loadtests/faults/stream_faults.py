"""Streams that go wrong, and good ones in odd bytes."""

import asyncio
from typing import TYPE_CHECKING

from loadtests.faults import wire
from loadtests.faults.saying import END, PAUSE_S, SSE, break_off, end, events, opened, remaining_plain, say
from loadtests.faults.wire import chunk

if TYPE_CHECKING:
    from loadtests.faults.upstream import Visit


async def before_token(visit: "Visit") -> None:
    """Everything but a token, for ever: ``headers``, ``comments``, ``role`` or ``blanks`` (empty pieces)."""
    await visit.write(SSE)
    if visit.argument in ("role", "blanks"):
        await visit.write(chunk(visit.dialect.opening()))
    while visit.argument in ("comments", "blanks"):
        await asyncio.sleep(PAUSE_S)
        piece = visit.dialect.token("") if visit.argument == "blanks" else visit.dialect.comment()
        await visit.write(chunk(piece))
    await visit.silence()


async def cut(visit: "Visit") -> None:
    """``cut:3,reset``: so many tokens (``head``: no opening), then ``reset``, ``close``, ``end`` or ``stall``."""
    count, how = visit.options
    if count == "head":
        await visit.write(SSE)
    else:
        await opened(visit)
        await say(visit, remaining_plain(visit)[: int(count)])
    await break_off(visit, how)


async def tool_cut(visit: "Visit") -> None:
    """Half of a tool call, then the end."""
    await opened(visit)
    await visit.write(chunk(visit.dialect.tool_call()))
    await break_off(visit, visit.argument)


async def thought_cut(visit: "Visit") -> None:
    """Two pieces of reasoning and no word of the answer, then the end."""
    await opened(visit)
    for thought in ("Hmm, ", "let me see."):
        await visit.write(chunk(visit.dialect.thought(thought)))
    await break_off(visit, visit.argument)


async def other_kind(visit: "Visit") -> None:
    """A whole document where a stream was asked for, and a stream where none was."""
    if visit.streamed:
        await visit.write(wire.framed(200, visit.dialect.document(wire.TOKENS)))
        return
    await opened(visit)
    await say(visit, wire.TOKENS)
    await end(visit, len(wire.TOKENS))


async def half_event(visit: "Visit") -> None:
    """Two tokens and half of the third one's event, then the end."""
    await opened(visit)
    await say(visit, wire.TOKENS[:2])
    # Read together with the end, the tokens would reach nobody and another arm would answer.
    await asyncio.sleep(5 * PAUSE_S)
    await visit.write(chunk(visit.dialect.token(wire.TOKENS[2])[:-30]))
    await break_off(visit, visit.argument)


async def murmur(visit: "Visit") -> None:
    """So many tokens, then comments for ever."""
    await opened(visit)
    await say(visit, wire.TOKENS[: int(visit.argument)])
    while True:
        await asyncio.sleep(PAUSE_S)
        await visit.write(chunk(visit.dialect.comment()))


async def no_done(visit: "Visit") -> None:
    """The whole answer and its finish reason, then ``end``, ``close``, ``reset`` or ``stall`` instead of [DONE]."""
    await opened(visit)
    await say(visit, wire.TOKENS)
    await visit.write(chunk(visit.dialect.finish(len(wire.TOKENS))))
    await break_off(visit, visit.argument)


async def no_finish(visit: "Visit") -> None:
    """``no-finish:3``: so many tokens and [DONE], but no finish reason."""
    await opened(visit)
    await say(visit, wire.TOKENS[: int(visit.argument)])
    await visit.write(chunk(visit.dialect.done()) + END)


async def only_done(visit: "Visit") -> None:
    """[DONE] and nothing else; ``nothing`` leaves even that out."""
    await visit.write(SSE)
    if visit.argument != "nothing":
        await visit.write(chunk(visit.dialect.done()))
    await visit.write(END)


async def error_event(visit: "Visit") -> None:
    """``error-event:2,done``: an error event after so many tokens, then the end, ``done``: a [DONE] before it."""
    count, *more = visit.options
    if int(count):
        await opened(visit)
        await say(visit, wire.TOKENS[: int(count)])
    else:
        await visit.write(SSE)
    await visit.write(chunk(visit.dialect.error_event("The engine is overloaded.")))
    if "done" in more:
        await visit.write(chunk(visit.dialect.done()))
    await visit.write(END)


async def malformed(visit: "Visit") -> None:
    """An event that is no JSON after three tokens; the rest is in order."""
    await opened(visit)
    await say(visit, wire.TOKENS[:3])
    await visit.write(chunk(b'data: {"choices": [{"delta": \n\n'))
    await say(visit, wire.TOKENS[3:])
    await end(visit, len(wire.TOKENS))


async def huge_event(visit: "Visit") -> None:
    """Two tokens, then one event of so many megabytes that never ends."""
    await opened(visit)
    await say(visit, wire.TOKENS[:2])
    await visit.write(chunk(b'data: {"choices": [{"delta": {"content": "'))
    block = chunk(b"x" * 65536)
    for _ in range(int(visit.argument) * 16):
        await visit.write(block)
    await visit.silence()


async def shaped(visit: "Visit") -> None:
    """A good stream in odd bytes: ``bytes`` (each alone), ``crlf``, ``cr``, ``bom``, ``late`` (more after the end)."""
    whole = b"".join(events(visit.dialect))
    kind = visit.argument
    if kind in ("crlf", "cr"):
        whole = whole.replace(b"\n", b"\r\n" if kind == "crlf" else b"\r")
    elif kind == "bom":
        whole = b"\xef\xbb\xbf" + whole
    elif kind == "late":
        whole += b": bye\n\n" * 3
    await visit.write(SSE)
    step = 1 if kind == "bytes" else 64
    for start in range(0, len(whole), step):
        await visit.write(chunk(whole[start : start + step]))
        if kind != "bytes" or start % 16 == 0:
            await asyncio.sleep(0)
    await visit.write(END)


async def infinite(visit: "Visit") -> None:
    """Tokens without end."""
    await opened(visit)
    while True:
        await visit.write(chunk(visit.dialect.token(" more")))
        await asyncio.sleep(0.005)
