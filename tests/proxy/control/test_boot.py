"""The optimizer process as a process: what it tells its supervisor, what it refuses, how it ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from optimizer.log.node import StateDirectory
from optimizer.table_file import TableReader
from proxy.control.boot import EXIT_CONFIG
from proxy.supervisor_link import LineBuffer, pair

ROOT = Path(__file__).resolve().parents[3]


class Child:
    """A running ``python -m proxy.control`` and our end of its link."""

    def __init__(self, directory: Path, config: Path, *extra: str) -> None:
        self.state_dir = directory / "state"
        self.link, theirs = pair()
        self.link.settimeout(15)
        self._buffer = LineBuffer()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "proxy.control", "--state-dir", str(self.state_dir)),
                *("--config", str(config), "--link-fd", str(theirs.fileno()), *extra),
            ],
            cwd=ROOT,
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()

    def hear(self, wanted: str) -> dict[str, Any]:
        """Everything said until a message with ``wanted`` has come."""
        heard: dict[str, Any] = {}
        while wanted not in heard:
            data = self.link.recv(65536)
            assert data, "the process ended"
            for message in self._buffer.feed(data):
                heard |= message
        return heard

    def until_answering(self) -> None:
        """The admin socket accepts connections."""
        path = self.state_dir / "run" / "optimizer.sock"
        for _ in range(1500):
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                except OSError:
                    signal.sigtimedwait([], 0.01)
                else:
                    return
        raise AssertionError("the admin socket does not answer")

    def end(self) -> str:
        """Wait for the end; what was logged."""
        _, logged = self.process.communicate(timeout=15)
        return str(logged)


Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path, config_path: Path) -> Iterator[Start]:
    """Start processes that do not outlive the test."""
    children: list[Child] = []

    def begin(*extra: str) -> Child:
        children.append(Child(tmp_path, config_path, *extra))
        return children[-1]

    yield begin
    for child in children:
        child.link.close()
        child.process.kill()
        child.process.communicate()


def test_it_tells_the_supervisor_once_the_table_is_there(start: Start) -> None:
    """Listen, routes and the new admin key; the table is on disk when ``listen`` comes."""
    child = start()

    heard = child.hear("listen")

    table = TableReader(child.state_dir / "table" / "table.json").poll()
    assert table is not None
    assert heard["listen"]["host"] == "127.0.0.1"
    assert heard["listen"]["workers"] == len(os.sched_getaffinity(0))
    assert heard["about"]["routes"] == ["chat"]
    assert Path(heard["about"]["admin_key_file"]).read_text().strip() == heard["about"]["new_admin_key"]


def test_the_key_is_new_only_once(start: Start) -> None:
    """After a restart the key is pointed to and not shown."""
    first = start()
    first.hear("listen")
    first.process.kill()
    first.end()

    assert "new_admin_key" not in start().hear("listen")["about"]


def test_a_refused_configuration_ends_with_every_problem(start: Start, config_path: Path) -> None:
    """Exit 78, all problems, and no secret among them."""
    config_path.write_text(
        config_path.read_text()
        .replace('v1"', 'v1", api_key: planted-secret-5')
        .replace("[small, large]", "[nope]")
        + "servr: {}\n"
    )
    child = start()

    logged = child.end()

    assert child.process.returncode == EXIT_CONFIG
    assert "servr" in logged
    assert "nope" in logged
    assert "planted-secret-5" not in logged


def test_a_restart_goes_on_with_the_last_good_configuration(start: Start, config_path: Path) -> None:
    """With --resume a broken file is no reason to be away; literal keys are left to the supervisor."""
    config_path.write_text(config_path.read_text().replace('v1"', 'v1", api_key: planted-secret-5'))
    first = start()
    first.hear("listen")
    first.until_answering()
    history = StateDirectory(first.state_dir).config_history
    for _ in range(1000):
        if list(history.glob("*.yaml")):
            break
        signal.sigtimedwait([], 0.01)
    first.process.kill()
    first.end()
    config_path.write_text("routes: [")

    heard = start("--resume").hear("listen")

    assert heard["about"]["routes"] == ["chat"]
    assert "secrets" not in heard


@pytest.mark.parametrize("how", ["stop", "end of link", "SIGTERM"])
def test_it_ends_in_order(start: Start, how: str) -> None:
    """Asked, orphaned or signalled: exit 0."""
    child = start()
    child.hear("listen")
    child.until_answering()

    if how == "stop":
        child.link.sendall(b'{"stop": true}\n')
    elif how == "SIGTERM":
        child.process.terminate()
        # Whether it is to end now is the supervisor's word, or a second signal's.
        assert child.hear("leaving")
        child.process.terminate()
    else:
        child.link.close()
    child.end()

    assert child.process.returncode == 0


def test_a_reload_is_asked_over_the_link_and_by_signal(start: Start, config_path: Path) -> None:
    """Both read the file again and write the table anew."""
    child = start()
    child.hear("listen")
    child.until_answering()
    reader = TableReader(child.state_dir / "table" / "table.json")
    versions = [reader.poll().version]  # type: ignore[union-attr]

    for ask in (
        lambda: child.link.sendall(b'{"reload": true}\n'),
        lambda: child.process.send_signal(signal.SIGHUP),
    ):
        ask()
        for _ in range(1000):
            table = reader.poll()
            if table is not None:
                versions.append(table.version)
                break
            signal.sigtimedwait([], 0.01)

    assert versions == [1, 2, 3]


@pytest.mark.slow
async def test_kill_9_at_any_moment_counts_every_event_once(start: Start, node_worker: Any) -> None:
    """Requests are written while the optimizer is killed again and again; the totals are exact in the end."""
    total = 0
    child = start()
    child.hear("listen")
    worker = node_worker(child.state_dir)
    for _ in range(5):
        for _ in range(150):
            worker.request("small")
            total += 1
        await asyncio.sleep(0.05)
        child.process.kill()
        child.end()
        for _ in range(50):
            worker.request("small")
            total += 1
        child = start("--resume")
        child.hear("listen")
    child.until_answering()

    counted = await _counted(child.state_dir, total)

    assert counted == total


async def _counted(state_dir: Path, wanted: int) -> int:
    import aiohttp

    state = StateDirectory(state_dir)
    headers = {
        "x-llm-optimizer-peer": "127.0.0.1",
        "x-llm-optimizer-worker": state.worker_token,
        "Host": "localhost",
    }
    connector = aiohttp.UnixConnector(str(state.optimizer_socket))
    counted = 0
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        for _ in range(300):
            async with session.get("http://optimizer/api/v1/metrics/summary") as response:
                counted = json.loads(await response.text())["total"]["requests"]
            if counted >= wanted:
                break
            await asyncio.sleep(0.02)
        async with session.get("http://optimizer/api/v1/arms?route=chat") as response:
            arms = (await response.json())["arms"]
        assert arms[0]["pulls"] == wanted
    return counted
