"""The supervisor's channel: order, ends, and what breaks it."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.supervisor_link import MAX_LINE_BYTES, LineBuffer, Link, pair


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers()), max_size=6), st.integers(1, 9))
def test_messages_survive_any_split(messages: list[dict[str, int]], size: int) -> None:
    """However the bytes are cut, the same messages come out in order."""
    data = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    buffer = LineBuffer()

    found = []
    for start in range(0, len(data), size):
        found += buffer.feed(data[start : start + size])

    assert found == messages


@pytest.mark.parametrize("data", [b"not json\n", b"[1]\n", b"\n", b"x" * (MAX_LINE_BYTES + 1)])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    """Lines are JSON objects of bounded size."""
    with pytest.raises(ValueError, match=r".+"):
        LineBuffer().feed(data)


async def _ends(link: Link) -> tuple[list[dict[str, Any]], asyncio.Event]:
    messages: list[dict[str, Any]] = []
    ended = asyncio.Event()
    link.attach(asyncio.get_running_loop(), on_message=messages.append, on_end=ended.set)
    return messages, ended


async def test_a_message_sent_before_the_loop_exists_arrives() -> None:
    """A child may report while it still starts; the end comes after everything that was sent."""
    ours, theirs = pair()
    child = Link(theirs)
    assert child.send({"ready": {}})
    child.close()

    link = Link(ours)
    messages, ended = await _ends(link)
    await asyncio.wait_for(ended.wait(), 5)

    assert messages == [{"ready": {}}]
    assert link.send({"stop": True}) is False


async def test_garbage_ends_the_link() -> None:
    """Somebody who does not speak the protocol is as good as gone."""
    ours, theirs = pair()
    link = Link(ours)
    _, ended = await _ends(link)

    theirs.sendall(b"garbage\n")
    await asyncio.wait_for(ended.wait(), 5)
    theirs.close()

    assert link.ended


async def test_closing_oneself_is_no_end() -> None:
    """``on_end`` speaks of the other side only."""
    ours, theirs = pair()
    link = Link(ours)
    _, ended = await _ends(link)

    link.close()
    theirs.close()
    await asyncio.sleep(0)

    assert not ended.is_set()


async def test_both_directions_work_at_once() -> None:
    """Attached ends still send."""
    ours, theirs = pair()
    first, second = Link(ours), Link(theirs)
    heard_first, _ = await _ends(first)
    heard_second, _ = await _ends(second)

    for number in range(100):
        first.send({"number": number, "padding": "x" * 500})
        second.send({"number": -number})
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while len(heard_first) < 100 or len(heard_second) < 100:
            await asyncio.sleep(0.001)

    assert [message["number"] for message in heard_second] == list(range(100))
    first.close()
    second.close()
