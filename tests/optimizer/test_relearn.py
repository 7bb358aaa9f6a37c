"""A new version of a route's features learns from the log what the old one did, each event once."""

from base64 import b64encode

import numpy as np
import pytest

from optimizer.ingest import Ingest
from optimizer.linear_statistics import DONE, RATED

NOW = 1_795_000_000.0
TOKENS = "gen_ai.usage.input_tokens"


def context(number, version="old"):
    x = np.array([1.0, number], "<f4")
    return {
        "context": {"version": version, "x": b64encode(x.tobytes()).decode()},
        "sketch": b64encode(np.array([number], "<u2").tobytes()).decode(),
    }


def revise(version, x, sketch):
    """Ten times the only word's number; without words it can not be told."""
    if sketch is None:
        return None
    return np.array([1.0, 10 * np.frombuffer(sketch, "<u2")[0], 7.0], "<f4").tobytes()


def reprice(model, data):
    return data[TOKENS] * {"v1": 1.0, "v2": 3.0}[model.price.version]


class Log:
    """Requests in the order of their numbers, some of them rated."""

    def __init__(self, node):
        self.node = node
        self.ids = []

    def request(self, version="old", **changes):
        number = len(self.ids) + 1
        fields = {**context(number, version), TOKENS: number, "cost_usd": float(number), **changes}
        self.ids.append(self.node.request(at=NOW + number, **fields))

    def rate(self, index, value=0.5):
        self.node.feedback(self.ids[index], value=value, at=NOW + 900)


@pytest.fixture
def log(node):
    return Log(node)


@pytest.fixture
def open_ingest(node, learning):
    opened = []

    def open_(*, price="v1", relearn=("new",), most_bytes=1 << 20):
        while opened:
            opened.pop().close()
        opened.append(Ingest(node.state, clock=lambda: NOW + 1000, most_bytes=most_bytes))
        opened[0].configure(learning["settings"](price_version=price), reprice=reprice)
        for version in relearn:
            opened[0].relearn("auto", version, revise)
        return opened[0]

    yield open_
    for ingest in opened:
        ingest.close()


def settle(ingest):
    while ingest.step() or ingest.relearning.pending or ingest.rebuild.pending:
        pass


def seen(ingest, learning, *, signal="valid", group=DONE, version="new"):
    """Numbers of rows, and the sum of the second feature, both without forgetting."""
    arm = learning["arm"](learning["settings"]())
    cells = [
        cell
        for cell in ingest.linear.cells()
        if (cell.key.version, cell.key.group) == (version, group) and signal in cell.key.signals
    ]
    sums = ingest.linear.sums("auto", arm, version, group, signal, now=NOW)
    slope = 0.0 if sums is None else sums.gram[0, 1] / sums.gram[0, 0]
    return sum(cell.n for cell in cells), pytest.approx(slope, rel=1e-3)


def test_outcomes_and_ratings_are_learned_again(log, open_ingest, learning):
    """What the learner had read is walked, what came later it learns itself, whichever version logged it."""
    for _ in range(6):
        log.request()
    log.rate(0)
    log.rate(1)
    log.rate(1)  # repeated
    settle(open_ingest(relearn=()))

    ingest = open_ingest()
    settle(ingest)
    log.request()
    log.request("new", context={"version": "new", "x": b64encode(np.ones(3, "<f4").tobytes()).decode()})
    log.rate(2)
    log.rate(6)
    settle(ingest)

    assert seen(ingest, learning) == (8, (10 * sum(range(1, 8)) + 1) / 8)
    assert seen(ingest, learning, version="old") == (7, 4.0)
    assert seen(ingest, learning, signal="quality", group=RATED) == (4, 10 * (1 + 2 + 3 + 7) / 4)
    assert ingest.linear.recent("auto", "new")[:, 1].tolist() == [10, 20, 30, 40, 50, 60, 70, 1]
    assert "auto" in ingest.take_dirty_routes()


def test_feedback_across_the_beginning_counts_once(log, open_ingest, learning):
    """Feedback before the cursor on a decision after it is the learner's, and the other way round."""
    for _ in range(3):
        log.request()
    early = log.node.mint(NOW + 4)
    log.node.feedback(early, value=1.0, at=NOW + 900)
    settle(open_ingest(relearn=()))

    ingest = open_ingest()
    log.node.request(early, at=NOW + 4, **context(4))
    log.rate(0)
    settle(ingest)

    assert seen(ingest, learning, signal="quality", group=RATED)[0] == 2
    assert seen(ingest, learning)[0] == 4


def test_a_finished_walk_is_not_done_again_and_an_interrupted_one_is(log, open_ingest, learning):
    """After restarts, in the middle too, everything counts once."""
    for _ in range(400):
        log.request()
    settle(open_ingest(relearn=()))
    open_ingest(most_bytes=32 * 1024).step()
    ingest = open_ingest(most_bytes=32 * 1024)
    ingest.step()
    assert ingest.relearning.pending == {"auto": "new"}
    assert seen(ingest, learning)[0] == 0
    ingest.relearn("auto", "new", revise)  # a reload does not begin again, nor twice
    while ingest.relearning.pending:
        ingest.step()
    assert ingest.relearning.finished == 1
    assert seen(ingest, learning)[0] == 400

    ingest = open_ingest()
    settle(ingest)
    assert seen(ingest, learning)[0] == 400
    ingest = open_ingest()
    assert ingest.relearning.pending == {}
    log.request()
    settle(ingest)

    assert ingest.relearning.finished == 0
    assert seen(ingest, learning) == (401, 10 * 201.0)


def test_going_back_to_an_earlier_version_counts_once(log, open_ingest, learning):
    """What that version still had is in the log, too."""
    for _ in range(5):
        log.request()
    settle(open_ingest())
    log.request()
    settle(open_ingest(relearn=("newer",)))

    ingest = open_ingest(relearn=("new",))
    log.request()
    settle(ingest)

    assert seen(ingest, learning)[0] == 7


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_prices_may_change_meanwhile(log, open_ingest, learning, when):
    """Costs of the new version are those at the present price, once per request, whatever is rebuilt first."""
    for _ in range(300):
        log.request()
    settle(open_ingest(relearn=()))
    if when == "after":
        settle(open_ingest())
    ingest = open_ingest(most_bytes=32 * 1024, price="v1" if when == "during" else "v2")
    if when == "during":
        ingest.step()
        assert ingest.relearning.pending
        ingest.configure(learning["settings"](price_version="v2"), reprice=reprice)
    log.request()
    settle(ingest)

    arm = learning["arm"](learning["settings"]())
    sums = ingest.linear.sums("auto", arm, "new", DONE, "cost_usd", now=NOW)
    assert seen(ingest, learning, signal="cost_usd@v2")[0] == 301
    assert sums.moment[0] / sums.gram[0, 0] == pytest.approx(3.0 * 151, rel=1e-3)
    assert seen(ingest, learning)[0] == 301


def test_requests_that_can_not_be_revised_stay_with_their_version(log, open_ingest, learning):
    """Damaged vectors and sketches cost their own row only."""
    log.request()
    log.request(sketch=None)
    log.request(context={"version": "old", "x": "%%%"})
    log.request(context="nothing")
    settle(open_ingest(relearn=()))

    ingest = open_ingest()
    settle(ingest)

    assert seen(ingest, learning)[0] == 1
    assert seen(ingest, learning, version="old")[0] == 2
    assert ingest.learner.counts["context_refused"] == 2
    assert ingest.counts["malformed"] == 0
