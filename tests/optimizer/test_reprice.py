"""Costs after a change of prices."""

from contextlib import closing

import pytest

from optimizer.ingest import Ingest
from optimizer.log.reader import LogReader

NOW = 1_795_000_000.0
TOKENS = "gen_ai.usage.input_tokens"


def reprice(model, data):
    """1 USD per thousand tokens under v2, 2 USD under v3."""
    tokens = data.get(TOKENS)
    return None if tokens is None else tokens * {"v1": 0.1, "v2": 1.0, "v3": 2.0}[model.price.version] / 1000


@pytest.fixture
def open_ingest(node, learning):
    opened = []

    def open_(version, *, most_bytes=1 << 20, repricing=reprice):
        while opened:
            opened.pop().close()
        opened.append(Ingest(node.state, clock=lambda: NOW + 60, most_bytes=most_bytes))
        opened[0].configure(learning["settings"](price_version=version), reprice=repricing)
        return opened[0]

    yield open_
    for ingest in opened:
        ingest.close()


class Earlier:
    """What the log had before its files begin; here from ``come`` on."""

    def __init__(self, log_directory):
        self.come = self.forgotten = False
        self._log_directory = log_directory

    def fetched(self):
        return self.come

    def reader(self):
        return LogReader(self._log_directory)

    def forget(self):
        self.forgotten = True


def settle(ingest):
    """Read everything and finish every rebuild."""
    while ingest.step() or ingest.rebuild.pending:
        pass


def mean_cost(ingest):
    return ingest.learner.cost_usd("auto", "small/default", at=NOW + 60).mean


def log(node, count=10, *, version="v1"):
    """Requests of 1,000 tokens, and one whose usage is unknown."""
    for _ in range(count):
        node.request(cost_usd=0.1, price_version=version, **{TOKENS: 1000})
    node.request(price_version=version)


def cost(ingest, learning):
    arm = learning["arm"](learning["settings"]())
    return ingest.statistics.evidence("auto", arm, now=NOW + 60, half_life_s=1.0).signals["cost_usd"]


def test_a_new_price_rebuilds_costs_from_logged_usage(node, open_ingest, learning):
    """The old events count under the new price; what has no usage has no new cost."""
    log(node)
    settle(open_ingest("v1"))

    ingest = open_ingest("v2")
    settle(ingest)

    assert mean_cost(ingest) == pytest.approx(1.0)
    assert cost(ingest, learning).weight == pytest.approx(10.0, rel=1e-3)
    assert ingest.rebuild.rebuilt == 1
    assert "auto" in ingest.take_dirty_routes()


def test_only_the_serving_attempts_own_usage_is_priced_again(node, open_ingest, learning):
    """What a failed attempt cost is no cost of the arm that served; a continued answer has no cost to learn."""
    attempts = [
        {"arm": "large/default", "status": 503, "error": "upstream_error", "ms": 9.0, "cost_usd": 5.0},
        {
            "arm": "small/default",
            "status": 200,
            "error": None,
            "ms": 9.0,
            "cost_usd": 0.1,
            "price_version": "v1",
        },
    ]
    node.request(arm="large/default", cost_usd=5.1, attempts=attempts, **{TOKENS: 1000})
    node.request(arm="large/default", cost_usd=5.1, attempts=attempts, continued=True, **{TOKENS: 1000})
    settle(open_ingest("v1"))
    before = cost(open_ingest("v1"), learning)

    ingest = open_ingest("v2")
    settle(ingest)

    assert before.mean == pytest.approx(0.1)
    assert before.weight == pytest.approx(1.0, abs=0.01)
    assert mean_cost(ingest) == pytest.approx(1.0)
    assert cost(ingest, learning).weight == pytest.approx(1.0, abs=0.01)


def test_events_of_both_sides_of_the_change_count_once(node, open_ingest, learning):
    """Also those that workers still logged under the old price, and those read while the rebuild ran."""
    log(node, 200)
    ingest = open_ingest("v1")
    settle(ingest)
    ingest.configure(learning["settings"](price_version="v2"), reprice=reprice)
    log(node, 5, version="v1")
    for _ in range(5):
        node.request(cost_usd=1.0, price_version="v2")

    settle(ingest)

    assert cost(ingest, learning).weight == pytest.approx(210.0, rel=1e-3)
    assert mean_cost(ingest) == pytest.approx(1.0)


