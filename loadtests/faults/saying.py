"""What behaviours are made of: the ways to end a connection, the pieces of a stream, what a model would say next."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from loadtests.faults import wire
from loadtests.faults.wire import Dialect, chunk

if TYPE_CHECKING:
    from loadtests.faults.upstream import Visit

ANSWER = "answer"
PAUSE_S = 0.02
SSE = wire.head(200, {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"})
END = chunk(b"")


class Cut(Exception):
    """The connection was ended on purpose."""


class Quarrel(Exception):
    """The request is one that the provider would refuse."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def reply(self, dialect: Dialect) -> bytes:
        """The refusal."""
        return wire.framed(self.status, dialect.error(self.status, str(self)))


Behaviour = Callable[["Visit"], Awaitable[None]]


def remaining(visit: "Visit") -> tuple[str, ...]:
    """The tokens that a model would say now: all of them, or the rest of an answer that was begun.

    The argument says how the model wants to be told to go on: ``plain`` (the default), ``prefix``, ``continue``, or
    ``fresh`` for one that always begins anew.
    """
    body = visit.attempt.body
    messages = body.get("messages") or [{}]
    last = messages[-1]
    if last.get("role") != "assistant":
        return wire.TOKENS
    said = last.get("content")
    if isinstance(said, list):
        said = "".join(part.get("text", "") for part in said)
    anthropic = isinstance(visit.dialect, wire.Messages)
    if anthropic and said != said.rstrip():
        raise Quarrel(400, "messages: final assistant content cannot end with trailing whitespace")
    mode = visit.options[0] if visit.options else "plain"
    told = {
        "plain": True,
        "prefix": last.get("prefix") is True,
        "continue": body.get("continue_final_message") is True and body.get("add_generation_prompt") is False,
        "fresh": False,
    }[mode]
    return wire.tokens_after(said) if told else wire.TOKENS


def remaining_plain(visit: "Visit") -> tuple[str, ...]:
    """``remaining`` for behaviours whose argument says something else."""
    argument, visit.argument = visit.argument, ""
    left = remaining(visit)
    visit.argument = argument
    return left


def events(dialect: Dialect) -> list[bytes]:
    """All events of a good stream."""
    return [
        dialect.opening(),
        *(dialect.token(token) for token in wire.TOKENS),
        dialect.finish(len(wire.TOKENS)),
        dialect.done(),
    ]


async def opened(visit: "Visit") -> None:
    """The head of a stream and its opening event."""
    await visit.write(SSE)
    opening = visit.dialect.opening()
    if opening:
        await visit.write(chunk(opening))


async def say(visit: "Visit", tokens: tuple[str, ...]) -> None:
    """Tokens, each in a chunk of its own."""
    for token in tokens:
        await visit.write(chunk(visit.dialect.token(token)))
        # Lets every piece travel alone.
        await asyncio.sleep(0.001)


async def end(visit: "Visit", count: int, *, reason: str = "stop") -> None:
    """The proper end, with usage if it was asked for."""
    options = visit.attempt.body.get("stream_options") or {}
    usage = visit.dialect.usage(count) if options.get("include_usage") else b""
    await visit.write(chunk(visit.dialect.finish(count, reason)))
    await visit.write(chunk(usage + visit.dialect.done()) + END)


async def break_off(visit: "Visit", how: str) -> None:
    """``reset`` waits a moment first, because a reset takes away what has not been read."""
    if how == "reset":
        await asyncio.sleep(PAUSE_S)
        visit.reset()
    elif how == "close":
        visit.close()
    elif how == "end":
        await visit.write(END)
    else:
        await visit.silence()
