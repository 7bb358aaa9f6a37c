"""Background tasks: deaths are seen, counted and survived; ends are complete."""

import asyncio
import logging

import pytest

from proxy.control.tasks import Tasks


async def test_a_task_that_dies_starts_again(caplog: pytest.LogCaptureFixture) -> None:
    """The death is logged with its reason and counted by name."""
    tasks = Tasks()
    runs = []
    done = asyncio.Event()

    async def fragile() -> None:
        runs.append(1)
        if len(runs) < 2:
            raise RuntimeError("the reason")
        done.set()

    with caplog.at_level(logging.ERROR):
        tasks.spawn("fragile", fragile)
        await asyncio.wait_for(done.wait(), 5)

    assert tasks.deaths == {"fragile": 1}
    assert "the reason" in caplog.text
    await tasks.close()


async def test_a_task_that_waits_to_start_again_is_down(until) -> None:
    """Health shows it for as long as it lasts, and not for ever."""
    tasks = Tasks()
    heal = asyncio.Event()

    async def ill() -> None:
        if not heal.is_set():
            raise RuntimeError("ill")
        await asyncio.Event().wait()

    tasks.spawn("ill", ill)
    await until(lambda: tasks.down == {"ill"})
    heal.set()
    await until(lambda: tasks.down == set())
    await tasks.close()


async def test_returning_ends_a_task_and_frees_its_name() -> None:
    """A finished task can be started again."""
    tasks = Tasks()

    async def brief() -> None:
        return

    tasks.spawn("brief", brief)
    await tasks.finish("brief", patience_s=1)
    tasks.spawn("brief", brief)
    await tasks.close()

    assert tasks.deaths == {}


async def test_a_name_is_one_task() -> None:
    """Two tasks of one name would hide each other."""
    tasks = Tasks()

    async def endless() -> None:
        await asyncio.Event().wait()

    tasks.spawn("endless", endless)
    with pytest.raises(ValueError, match="endless"):
        tasks.spawn("endless", endless)
    await tasks.close()


async def test_close_waits_for_cleanup() -> None:
    """Whatever a task does while it is cancelled has happened when ``close`` returns."""
    tasks = Tasks()
    cleaned = []
    started = asyncio.Event()

    async def careful() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(1)

    tasks.spawn("careful", careful)
    await started.wait()
    await tasks.close()

    assert cleaned == [1]


async def test_finish_cancels_what_does_not_end() -> None:
    """Patience is bounded; unknown names are no error."""
    tasks = Tasks()
    event = asyncio.Event()

    async def stubborn() -> None:
        await event.wait()

    tasks.spawn("stubborn", stubborn)
    await tasks.finish("stubborn", patience_s=0.01)
    await tasks.finish("unknown", patience_s=0.01)
    await tasks.cancel("unknown")

    assert tasks.deaths == {}
