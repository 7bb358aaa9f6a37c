"""Links to a real Redis that are closed at the end, and a way to see that nothing takes longer than it may."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from optimizer.cluster.redis_link import RedisLink


@pytest.fixture
async def make_link() -> AsyncIterator[Callable[..., RedisLink]]:
    """``make_link(url, **options)``; the time-out is 5 s unless given."""
    made: list[RedisLink] = []

    def make(url: str, **options: Any) -> RedisLink:
        made.append(RedisLink(url, **{"name": "test", "timeout_s": 5.0, **options}))
        return made[-1]

    yield make
    for link in made:
        await within(0.3, link.close())


async def within(seconds: float, doing: Awaitable[Any]) -> Any:
    """What ``doing`` returns or raises, which may take ``seconds`` and no longer.

    Time during which the machine did not let the event loop run is not held against it.
    """
    loop = asyncio.get_running_loop()
    late = [0.0]
    watch = asyncio.create_task(_watch(late))
    began = loop.time()
    try:
        return await doing
    finally:
        took = loop.time() - began
        watch.cancel()
        # What made the end of it late was not seen yet.
        late[0] += max(loop.time() - late[-1] - _TICK_S, 0.0) if len(late) > 1 else 0.0
        assert took <= seconds + late[0], f"took {took:.3f} s, not {seconds} s; {late[0]:.3f} s were not ours"


_TICK_S = 0.01


async def _watch(late: list[float]) -> None:
    """Adds up by how much a clock that ticks on the loop is late; the last tick's time stands behind the sum."""
    loop = asyncio.get_running_loop()
    late.append(loop.time())
    while True:
        await asyncio.sleep(_TICK_S)
        late[0] += max(loop.time() - late[1] - _TICK_S, 0.0)
        late[1] = loop.time()


@pytest.fixture(name="within")
def within_fixture() -> Callable[[float, Awaitable[Any]], Awaitable[Any]]:
    """``await within(seconds, call)``."""
    return within