def test_until_it_is_done_the_old_price_is_read(node, open_ingest, learning):
    """An arm does not look unknown because its price changed."""
    log(node, 200)
    settle(open_ingest("v1"))

    ingest = open_ingest("v2", most_bytes=4096)

    assert ingest.rebuild.pending
    assert cost(ingest, learning).weight == pytest.approx(201.0, rel=1e-3)
    settle(ingest)
    assert mean_cost(ingest) == pytest.approx(1.0)


def test_a_rebuild_that_was_cut_off_starts_over(node, open_ingest, learning):
    """Nothing is counted twice by it."""
    log(node, 300)
    settle(open_ingest("v1"))
    ingest = open_ingest("v2", most_bytes=16_384)
    for _ in range(3):
        ingest.step()
    assert ingest.rebuild.pending
    log(node, 5)
    ingest.step()

    again = open_ingest("v2")
    assert again.rebuild.pending
    settle(again)

    assert cost(again, learning).weight == pytest.approx(305.0, rel=1e-3)


def test_going_back_to_an_old_price_counts_nothing_twice(node, open_ingest, learning):
    """v1 to v2 to v1."""
    log(node)
    settle(open_ingest("v1"))
    settle(open_ingest("v2"))
    log(node, version="v2")

    ingest = open_ingest("v1")
    settle(ingest)

    # Both unusual events of ``log`` keep their logged cost only where the version is the present one.
    assert cost(ingest, learning).weight == pytest.approx(21.0, rel=1e-3)


def test_a_second_change_during_a_rebuild_wins(node, open_ingest, learning):
    """Only the newest price is rebuilt."""
    log(node, 200)
    settle(open_ingest("v1"))
    ingest = open_ingest("v2", most_bytes=4096)
    ingest.step()

    ingest.configure(learning["settings"](price_version="v3"), reprice=reprice)
    settle(ingest)

    assert mean_cost(ingest) == pytest.approx(2.0)
    assert cost(ingest, learning).weight == pytest.approx(200.0, rel=1e-3)


def test_the_same_prices_rebuild_nothing(node, open_ingest):
    """A reload is no change of prices."""
    log(node)
    settle(open_ingest("v1"))

    ingest = open_ingest("v1")

    assert not ingest.rebuild.pending


def test_without_a_way_to_price_again_new_costs_start_from_nothing(node, open_ingest, learning):
    """Old costs serve until the first new one."""
    log(node)
    settle(open_ingest("v1"))
    ingest = open_ingest("v2", repricing=None)
    settle(ingest)
    assert cost(ingest, learning).weight == pytest.approx(11.0, rel=1e-3)

    node.request(cost_usd=5.0, price_version="v2")
    settle(ingest)

    assert mean_cost(ingest) == pytest.approx(5.0)


def test_what_the_log_had_before_its_files_begin_is_counted_too(node, learning):
    """As the next owner of a shard has it: the knowledge is here, the files that it came from are elsewhere."""
    log(node)
    settings = learning["settings"]
    with closing(Ingest(node.state, clock=lambda: NOW + 60)) as first:
        first.configure(settings(price_version="v1"), reprice=reprice)
        settle(first)
        before = mean_cost(first)
    elsewhere = node.state.log_directory.with_name("elsewhere")
    node.writer.close()
    node.state.log_directory.rename(elsewhere)
    node.state.log_directory.mkdir()
    earlier = Earlier(elsewhere)

    with closing(Ingest(node.state, clock=lambda: NOW + 60, earlier=earlier)) as ingest:
        ingest.configure(settings(price_version="v2"), reprice=reprice)
        for _ in range(5):
            ingest.step()
        assert ingest.rebuild.pending
        assert mean_cost(ingest) == pytest.approx(before)
        earlier.come = True
        settle(ingest)

        assert mean_cost(ingest) == pytest.approx(1.0)
        assert cost(ingest, learning).weight == pytest.approx(10.0, rel=1e-3)
        assert earlier.forgotten
