"""Figures over time: what is counted where, exactly once, and read back in steps of any length."""

import sqlite3
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer import events
from optimizer.history import History, Ratings
from optimizer.history_reading import Part, PartReader, percentiles, read, window_of
from optimizer.history_rings import MOST_SERIES, RINGS, HistoryRings, time_code, time_of
from optimizer.ingest import Ingest

NOW = 1_800_000_000.0
ROUTES = ("auto", "code")
ARMS = ("small", "large")


class Disk:
    """A database, and a clock that a test moves."""

    def __init__(self, path, *, now=NOW, most_series=MOST_SERIES):
        self.path = path / "learned.sqlite3"
        self.now = now
        self.most_series = most_series
        self.start()

    def start(self):
        """Open it, as after a crash: what was not committed is gone."""
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=OFF")
        self.rings = HistoryRings(self.connection, now=lambda: self.now, most_series=self.most_series)
        self.history = History(self.rings)

    def commit(self, *, fail=False):
        self.connection.execute("BEGIN")
        self.rings.write(self.connection)
        self.connection.execute("ROLLBACK" if fail else "COMMIT")
        if not fail:
            self.rings.written()

    def request(self, at, **changes):
        data = {
            "route": "auto",
            "arm": "small",
            "outcome": events.COMPLETED,
            "started_ms": at * 1000.0,
            "duration_ms": 0.0,
            "cost_usd": 0.25,
            **changes,
        }
        self.history.observe({"type": events.REQUEST, "id": "r", "data": data}, None)

    def read(self, minutes=60, points=360, route=None, *, until=None):
        return read(self.path, window_of(minutes, points, until=until or self.now), route)


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path)


@pytest.mark.parametrize(
    ("minutes", "points", "ring", "step_s", "steps"),
    [
        (60, 120, 0, 30, 120),
        (60, 1000, 0, 10, 360),
        (60, 7, 0, 520, 6),
        (61, 120, 1, 60, 61),
        (1440, 240, 1, 360, 240),
        (1441, 500, 2, 900, 96),
        (20160, 1, 2, 1209600, 1),
        (1, 1, 0, 60, 1),
    ],
)
def test_a_window_is_read_from_the_finest_ring_that_has_it(minutes, points, ring, step_s, steps):
    """In whole steps, none before what was asked for, the last one with the present in it."""
    window = window_of(minutes, points, until=NOW + 3)

    assert (window.ring, window.step_s, window.points) == (ring, step_s, steps)
    assert window.start % window.step_s == 0
    assert window.end - window.step_s <= NOW + 3 < window.end
    assert window.start >= NOW - 60 * minutes
    assert window.at == list(range(window.start, window.end, step_s))


def test_a_request_is_in_its_step_under_its_route_and_arm(disk):
    """By the moment in which it ended."""
    disk.request(NOW - 25, duration_ms=10_000.0)
    disk.request(NOW, arm="large", outcome=events.UPSTREAM_FAULT, cost_usd=None)
    disk.request(NOW, route=None, arm=None, cost_usd=None)
    disk.commit()

    part = disk.read(1, 6, "auto")

    assert part.routes["auto"]["requests"] == [0, 0, 0, 1, 0, 1]
    assert part.routes["auto"]["failed"] == [0, 0, 0, 0, 0, 1]
    assert part.routes["auto"]["cost_usd"] == [0, 0, 0, 0.25, 0, 0]
    assert part.arms["small"].figures["requests"] == [0, 0, 0, 1, 0, 0]
    assert part.arms["large"].figures["failed"] == [0, 0, 0, 0, 0, 1]
    assert set(disk.read().routes) == {"auto", "none"}


