"""Runs scenarios for the score card: the product's worker in a process of its own, the pass-through beside it."""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from loadtests.faults.card import Row
from loadtests.faults.cases import GROUPS
from loadtests.faults.judge import judge, judge_plain
from loadtests.faults.play import (
    SIDE_BY_SIDE,
    Product,
    pass_through,
    play,
    play_plain,
    routing_table,
    worker_process,
)
from loadtests.faults.scenario import Scenario
from loadtests.faults.upstream import FaultUpstream

Ticked = Callable[[str], None]


def chosen(names: Sequence[str]) -> list[tuple[str, Scenario]]:
    """(group, scenario) of the given names, name beginnings with ``*``, or groups; all of them without any.

    Raises:
        KeyError: If a name chooses nothing.
    """
    everything = [(group, scenario) for group, scenarios in GROUPS.items() for scenario in scenarios]
    if not names:
        return everything
    found: list[tuple[str, Scenario]] = []
    for name in names:
        matching = [
            entry
            for entry in everything
            if name in (entry[0], entry[1].name)
            or (name.endswith("*") and entry[1].name.startswith(name[:-1]))
        ]
        if not matching:
            raise KeyError(name)
        found += [entry for entry in matching if entry not in found]
    return found


async def run(entries: Sequence[tuple[str, Scenario]], *, ticked: Ticked, plain: bool = True) -> list[Row]:
    """Play all, a dozen at a time, and judge them. ``ticked`` hears of each one's end."""
    upstream = FaultUpstream()
    await upstream.start()
    room = asyncio.Semaphore(SIDE_BY_SIDE)
    try:
        with tempfile.TemporaryDirectory(prefix="faults-") as directory:
            table = routing_table([scenario for _, scenario in entries], upstream)
            async with (
                worker_process(Path(directory), table) as product,
                pass_through(upstream) as bases,
            ):

                async def one(group: str, scenario: Scenario) -> Row:
                    async with room:
                        row = await _row(group, scenario, product, bases if plain else None, upstream)
                        ticked(scenario.name)
                        return row

                return list(await asyncio.gather(*(one(group, scenario) for group, scenario in entries)))
    finally:
        await upstream.stop()


async def _row(
    group: str,
    scenario: Scenario,
    product: Product,
    bases: dict[str, str] | None,
    upstream: FaultUpstream,
) -> Row:
    verdict = judge(await play(scenario, product, upstream))
    if bases is None or scenario.elsewhere:
        return Row(group, scenario, verdict, None)
    return Row(group, scenario, verdict, judge_plain(await play_plain(scenario, bases, upstream)))
