"""Learned state on disk."""

import logging
import math
import sqlite3

import pytest

from optimizer.statistics import Statistics
from optimizer.store import Commit, LearnerStore, StoreCorrupt, StoreError, Waiting

NOW = 1_795_000_000.0
KEY = ("auto", "mk", "vk")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "learner.sqlite3"


def learned():
    statistics = Statistics()
    statistics.set_half_life("auto", 3600.0, at=NOW)
    statistics.set_half_life("auto", 7200.0, at=NOW + 10)
    statistics.set_half_life("never", math.inf, at=NOW)
    statistics.add(KEY, NOW, [("success", 1.0), ("quality", 0.25)])
    statistics.reset("other", at=NOW)
    return statistics


def step(statistics, **changes):
    fields = {"cursor": {"a": (1, 10)}, **changes}
    return Commit(statistics.changes(), latest=statistics.latest, **fields)


def test_everything_comes_back(path):
    """Sums, clocks, resets, cursor, waiting feedback, identities and snapshots."""
    store = LearnerStore(path)
    statistics = learned()
    waiting = Waiting("fb_1", "req_1", "quality", 0.5, NOW)
    assert store.load().fresh

    store.commit(step(statistics, waiting_added=[waiting], seen=[(3, -5)], snapshots={"metrics": b"\x00x"}))
    store.close()

    again = LearnerStore(path)
    loaded = again.load()
    assert not loaded.fresh
    assert sorted(loaded.statistics.rows()) == sorted(statistics.rows())
    assert loaded.statistics.latest == NOW
    loaded.statistics.merge(statistics)  # raises if clocks or resets differ
    assert loaded.cursor == {"a": (1, 10)}
    assert loaded.waiting == [waiting]
    assert loaded.snapshots == {"metrics": b"\x00x"}
    assert again.has_seen((3, -5))
    assert not again.has_seen((3, 5))
    again.close()


def test_only_changes_are_written_and_gone_things_leave(path):
    """A step replaces cells and cursors, and removes what it says is gone."""
    store = LearnerStore(path)
    statistics = learned()
    waiting = Waiting("fb_1", "req_1", "quality", 0.5, NOW)
    store.commit(step(statistics, waiting_added=[waiting], seen=[(3, 1), (9, 1)]))
    statistics.stored()

    statistics.add(KEY, NOW, [("quality", 0.75)])
    statistics.drop_signal(KEY, "success")
    store.commit(step(statistics, cursor={"b": (2, 0)}, waiting_removed=["fb_1"], seen_before=5))
    store.close()

    again = LearnerStore(path)
    loaded = again.load()
    assert [(row[3], row[9]) for row in loaded.statistics.rows()] == [("quality", 2)]
    assert loaded.cursor == {"b": (2, 0)}
    assert loaded.waiting == []
    assert (again.has_seen((3, 1)), again.has_seen((9, 1))) == (False, True)
    again.close()


def test_a_step_is_all_or_nothing(path):
    """A participant that fails takes the statistics back, too."""
    store = LearnerStore(path)

    class Refusing:
        def write(self, connection):
            raise sqlite3.OperationalError("database or disk is full")

        def written(self):
            raise AssertionError

    with pytest.raises(sqlite3.OperationalError):
        store.commit(step(learned()), (Refusing(),))
    store.close()

    again = LearnerStore(path)
    assert again.load().cursor == {}
    assert list(again.load().statistics.rows()) == []
    again.close()


@pytest.mark.parametrize("damage", ["garbage", "header", "pages", "value", "table"])
def test_a_damaged_file_is_moved_aside_loudly(path, damage, caplog):
    """The log is the truth; learning starts again from it."""
    store = LearnerStore(path)
    statistics = learned()
    for number in range(2000):
        statistics.add((f"route-{number}", "m", "v"), NOW, [("success", 1.0)])
    store.commit(step(statistics))
    store.checkpoint()
    if damage == "value":
        store.connection.execute("UPDATE cells SET w = 'many'")
    if damage == "table":
        store.connection.execute("DROP TABLE seen")
        store.connection.execute("DROP TABLE cursors")
    store.close()
    content = path.read_bytes()
    if damage == "garbage":
        path.write_bytes(b"not a database " * 1000)
    if damage == "header":
        path.write_bytes(b"\xff" * 100 + content[100:])
    if damage == "pages":
        path.write_bytes(content[:8192] + b"\xa5" * 40_000 + content[48_192:])

    with caplog.at_level(logging.ERROR):
        again = LearnerStore(path)

    assert again.load().fresh
    assert again.load().cursor == {}
    assert again.moved_aside == path.with_name("learner.sqlite3.corrupt-1")
    assert again.moved_aside.exists()
    assert "moved to learner.sqlite3.corrupt-1" in caplog.text
    again.commit(step(learned()))
    again.close()


def test_damage_that_shows_late_is_named(path):
    """A commit that meets a broken page says so; the next start repairs."""
    store = LearnerStore(path)
    statistics = learned()
    for number in range(3000):
        statistics.add((f"route-{number:06d}", "m", "v"), NOW, [("success", 1.0)])
    store.commit(step(statistics))
    store.checkpoint()
    store.close()
    victim = LearnerStore(path)
    victim.connection.execute("PRAGMA cache_size = 0")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    fresh = Statistics()
    fresh.add(("route-001500", "m", "v"), NOW, [("success", 1.0)])

    with pytest.raises(StoreCorrupt, match="damaged"):
        victim.commit(step(fresh))

    victim.close()


def test_a_newer_schema_is_refused_and_kept(path):
    """Going back to an older program must not throw knowledge away."""
    store = LearnerStore(path)
    store.connection.execute("PRAGMA user_version = 99")
    store.close()

    with pytest.raises(StoreError, match="schema 99"):
        LearnerStore(path)

    assert path.exists()
    assert not path.with_name("learner.sqlite3.corrupt-1").exists()


def test_the_file_is_private(path):
    """Learned state is nobody else's business."""
    store = LearnerStore(path)

    assert path.stat().st_mode & 0o077 == 0
    store.close()


def test_checkpoints_empty_the_write_ahead_log(path):
    """It starts over once everything is in the main file."""
    store = LearnerStore(path)
    store.commit(step(learned()))

    store.checkpoint()

    assert path.stat().st_size > 4096
    store.close()