def test_attempts_count_for_the_arms_that_made_them(disk):
    """The last one served: it has the request and its own time; the others have what they cost."""
    attempts = [
        {"arm": "small", "model": "s", "cost_usd": 0.2, "ms": 900.0},
        {"arm": "large", "model": "l", "cost_usd": 0.3, "ms": 100.0},
    ]
    disk.request(
        NOW,
        attempts=attempts,
        served_by="large",
        cost_usd=0.5,
        duration_ms=1000.0,
        stream=True,
        ttft_ms=950.0,
    )
    disk.commit()

    part = disk.read(1, 1, "auto", until=NOW + 1)

    assert part.routes["auto"]["cost_usd"] == [0.5]
    assert part.arms["small"].figures["requests"] == [0]
    assert part.arms["small"].figures["cost_usd"] == [0.2]
    assert part.arms["large"].figures["requests"] == [1]
    assert part.arms["large"].model == "l"
    assert percentiles(part.arms["large"], 1, (0.5,), first_token=False)[0][0] == pytest.approx(0.1, rel=0.06)
    assert percentiles(part.arms["large"], 1, (0.5,), first_token=True) == [[None]]


def test_what_came_from_a_cache_took_no_arm_any_time(disk):
    """It is a request, though its duration says nothing about the arm."""
    disk.request(NOW, cached=True, cost_usd=0.0, duration_ms=1.0)
    disk.commit()

    arm = disk.read(1, 1, "auto").arms["small"]

    assert arm.figures["requests"] == [1]
    assert arm.counts == []


def test_sides_are_counted_during_a_rollout(disk):
    """And at no other time."""
    for side in ("control", "control", "control", "candidate"):
        disk.request(NOW, rollout="r1", side=side)
    disk.request(NOW, side="control", rollout=None)
    disk.commit()

    route = disk.read(1, 1).routes["auto"]

    assert (route["split"], route["candidate"], route["requests"]) == ([4], [1], [5])


def test_ratings_are_in_the_step_in_which_they_arrived(node, learning):
    """Also one that came before its decision; only what says the quality counts."""
    at = learning["noon"]
    clock = [at + 65.0]
    ingest = Ingest(node.state, clock=lambda: clock[0])
    ratings = Ratings(ingest.history)
    ingest.add_consumer(History(ingest.history))
    ingest.add_consumer(ratings)
    ingest.learner.listeners.append(ratings.rated)
    ingest.configure(learning["settings"]())
    early, late = node.mint(at), node.request(at=at)
    node.feedback(early, at=at + 3, value=0.2)
    node.request(early, at=at + 30)
    node.feedback(late, at=at + 60, value=0.8)

    while ingest.step():
        pass
    part = read(ingest.store.path, window_of(2, 12, until=clock[0]), "auto")
    ingest.close()

    rated = part.arms["small/default"].figures
    assert [(n, q) for n, q in zip(rated["rated"], rated["quality"], strict=True) if n] == [
        (1, 0.2),
        (1, 0.8),
    ]
    assert rated["rated"][-1] == 1


def test_older_steps_are_found_in_coarser_rings(disk):
    """The finest ring lets go after an hour, all do after two weeks; nothing is counted twice on the way."""
    start = disk.now
    for _ in range(150):
        disk.request(disk.now)
        disk.commit()
        disk.now += 60.0

    assert sum(disk.read(60, 60).routes["auto"]["requests"]) == 59
    assert sum(disk.read(1440, 60).routes["auto"]["requests"]) == 150
    assert sum(disk.read(20160, 100).routes["auto"]["requests"]) == 150
    assert sum(disk.read(1440, 1000, "auto").arms["small"].figures["requests"]) == 150
    finest = disk.connection.execute("SELECT count(*) FROM history WHERE level = 0").fetchone()[0]
    assert finest <= RINGS[0].steps

    disk.now = start + 15 * 86400.0
    disk.request(disk.now, arm="large")
    disk.commit()

    assert sum(disk.read(20160, 100).routes["auto"]["requests"]) == 1
    assert disk.connection.execute("SELECT arm FROM history_series ORDER BY 1").fetchall() == [
        ("",),
        ("large",),
    ]


def test_the_past_and_the_future_have_their_bounds(disk):
    """Two weeks and a minute; a wrong clock must not push everything out."""
    for at in (NOW - 14 * 86400.0 - 1000.0, NOW + 61.0, NOW + 1e9):
        disk.request(at)
    disk.request(NOW - 13 * 86400.0)
    disk.request(NOW + 5.0)
    disk.commit()

    assert sum(disk.read(20160, 1000, until=NOW + 1000).routes["auto"]["requests"]) == 2


