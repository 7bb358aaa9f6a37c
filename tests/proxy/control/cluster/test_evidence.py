"""The next owner of a shard goes on with a stage's evidence, though nothing but the database tells of the rollout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from optimizer import events, guard
from optimizer.cluster.mirror import Mirror
from optimizer.control_store.store import SqlStore
from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory
from optimizer.log.writer import encode
from optimizer.rollouts.records import Optimization
from optimizer.settings import Settings
from proxy.control import publication as publishing
from proxy.control.journal import Journal
from proxy.control.learning import Learning
from tests.optimizer.rollouts.conftest import running, settings, small  # noqa: F401 - fixtures

NOW = 130.0


class Owner:
    """A shard's learning over a copy of its partition."""

    def __init__(self, path: Path, node: StateDirectory, configured: Settings) -> None:
        self.state = StateDirectory(path)
        self.node = node
        self.settings = configured
        self.mirror = Mirror(self.state.log_directory, 0, segment_bytes=1 << 20)
        self.sent = 0

    def report(self, resolved: int, rollout: str) -> None:
        self.sent += 1
        rows = [
            ["chat", rollout, 0, side, {"assigned": resolved, "resolved": resolved}]
            for side in ("control", "candidate")
        ]
        data = {"worker": 1, "table_version": 1, "routes": [], "guards": rows, "stops": []}
        line = encode(f"00000001-1-{self.sent:x}:chat", events.WORKER_STATS, "/1/worker/1", 1000, data)
        self.mirror.append([(self.sent, line.strip())])

    @contextmanager
    def learning(
        self, *records: Optimization, withdraw: Callable[[], None] | None = None
    ) -> Iterator[Learning]:
        store = SqlStore(None, directory=self.state.path, max_connections=1, timeout_s=1.0, now=lambda: NOW)
        journal = Journal(self.node, segment_bytes=1 << 20, now=lambda: NOW)
        ingest = Ingest(self.state, clock=lambda: NOW, indexes=False)
        try:
            learning = Learning(
                self.state,
                self.settings,
                ingest=ingest,
                journal=journal,
                store=store,
                now=lambda: NOW,
                withdraw=withdraw,
            )
            for record in records:
                learning.optimizing.book.join(record)
            yield learning
        finally:
            ingest.close()
            journal.close()


@pytest.fixture
def owner(tmp_path: Path, settings: Settings) -> Iterator[Owner]:  # noqa: F811
    made = Owner(tmp_path / "shard", StateDirectory(tmp_path / "node"), settings)
    yield made
    made.mirror.close()


def samples(learning: Learning) -> int:
    learning.optimizing.watch()
    (judgement,) = learning.optimizing.keeper.judgements()
    return next(verdict.candidate_samples for verdict in judgement.verdicts if verdict.guard == "error")


def test_evidence_goes_on_though_no_table_names_the_rollout(owner, running):  # noqa: F811
    """Redis was away or empty when the shard was taken, so there is no table of the owner before."""
    with owner.learning(running) as learning:
        learning.start()
        owner.report(20, running.rollout.id)
        assert samples(learning) == 20
        learning.ingest.step()
    owner.state.table_file.unlink()
    owner.report(5, running.rollout.id)
    with owner.learning(running) as learning:
        assert samples(learning) == 25


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_full_disk_takes_the_traffic_of_the_node_away(owner, running, monkeypatch, when):  # noqa: F811
    """The guard file that workers look at is the node's, not that of the shard's directory."""
    write = publishing.write_table
    guard.renew(owner.node.guard_file)
    with owner.learning(running, withdraw=lambda: guard.withdraw(owner.node.guard_file)) as learning:
        learning.start()

        def refuse(path, table, *, order):
            if when == "after":
                write(path, table, order=order)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(publishing, "write_table", refuse)
        stopped = learning.optimizing.controller.stop(running.rollout.id, "hard_stop")
        assert stopped.status == "rolled_back"
        assert learning.optimizing.controller.unpublished_takes
        assert not owner.node.guard_file.exists()
        assert not learning.optimizing.is_guarding
