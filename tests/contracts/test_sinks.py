"""What every sink promises, whatever it ships to: it starts, waits and stops without its destination."""

import asyncio
import socket
from pathlib import Path

import pytest

from optimizer.log.node import StateDirectory
from optimizer.log.writer import LogWriter, encode
from optimizer.settings import KafkaSettings, Settings
from optimizer.sinks.base import Sink
from optimizer.sinks.registry import SINKS, build_sinks

NOTHING = Settings("h", (), (), (), ())


def unreachable(name: str) -> Settings:
    """Settings in which sink ``name`` has a destination that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    match name:
        case "kafka":
            kafka = KafkaSettings((address,), request_timeout_s=0.3)
            return Settings("h", (), (), (), (), kafka=kafka)
    raise AssertionError(f"a new sink needs unreachable settings here: {name}")


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    """A node with ten events in its log."""
    state = StateDirectory(tmp_path / "state")
    incarnation = state.allocate_incarnation()
    writer = LogWriter(state.log_directory, node=state.node, incarnation=incarnation, role="worker")
    for i in range(10):
        writer.append(encode(f"e{i}", "llm_optimizer.request.v1", "/x", 1000 + i, {"route": "auto"}))
    writer.close()
    return state


def build(name: str, state: StateDirectory) -> Sink:
    sink = SINKS[name](unreachable(name), state)
    assert sink is not None
    return sink


@pytest.mark.parametrize("name", SINKS)
def test_a_sink_that_is_not_configured_is_not_built(name: str, state: StateDirectory) -> None:
    """Nothing is shipped anywhere unless the operator said so."""
    assert SINKS[name](NOTHING, state) is None
    assert build_sinks(NOTHING, state) == []


@pytest.mark.parametrize("name", SINKS)
def test_a_sink_is_called_what_the_registry_calls_it(name: str, state: StateDirectory) -> None:
    """Metrics and logs use the registry's word."""
    assert build(name, state).name == name
    assert [sink.name for sink in build_sinks(unreachable(name), state)] == [name]


@pytest.mark.parametrize("name", SINKS)
async def test_without_its_destination_a_sink_waits_counts_and_stops(
    name: str, state: StateDirectory
) -> None:
    """It tries again, moves no cursor, reports what is waiting, and ends when told to."""
    sink = build(name, state)
    stop = asyncio.Event()
    task = asyncio.create_task(sink.run(stop))

    async with asyncio.timeout(20):
        while sink.stats.errors < 2:
            await asyncio.sleep(0.01)
        stop.set()
        await task

    assert not sink.stats.up
    assert sink.stats.delivered == 0
    assert sink.stats.lag_bytes > 0
    assert sink.stats.last_error
    assert not sink.cursor
    assert len(list(state.log_directory.rglob("*.jsonl"))) == 1


@pytest.mark.parametrize("name", SINKS)
async def test_a_sink_told_to_stop_before_it_starts_does_nothing(name: str, state: StateDirectory) -> None:
    """A start that is cut short leaves no trace."""
    sink = build(name, state)
    stop = asyncio.Event()
    stop.set()

    await asyncio.wait_for(sink.run(stop), 10)

    assert sink.stats.errors == 0
