"""kill -9 of the optimizer at any moment: every event is learned from exactly once."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64encode

import numpy as np
import orjson
import pytest

from optimizer import events
from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory
from optimizer.log.writer import WriterBounds

KILLS = 25
NOW = 1_795_000_000.0

# Imports once, then forks one optimizer per line of input, so that a kill is not spent on waiting for
# imports.
PROGRAM = """
import os, sys, time
import orjson
from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory

class Tally:
    name = "tally"
    def __init__(self):
        self.seen = {}
    def observe(self, event, where):
        self.seen[event["type"]] = self.seen.get(event["type"], 0) + 1
    def snapshot(self):
        return orjson.dumps(self.seen)
    def restore(self, data):
        self.seen = orjson.loads(data)

def learn(path):
    ingest = Ingest(StateDirectory(path), most_bytes=32 * 1024)
    ingest.add_consumer(Tally())
    while True:
        if not ingest.step():
            time.sleep(0.001)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            learn(line.strip())
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""


class Traffic:
    """Requests and feedback as they may come: repeated, before the decision, of several processes."""

    def __init__(self, nodes, rng):
        self.nodes = nodes
        self.rng = rng
        self.answered = []
        self.requests = 0
        self.feedback = 0

    def flow(self, count):
        rng = self.rng
        for _ in range(count):
            node = rng.choice(self.nodes)
            request_id = node.mint(NOW + self.requests)
            if rng.random() < 0.1:
                self.rate(request_id)
            node.request(
                request_id,
                at=NOW + self.requests,
                arm=rng.choice(["small/default", "large/default"]),
                cost_usd=rng.lognormvariate(-7, 1),
                outcome=rng.choice([events.COMPLETED] * 9 + [events.UPSTREAM_FAULT]),
                context=self.context(),
                **{"gen_ai.response.id": f"resp-{self.requests}"},
            )
            self.requests += 1
            self.answered.append(request_id)
            if rng.random() < 0.3:
                self.rate(rng.choice(self.answered))

    def context(self):
        x = np.array([1.0, *(self.rng.gauss(0, 1) for _ in range(7))], "<f4")
        return {"version": f"f{self.requests // 1500}", "x": b64encode(x.tobytes()).decode()}

    def rate(self, request_id):
        # The value follows from the request, since of two ratings whichever is read first wins.
        value = int(request_id[-6:], 16) / 0xFFFFFF
        self.rng.choice(self.nodes).feedback(request_id, value=value, at=NOW + self.requests)
        self.feedback += 1


def finish(state):
    """Read to the end; returns rows and linear sums by key, totals, and how many ratings wait."""
    ingest = Ingest(state)
    while ingest.step():
        pass
    rows = {row[:6]: row[6:] for row in ingest.statistics.rows()}
    linear = {
        cell.key: (cell.n, np.concatenate((cell.gram.ravel(), cell.moments.ravel(), cell.squares)))
        for cell in ingest.linear.cells()
    }
    found = rows, linear, dict(ingest.counts), dict(ingest.learner.counts), ingest.learner.waiting
    ingest.close()
    return found


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(make_node, tmp_path):
    """After 25 kills the statistics are those of one clean pass, and every rating counts once."""
    rng = random.Random(20261122)
    nodes = [make_node(WriterBounds(reserve_bytes=0, segment_bytes=200_000)) for _ in range(3)]
    traffic = Traffic(nodes, rng)
    state = nodes[0].state
    killed_while_behind = 0
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as zygote:
        for _ in range(KILLS):
            traffic.flow(200)
            print(state.path, file=zygote.stdin, flush=True)
            child = int(zygote.stdout.readline())
            deadline = time.monotonic() + rng.uniform(0.0, 0.06)
            while time.monotonic() < deadline:
                traffic.flow(3)
            os.kill(child, signal.SIGKILL)
            assert int(zygote.stdout.readline()) == signal.SIGKILL
            killed_while_behind += lag(state) > 0
        zygote.stdin.close()

    clean = StateDirectory(tmp_path / "clean")
    for name in ("log", "secrets"):
        shutil.copytree(state.path / name, clean.path / name, dirs_exist_ok=True)
    expected_rows, expected_linear, expected_counts, expected_learned, _ = finish(clean)
    rows, linear, counts, learned, waiting = finish(state)

    assert killed_while_behind > KILLS // 5
    assert counts == expected_counts == {"events": traffic.requests + traffic.feedback}
    assert (learned, waiting) == (expected_learned, 0)
    assert {key: sums[3] for key, sums in rows.items()} == {
        key: sums[3] for key, sums in expected_rows.items()
    }
    for key, sums in rows.items():
        assert sums[:3] == pytest.approx(expected_rows[key][:3], rel=1e-9, abs=1e-9)
    assert linear.keys() == expected_linear.keys()
    for key, (n, sums) in linear.items():
        assert n == expected_linear[key][0]
        assert sums == pytest.approx(expected_linear[key][1], rel=1e-9, abs=1e-9)


def lag(state):
    """Bytes that the killed process left unread."""
    ingest = Ingest(state)
    unread = ingest.lag_bytes()
    ingest.close()
    return unread


@pytest.mark.slow
def test_consumers_count_exactly_once_across_kills(node):
    """Their snapshots belong to the same transaction."""
    traffic = Traffic([node], random.Random(7))
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as zygote:
        for number in range(10):
            traffic.flow(300)
            print(node.state.path, file=zygote.stdin, flush=True)
            child = int(zygote.stdout.readline())
            time.sleep(0.01 * number)  # a random moment of a real process, not a wait for something
            os.kill(child, signal.SIGKILL)
            zygote.stdout.readline()
        zygote.stdin.close()

    tally = Tally()
    ingest = Ingest(node.state)
    ingest.add_consumer(tally)
    while ingest.step():
        pass
    ingest.close()

    assert tally.seen == {events.REQUEST: traffic.requests, events.FEEDBACK: traffic.feedback}


class Tally:
    """The same consumer as in the program."""

    name = "tally"

    def __init__(self):
        self.seen = {}

    def observe(self, event, where):
        self.seen[event["type"]] = self.seen.get(event["type"], 0) + 1

    def snapshot(self):
        return orjson.dumps(self.seen)

    def restore(self, data):
        self.seen = orjson.loads(data)