def test_more_names_than_there_is_room_for_are_other(tmp_path):
    """Until those that nothing is left of make room."""
    disk = Disk(tmp_path, most_series=4)
    for number in range(10):
        disk.request(NOW, arm=f"arm-{number}")
    disk.commit()

    everything = disk.read(1, 1)
    assert everything.routes["auto"]["requests"] == [10]
    assert disk.read(1, 1, "other").arms["other"].figures["requests"] == [7]
    assert disk.read(1, 1, "other").arms["other"].model is None

    disk.now += 15 * 86400.0
    disk.request(disk.now, arm="arm-9")
    disk.commit()
    disk.request(disk.now, arm="arm-9")
    disk.commit()

    assert "arm-9" in disk.read(1, 1, "auto").arms


def test_a_commit_that_fails_is_tried_again(disk):
    """Neither lost nor doubled, whatever was folded meanwhile."""
    for step in range(12):
        disk.request(disk.now)
        disk.commit(fail=True)
        if step % 3 == 0:
            disk.commit(fail=True)
            disk.commit()
        disk.now += 10.0
    disk.commit()

    assert sum(disk.read(60, 60).routes["auto"]["requests"]) == 12
    assert sum(disk.read(61, 61).routes["auto"]["requests"]) == 12


ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("request"), st.sampled_from(ROUTES), st.sampled_from(ARMS), st.floats(0.0, 90000.0)
        ),
        st.tuples(st.just("commit")),
        st.tuples(st.just("crash")),
        st.tuples(st.just("wait"), st.sampled_from((1.0, 15.0, 70.0, 1000.0, 4000.0, 90000.0))),
    ),
    max_size=40,
)


