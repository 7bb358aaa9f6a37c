"""What is done to engines and to our own processes while callers go on, one thing after the other.

Invariant: what a fault did is undone by the same fault, and the name of what is happening is known all the time.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from loadtests.cluster.scene import Engine, Node
from loadtests.processes import Failed

OUR_OWN: Final = "own: "
"""How what is done to our own processes begins; nobody promises that a killed worker's connections survive."""
_LISTED_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Fault:
    """``strike`` begins it, ``mend`` ends it; both wait until it is so."""

    name: str
    strike: Callable[[], Awaitable[None]]
    mend: Callable[[], Awaitable[None]]


async def _nothing() -> None:
    return


def engine_faults(engine: Engine, *, every: bool = True) -> list[Fault]:
    """Refused, black-holed, killed and restored; only black-holed without ``every``."""

    def relayed(mode: str) -> Callable[[], Awaitable[None]]:
        async def change() -> None:
            await asyncio.to_thread(setattr, engine.relay, "mode", mode)

        return change

    async def kill() -> None:
        await asyncio.to_thread(engine.server.kill)

    async def start() -> None:
        await asyncio.to_thread(engine.server.start)

    stalled = Fault(f"{engine.name} black-holed", relayed("stall"), relayed("pass"))
    if not every:
        return [stalled]
    refused = Fault(f"{engine.name} refused", relayed("refuse"), relayed("pass"))
    return [refused, stalled, Fault(f"{engine.name} killed", kill, start)]


def process_faults(node: Node) -> list[Fault]:
    """SIGKILL to each type of our processes; a node without supervisor is started again, as an init system does."""

    async def kill_worker() -> None:
        for pid in node.worker_pids()[:1]:
            _kill(pid)

    async def kill_optimizer() -> None:
        _kill(int(node.pids().get("optimizer") or 0))

    async def kill_supervisor() -> None:
        _kill(int(node.pids()["supervisor"]))

    async def start_again() -> None:
        assert node.child is not None
        await asyncio.to_thread(node.child.stop)
        await asyncio.to_thread(_started, node)

    return [
        Fault(f"{OUR_OWN}worker of {node.name} killed", kill_worker, _nothing),
        Fault(f"{OUR_OWN}optimizer of {node.name} killed", kill_optimizer, _nothing),
        Fault(f"{OUR_OWN}supervisor of {node.name} killed", kill_supervisor, start_again),
    ]


def _kill(pid: int) -> None:
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _started(node: Node) -> None:
    """Its children end by themselves, and until then they hold their port and their state."""
    until = time.monotonic() + _LISTED_S
    while True:
        try:
            node.start()
        except Failed:
            if time.monotonic() > until:
                raise
            node.stop()
        else:
            return


class Director:
    """Plays faults at even distances over ``seconds``: each lasts a part of its slot, then things recover."""

    def __init__(self, faults: Sequence[Fault], *, seconds: float, share: float = 0.4) -> None:
        self.now_playing = "nothing"
        self._faults = faults
        self._slot = seconds / (len(faults) + 1)
        self._share = share
        self.played: list[str] = []

    async def run(self) -> None:
        """Play them all; what was struck is mended also when this is cancelled."""
        await asyncio.sleep(self._slot / 2)
        for fault in self._faults:
            began = time.monotonic()
            self.now_playing = fault.name
            try:
                await fault.strike()
                await asyncio.sleep(self._slot * self._share)
            finally:
                await fault.mend()
            self.played.append(fault.name)
            # What is under way when it ends still suffers from it, so the name stays until the next one.
            self.now_playing = f"{fault.name}, then mended"
            await asyncio.sleep(max(self._slot - (time.monotonic() - began), 0.0))
        self.now_playing = "nothing any more"
