"""Trials behind the real reading loop: from the log on disk, over restarts, with feedback early, late and repeated."""

from dataclasses import replace

import numpy as np
import pytest

from optimizer.ingest import Ingest
from optimizer.settings import CustomMetric, PolicySettings
from optimizer.strategies.trials import PromptTrials

ARMS = ("small/default", "small/brief", "large/default")
REQUESTS = 400


@pytest.fixture
def settings(kit):
    made = kit.settings(ARMS, policy=PolicySettings())
    return replace(made, custom_metrics=(CustomMetric("smiles", low=0.0, high=1.0),))


def fill(node, noon):
    """A log of requests of a policy that learns, rated twice by the same source, half of them before their decision."""
    rng = np.random.default_rng(4)
    for n in range(REQUESTS):
        at = noon + n
        shares = (0.6, 0.3, 0.1) if n % 2 else (0.2, 0.7, 0.1)
        arm = ARMS[rng.choice(3, p=shares)]
        request_id = node.mint(at)
        if n % 2:
            node.feedback(request_id, at=at + 1, score=0.25 * (n % 4))
        node.request(
            request_id,
            at=at,
            arm=arm,
            arms=list(ARMS),
            probabilities=list(shares),
            policy="thompson",
            side="control",
            table_version=1,
        )
        node.feedback(request_id, at=at + 2, score=0.25 * (n % 4))
        node.feedback(request_id, at=at + 3, metric="smiles", value=1.0)


def follow(node, settings, *, restarts):
    """What a node has learned from its log, opened anew before every step or once."""
    while True:
        ingest = Ingest(node.state, clock=lambda: 1_795_000_500.0, most_bytes=32 * 1024)
        trials = PromptTrials()
        trials.configure(settings)
        ingest.learner.listeners.append(trials.rated)
        ingest.add_consumer(trials)
        ingest.configure(settings)
        try:
            if restarts:
                if not ingest.step():
                    return trials
            else:
                while ingest.step():
                    pass
                return trials
        finally:
            ingest.close()


def test_every_request_and_rating_counts_once_however_often_it_restarts(make_node, learning, settings):
    node = make_node()
    fill(node, learning["noon"])
    trials = follow(node, settings, restarts=True)
    found = trials.results(settings.routes[0])
    assert set(found.arms) == set(ARMS[:2])
    for counts in found.arms.values():
        assert 0 < counts.assigned < REQUESTS
        assert counts.metrics["quality"].count == counts.assigned
        assert counts.metrics["smiles"].count == counts.assigned
        assert counts.metrics["success"].count == counts.assigned


def test_one_long_run_learns_the_same(make_node, learning, settings, tmp_path):
    node = make_node()
    fill(node, learning["noon"])
    stepped = follow(node, settings, restarts=True).snapshot()
    node.state.database_file.unlink()
    for extra in tmp_path.glob("state/**/*-wal"):
        extra.unlink()
    assert follow(node, settings, restarts=False).snapshot() == stepped
