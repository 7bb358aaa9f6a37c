"""One turn's work: together, in order, each on its own."""

import asyncio

from proxy.admission.shedding import Shedder
from proxy.turn import Turn


async def test_work_of_one_turn_runs_in_order_and_once():
    """What is gathered runs soon, in order; what it adds runs in the next turn."""
    done: list[object] = []
    turn = Turn(asyncio.get_running_loop().call_soon, Shedder(0.05))

    def again() -> None:
        done.append("first")
        turn.do(done.append, "added")

    turn.do(again)
    turn.do(done.append, "second")
    assert done == []
    await asyncio.sleep(0)
    assert done == ["first", "second"]
    await asyncio.sleep(0)

    assert done == ["first", "second", "added"]


async def test_one_failure_takes_nobody_along(caplog):
    """A piece that fails is logged, and the rest of its turn still runs."""
    done: list[object] = []
    turn = Turn(asyncio.get_running_loop().call_soon, Shedder(0.05))
    turn.do(done.index, "missing")
    turn.do(done.append, "served")
    await asyncio.sleep(0)

    assert done == ["served"]
    assert "a piece of work failed" in caplog.text
