import asyncio
import random
import time

import pytest
from aiokafka.errors import KafkaError

from optimizer.cluster.consuming import Pauses, limited, security_of, until


async def _stubborn() -> None:
    """Swallows one cancellation, as aiokafka does here and there."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(60)


async def _cancelled_from_within() -> None:
    raise asyncio.CancelledError


def test_pauses_grow_to_a_bound_and_begin_again() -> None:
    pauses = Pauses(1.0, 5.0, random.Random(1))
    for longest in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert longest / 2 <= pauses.take() <= longest
    pauses.reset()
    assert pauses.take() <= 1.0


async def test_a_call_is_limited() -> None:
    assert await limited(asyncio.sleep(0, "answer"), 1.0) == "answer"
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        await limited(_stubborn(), 0.05)
    assert time.monotonic() - began < 1.0


async def test_a_stray_cancellation_is_a_failure_like_others() -> None:
    with pytest.raises(KafkaError, match="cancelled from within"):
        await limited(_cancelled_from_within(), 1.0)
    with pytest.raises(KafkaError, match="cancelled from within"):
        await until(asyncio.Event(), _cancelled_from_within())


async def test_work_ends_by_itself_with_stop_in_time_or_with_what_watches_it() -> None:
    stop = asyncio.Event()
    assert await until(stop, asyncio.sleep(0))
    with pytest.raises(TimeoutError):
        await until(stop, _stubborn(), limit_s=0.05)

    async def watch() -> None:
        await asyncio.sleep(0.05)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await until(stop, _stubborn(), watch())
    asyncio.get_running_loop().call_later(0.05, stop.set)
    began = time.monotonic()
    assert not await until(stop, _stubborn(), asyncio.sleep(60))
    assert time.monotonic() - began < 1.0


async def test_whoever_waits_may_be_cancelled() -> None:
    for waiting in (limited(_stubborn(), 60.0), until(asyncio.Event(), _stubborn())):
        task = asyncio.ensure_future(waiting)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_security_is_made_anew_when_it_can_be() -> None:
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"number": len(made)}

    assert await security_of(None) == {}
    assert await security_of({"a": 1}) == {"a": 1}
    assert [await security_of(make), await security_of(make)] == [{"number": 1}, {"number": 2}]
