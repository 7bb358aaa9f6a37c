"""``rebuild``: a cluster is told, a node that is alone gets its learner's file put aside, and learns the same again."""

import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory
from optimizer.log.writer import LogWriter, encode, event_source
from proxy.cli import main

CLUSTER = {"enabled": True, "shards": [{}, {}]}


@pytest.fixture
def here(tmp_path: Path) -> Callable[..., Result]:
    """Run the command on the state directory of the test."""

    def invoke(*arguments: str) -> Result:
        arguments = ("rebuild", "--state-dir", str(tmp_path / "state"), *arguments)
        return CliRunner().invoke(main, list(arguments), env={"LLM_OPTIMIZER_URL": ""})

    return invoke


def learned(state: StateDirectory) -> int:
    """How many events the node has read, with those that it reads now."""
    ingest = Ingest(state, clock=time.time)
    while ingest.step():
        pass
    count = int(ingest.counts["events"])
    ingest.close()
    return count


def logged(state: StateDirectory, count: int) -> None:
    incarnation = state.allocate_incarnation()
    writer = LogWriter(state.log_directory, node=state.node, incarnation=incarnation, role="worker")
    source = event_source(state.node, "worker", incarnation)
    for number in range(count):
        writer.append(encode(f"e{number}", "llm_optimizer.worker.stats.v1", source, 1000, {"worker": 1}))
    writer.close()


def test_a_cluster_is_told(script: Any, ask: Any) -> None:
    """Through the server that answers."""
    script.on("GET", "/api/v1/cluster", CLUSTER)
    script.on("POST", "/api/v1/cluster/rebuild", (202, {"shards": [0, 1]}))

    result = ask("rebuild", "--yes")

    assert result.exit_code == 0
    assert "2 shards" in result.output
    assert script.last("POST").path == "/api/v1/cluster/rebuild"


def test_nothing_is_done_unasked(script: Any, ask: Any) -> None:
    """Without a terminal nobody can say yes."""
    script.on("GET", "/api/v1/cluster", CLUSTER)

    result = ask("rebuild")

    assert result.exit_code == 2
    assert "--yes" in result.output
    assert [asked.method for asked in script.asked] == ["GET"]


def test_one_node_that_runs_is_left_alone(script: Any, ask: Any) -> None:
    """It does not let go of what it has learned."""
    script.on("GET", "/api/v1/cluster", {"enabled": False})

    result = ask("rebuild", "--yes")

    assert result.exit_code == 1
    assert "stop it" in result.output


def test_a_node_learns_its_log_again(here: Any, tmp_path: Path) -> None:
    """The next start reads from the beginning; the old file is kept, with what was beside it."""
    state = StateDirectory(tmp_path / "state")
    logged(state, 5)
    assert learned(state) == 5
    (state.path / "learner.sqlite3-wal").write_bytes(b"newest")

    result = here("--yes")

    assert result.exit_code == 0, result.output
    assert not state.database_file.exists()
    assert (state.path / "learner.sqlite3.before-rebuild-1").exists()
    assert (state.path / "learner.sqlite3.before-rebuild-1-wal").read_bytes() == b"newest"
    assert learned(state) == 5
    assert "before-rebuild-2" in here("--yes").output


def test_a_server_that_holds_the_directory_is_in_the_way(here: Any, tmp_path: Path) -> None:
    """By its lock, and by a socket that somebody listens on."""
    state = StateDirectory(tmp_path / "state")
    assert learned(state) == 0
    descriptor = os.open(state.run_directory / "serve.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    locked = here("--yes")
    os.close(descriptor)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(state.run_directory / "other.sock"))
        listening.listen()
        from proxy.cli import rebuild

        assert rebuild._answers(state.run_directory / "other.sock")

    assert locked.exit_code == 1
    assert "stop it first" in locked.output
    assert state.database_file.exists()


def test_a_node_of_a_cluster_is_not_rebuilt_alone(here: Any, tmp_path: Path) -> None:
    """What it has learned is in the database, and would come back."""
    state = StateDirectory(tmp_path / "state")
    learned(state)
    (state.path / "shards" / "00").mkdir(parents=True)

    result = here("--yes")

    assert result.exit_code == 1
    assert "cluster" in result.output
    assert state.database_file.exists()


def test_where_nothing_was_learned(here: Any) -> None:
    """Perhaps the wrong directory."""
    result = here("--yes")

    assert result.exit_code == 1
    assert "--state-dir" in result.output