@settings(max_examples=30, deadline=None)
@given(actions=ACTIONS)
def test_every_request_is_counted_once_whatever_is_killed(tmp_path_factory, actions):
    """After a crash what was not committed is read again; late ones find their step in every ring."""
    disk = Disk(tmp_path_factory.mktemp("history"))
    committed, fresh = [], []
    for kind, *what in actions:
        if kind == "request":
            route, arm, late_s = what
            request = (route, arm, disk.now - late_s)
            fresh.append(request)
            disk.request(request[2], route=route, arm=arm, duration_ms=0.0)
        elif kind == "commit":
            disk.commit()
            committed, fresh = committed + fresh, []
        elif kind == "crash":
            disk.connection.close()
            disk.start()
            for route, arm, at in fresh:
                disk.request(at, route=route, arm=arm)
        else:
            disk.now += what[0]
    disk.commit()
    disk.connection.close()

    for minutes, points in ((60, 13), (1440, 7), (20160, 3)):
        window = window_of(minutes, points, until=disk.now)
        part = read(disk.path, window)
        counted = Counter()
        for route, _, at in committed + fresh:
            ended = int(at * 1000.0) / 1000.0
            # What was late when its ring had no more room for it may be missing at the very beginning.
            if window.start <= ended < window.end:
                counted[route, int(ended - window.start) // window.step_s] += 1
        found = Counter(
            {
                (route, point): count
                for route, row in part.routes.items()
                for point, count in enumerate(row["requests"])
                if count
            }
        )
        assert found == counted
        for route in ROUTES:
            arms = read(disk.path, window, route).arms
            assert sum(sum(arm.figures["requests"]) for arm in arms.values()) == sum(
                count for (name, _), count in counted.items() if name == route
            )
            assert all(sum(arm.counts) == sum(arm.figures["requests"]) for arm in arms.values())


@given(st.lists(st.floats(0.0, 2e6), min_size=1, max_size=200), st.sampled_from((0.5, 0.95, 1.0)))
@settings(max_examples=30, deadline=None)
def test_percentiles_are_within_six_percent(tmp_path_factory, times, share):
    """Of the smallest time that so many requests did not exceed; below 1 ms at the end."""
    disk = Disk(tmp_path_factory.mktemp("history"))
    for ms in times:
        disk.history.observe(
            {
                "type": events.REQUEST,
                "data": {
                    "route": "auto",
                    "arm": "small",
                    "outcome": events.COMPLETED,
                    "started_ms": NOW * 1000.0 - ms,
                    "duration_ms": ms,
                },
            },
            None,
        )
    disk.commit()
    disk.connection.close()
    [[found]] = percentiles(disk.read(1, 1, "auto").arms["small"], 1, (share,), first_token=False)

    rank = max(1, -(-len(times) * round(share * 100) // 100))
    exact_s = max(sorted(times)[rank - 1], 1.0) * 1e-3
    assert found == pytest.approx(exact_s, rel=0.061)
    assert found == time_of(time_code(1e3 * exact_s))


def test_parts_of_several_nodes_are_what_one_would_have_counted(tmp_path):
    """Sums, ratings and percentiles."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "both").mkdir()
    one, other, both = Disk(tmp_path / "a"), Disk(tmp_path / "b"), Disk(tmp_path / "both")
    for number in range(100):
        for disk in (one if number % 3 else other, both):
            disk.request(NOW - number, arm=ARMS[number % 2], duration_ms=0.0)
            disk.request(NOW - number - number, duration_ms=float(number))
    for disk in (one, other, both):
        disk.commit()

    part = Part()
    part.add(one.read(60, 30, "auto"))
    part.add(other.read(60, 30, "auto"))
    whole = both.read(60, 30, "auto")

    assert part.routes == whole.routes
    for arm, row in whole.arms.items():
        assert part.arms[arm].figures == row.figures
        for first in (False, True):
            assert percentiles(part.arms[arm], 30, (0.5, 0.95), first_token=first) == percentiles(
                row, 30, (0.5, 0.95), first_token=first
            )


def test_a_clock_that_was_ahead_for_a_while_leaves_nothing_behind(disk):
    """What it said is of the future; from then on everything is counted, and goes when its time has come."""
    disk.request(NOW)
    disk.commit()
    disk.now = NOW + 400 * 86400
    disk.request(disk.now)
    disk.commit()

    for step in range(500):
        disk.now = NOW + 10 * step
        for arm in ARMS:
            disk.request(disk.now, arm=arm)
        disk.commit()

    rows = disk.connection.execute(
        "SELECT count(DISTINCT slot) FROM history WHERE level = 0 AND slot <= ?", (disk.now // 10,)
    )
    assert rows.fetchone()[0] <= RINGS[0].steps + 1
    # The last of its minutes is not over yet.
    assert 708 < sum(disk.read(60, 60).routes["auto"]["requests"]) <= 720
    assert sum(disk.read(1440, 24).routes["auto"]["requests"]) == 1000


def test_what_comes_late_does_not_stay_in_memory(disk):
    """Two weeks of a node that was away, after all that the others had."""
    disk.request(NOW)
    disk.commit()
    for step in range(3000):
        disk.request(NOW - 86400 + 20 * step, arm=ARMS[step % 2])
        disk.commit()

    assert len(disk.rings._open) < 5000
    assert sum(disk.read(2880, 48).routes["auto"]["requests"]) == 3001


def test_what_was_dear_to_read_is_given_again_for_a_while(disk):
    """A quarter of a second at one hundredth of a core: for 25 s; and whoever adds to a part adds to nobody else's."""
    clock, used = [0.0], iter((0.0, 0.25, 1.0, 1.25))
    reader = PartReader(share=0.01, clock=lambda: clock[0], used=lambda: next(used))
    window = window_of(1, 1, until=NOW + 1)
    disk.request(NOW)
    disk.commit()
    first = reader.read(disk.path, window, "auto")
    first.add(first.copy())
    first.forget_learned()
    disk.request(NOW)
    disk.commit()

    clock[0] = 24.0
    again = reader.read(disk.path, window, "auto")
    clock[0] = 25.0
    later = reader.read(disk.path, window, "auto")

    assert [part.routes["auto"]["requests"] for part in (first, again, later)] == [[2], [1], [2]]
    assert again.arms["small"].figures["requests"] == [1]
    assert len(again.arms["small"].keys) == 1
