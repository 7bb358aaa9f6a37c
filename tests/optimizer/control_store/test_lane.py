"""A lane answers in time whatever its thread does, and its thread does nothing that nobody waits for any more."""

import asyncio
import gc
import threading
import time

import pytest

from optimizer.control_store.errors import StoreError
from optimizer.control_store.lane import Lane


class Notebook:
    """What a lane works with here: it notes who used it, and when it was closed."""

    def __init__(self):
        self.deadline = 0.0
        self.seen = []
        self.closed = False
        self.thread = threading.get_ident()

    def note(self, word):
        assert threading.get_ident() == self.thread
        self.seen.append(word)
        return word

    def close(self):
        assert threading.get_ident() == self.thread
        self.closed = True


@pytest.fixture
def made():
    return []


@pytest.fixture
async def lane(made):
    def make():
        made.append(Notebook())
        return made[-1]

    lane = Lane("test", make)
    yield lane
    await lane.close(1.0)


async def test_calls_are_answered_in_order_by_one_thread(lane, made):
    results = await asyncio.gather(*(lane.run(lambda book, n=n: book.note(n), 5.0) for n in range(50)))

    assert results == made[0].seen == list(range(50))
    assert made[0].thread != threading.get_ident()
    assert await lane.close(1.0)
    assert made[0].closed


async def test_the_resource_is_told_when_a_call_must_be_over(lane):
    before = time.monotonic()
    assert before + 3 <= await lane.run(lambda book: book.deadline, 3.0) <= time.monotonic() + 3


async def test_an_error_is_the_callers_and_the_lane_goes_on(lane):
    with pytest.raises(ZeroDivisionError):
        await lane.run(lambda _: 1 // 0, 5.0)
    with pytest.raises(SystemExit):
        await lane.run(lambda _: exit(3), 5.0)
    assert await lane.run(lambda book: book.note("on"), 5.0) == "on"


async def test_a_resource_that_can_not_be_made_is_tried_again():
    made = []

    def make():
        made.append(None)
        if len(made) < 3:
            raise StoreError("not yet")
        return Notebook()

    lane = Lane("test", make)
    for _ in range(2):
        with pytest.raises(StoreError, match="not yet"):
            await lane.run(lambda book: book.note(1), 5.0)
    assert await lane.run(lambda book: book.note(1), 5.0) == 1
    assert await lane.close(1.0)


async def test_a_stuck_thread_keeps_nobody_and_skips_what_is_over(lane, made):
    stuck = threading.Event()
    began = time.monotonic()
    calls = [lane.run(lambda _: stuck.wait(10), 0.2)]
    calls += [lane.run(lambda book, n=n: book.note(n), 0.2) for n in range(5)]
    results = await asyncio.gather(*calls, return_exceptions=True)

    assert time.monotonic() - began < 2.0
    assert all(isinstance(result, StoreError) and "0.2 s" in str(result) for result in results)
    stuck.set()
    assert await lane.run(lambda book: book.note("after"), 5.0) == "after"
    assert made[0].seen == ["after"]


async def test_closing_leaves_a_stuck_thread_behind(made):
    stuck = threading.Event()
    lane = Lane("test", Notebook)
    call = asyncio.create_task(lane.run(lambda _: stuck.wait(10), 5.0))
    await asyncio.sleep(0.01)
    began = time.monotonic()

    assert not await lane.close(0.1)
    assert time.monotonic() - began < 2.0
    with pytest.raises(StoreError, match="closed"):
        await lane.run(lambda _: None, 5.0)
    stuck.set()
    assert await call
    assert await lane.close(1.0)


async def test_a_caller_that_goes_away_leaves_nothing_behind(lane, made):
    stuck = threading.Event()
    first = asyncio.create_task(lane.run(lambda _: stuck.wait(10), 5.0))
    second = asyncio.create_task(lane.run(lambda book: book.note("cancelled"), 5.0))
    await asyncio.sleep(0.01)
    first.cancel()
    second.cancel()
    await asyncio.wait([first, second])
    stuck.set()

    assert await lane.run(lambda book: book.note("next"), 5.0) == "next"
    assert made[0].seen == ["next"]
    gc.collect()


async def test_a_lane_that_was_never_used_has_no_thread():
    before = threading.active_count()
    lane = Lane("test", Notebook)
    assert await lane.close(0.1)
    assert threading.active_count() == before
