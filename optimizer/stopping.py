"""Pausing in a loop that somebody may ask to end."""

import asyncio


async def wait_for_stop(stop: asyncio.Event, seconds: float) -> None:
    """Until ``stop`` is set, at most ``seconds``; others run meanwhile, even if that is 0."""
    if not seconds:
        await asyncio.sleep(0)
        return
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
