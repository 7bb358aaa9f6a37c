"""Linear sums on disk: what memory held at the cursor comes back."""

import sqlite3

import numpy as np
import pytest

from optimizer.linear_statistics import DONE, REWRITE_S, LinearStatistics
from optimizer.statistics import Statistics
from optimizer.store import Commit, LearnerStore

NOW = 1_795_000_000.0
KEY = ("auto", "mk", "vk")
OLD_TABLES = """
CREATE TABLE cells (route TEXT, model_key TEXT, variant_key TEXT, signal TEXT, generation INTEGER, epoch INTEGER,
    w REAL NOT NULL, wx REAL NOT NULL, wxx REAL NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (route, model_key, variant_key, signal, generation, epoch)) WITHOUT ROWID;
CREATE TABLE clocks (route TEXT, at REAL, age REAL, half_life_s REAL);
CREATE TABLE resets (route TEXT, model_key TEXT, variant_key TEXT, at REAL);
CREATE TABLE cursors (source TEXT PRIMARY KEY, segment INTEGER NOT NULL, offset INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE waiting (event_id TEXT PRIMARY KEY, request_id TEXT, metric TEXT, value REAL, decided_at REAL);
CREATE TABLE seen (day INTEGER, identity INTEGER, PRIMARY KEY (day, identity)) WITHOUT ROWID;
CREATE TABLE snapshots (name TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE responses_recent (sequence INTEGER PRIMARY KEY, hash INTEGER NOT NULL, request BLOB NOT NULL);
CREATE TABLE responses_run (run INTEGER PRIMARY KEY, hashes BLOB NOT NULL, requests BLOB NOT NULL);
INSERT INTO clocks VALUES ('auto', 0.0, 0.0, 3600.0);
INSERT INTO resets VALUES ('auto', '', '', 1.0);
INSERT INTO facts VALUES ('latest', 5.0);
PRAGMA user_version = 1;
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "learner.sqlite3"


def add(linear, rng, n, *, arms=3):
    for _ in range(n):
        x = np.append(1.0, rng.normal(size=4)).astype(np.float32)
        arm = ("auto", f"m{rng.integers(arms)}", "v")
        values = [("valid", 1.0), ("latency", float(rng.normal()))]
        linear.add(arm, "f1", DONE, NOW + float(rng.uniform(0, 99)), x, values)
        linear.note("auto", "f1", NOW, x)


def commit(store, linear, *, now):
    statistics = Statistics()
    store.commit(Commit(statistics.changes(), latest=NOW, cursor={}, linear=linear.changes(now)))
    linear.stored()


def contents(linear):
    return {
        cell.key: (
            cell.number,
            cell.n,
            np.concatenate((cell.gram.ravel(), cell.moments.ravel(), cell.squares)),
        )
        for cell in linear.cells()
    }


def same(one, other):
    """Rows may have been added up in other portions, so that the last bits differ."""
    mine, theirs = contents(one), contents(other)
    return mine.keys() == theirs.keys() and all(
        mine[key][:2] == theirs[key][:2] and mine[key][2] == pytest.approx(theirs[key][2], rel=1e-12)
        for key in mine
    )


def test_sums_come_back_from_keys_and_rows_alike(path):
    """At every commit the file holds exactly what memory does, whether rows or whole keys were written."""
    rng = np.random.default_rng(7)
    store = LearnerStore(path)
    linear = store.load().linear
    for number in range(12):
        add(linear, rng, 40, arms=3 + number)
        commit(store, linear, now=number * REWRITE_S / 3)
        store.close()

        store = LearnerStore(path)
        restored = store.load().linear
        assert same(restored, linear)
        if number % 4 == 3:
            linear = restored  # and it goes on from there
    commit(store, linear, now=1e6)
    commit(store, linear, now=2e6)
    assert store.connection.execute("SELECT count(*) FROM linear_rows").fetchone() == (0,)
    store.close()

    again = LearnerStore(path)
    assert same(again.load().linear, linear)
    assert again.load().linear.recent("auto", "f1").tolist() == linear.recent("auto", "f1").tolist()
    again.close()


def test_dropped_keys_leave_with_their_rows(path):
    """A number that is gone is gone everywhere."""
    store = LearnerStore(path)
    linear = store.load().linear
    add(linear, np.random.default_rng(1), 20)
    commit(store, linear, now=0.0)
    add(linear, np.random.default_rng(2), 20)
    commit(store, linear, now=0.1)

    linear.drop_version("auto", "f1")
    commit(store, linear, now=0.2)

    for table in ("linear_cells", "linear_rows", "linear_recent"):
        assert store.connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    store.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE linear_cells SET sums = x'00'",
        "UPDATE linear_rows SET data = x'0102'",
        "UPDATE linear_rows SET number = 99",
        "UPDATE linear_recent SET size = 7",
        "UPDATE linear_cells SET size = 2",
    ],
)
def test_damaged_sums_are_learned_again(path, damage):
    """A value that makes no sense moves the file aside, like any other damage."""
    store = LearnerStore(path)
    linear = store.load().linear
    for now in (0.0, 0.1):
        add(linear, np.random.default_rng(1), 20)
        commit(store, linear, now=now)
    commit(store, linear, now=-5.0)
    add(linear, np.random.default_rng(1), 20)
    commit(store, linear, now=-4.9)
    store.connection.execute(damage)
    store.close()

    again = LearnerStore(path)

    assert again.moved_aside is not None
    assert contents(again.load().linear) == {}
    again.close()


def test_a_file_of_the_first_schema_is_brought_up(path):
    """Old resets kept nothing, and there are no linear sums yet."""
    connection = sqlite3.connect(path)
    connection.executescript(OLD_TABLES)
    connection.close()

    store = LearnerStore(path)
    loaded = store.load()

    assert store.moved_aside is None
    assert [(reset.at, reset.keep) for reset in loaded.statistics.timeline.resets] == [(1.0, 0.0)]
    assert list(loaded.linear.cells()) == []
    assert isinstance(loaded.linear, LinearStatistics)
    store.close()
