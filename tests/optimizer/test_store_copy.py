"""Copies of learned state: taken while it changes, put back elsewhere, refused when damaged."""

import gzip
import os
import random
import sqlite3
import threading
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.linear_statistics import LinearStatistics
from optimizer.statistics import Statistics
from optimizer.store import Commit, LearnerStore, StoreCorrupt, StoreError, Waiting, restore

NOW = 1_795_000_000.0


def key(number):
    return ("auto", f"model{number}", "plain")


def learned(cells=3):
    statistics = Statistics()
    statistics.set_half_life("auto", 3600.0, at=NOW)
    for number in range(cells):
        statistics.add(key(number), NOW + number, [("success", 1.0), ("quality", number / cells)])
    statistics.reset("other", at=NOW)
    return statistics


def step(statistics, **changes):
    fields = {"cursor": {"shard-3": (1, 4000)}, **changes}
    return Commit(statistics.changes(), latest=statistics.latest, **fields)


@pytest.fixture
def store(tmp_path):
    made = LearnerStore(tmp_path / "learner.sqlite3")
    yield made
    made.close()


@pytest.fixture
def full(store):
    """Everything that a step can hold is in it."""
    statistics = learned()
    linear = LinearStatistics(statistics)
    store.commit(
        step(
            statistics,
            waiting_added=[Waiting("fb_1", "req_1", "quality", 0.5, NOW)],
            seen=[(3, -5), (4, 2**62)],
            snapshots={"metrics": b"\0x", "guards": os.urandom(5000)},
            linear=linear.changes(NOW),
        )
    )
    return store, statistics


def test_a_copy_is_the_whole(full, tmp_path):
    store, statistics = full
    dump = store.dump()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    restore(elsewhere / "learner.sqlite3", dump.data)

    again = LearnerStore(elsewhere / "learner.sqlite3")
    loaded, original = again.load(), LearnerStore(store.path).load()
    assert again.moved_aside is None
    assert not loaded.fresh
    assert sorted(loaded.statistics.rows()) == sorted(statistics.rows())
    loaded.statistics.merge(statistics)  # raises if clocks or resets differ
    assert loaded.cursor == dump.cursor == {"shard-3": (1, 4000)}
    assert loaded.waiting == original.waiting != []
    assert loaded.snapshots == original.snapshots
    assert set(loaded.snapshots) == {"metrics", "guards"}
    assert again.has_seen((4, 2**62))
    assert not list(elsewhere.glob("*corrupt*"))
    assert (elsewhere / "learner.sqlite3").stat().st_mode & 0o077 == 0
    again.close()


def test_learning_goes_on_from_a_copy(full, tmp_path):
    """As it would have without."""
    store, statistics = full
    statistics.stored()
    restore(tmp_path / "copy.sqlite3", store.dump().data)
    copy = LearnerStore(tmp_path / "copy.sqlite3")
    theirs = copy.load().statistics
    for one in (statistics, theirs):
        one.add(key(1), NOW + 50, [("quality", 0.75)])
    store.commit(step(statistics, cursor={"shard-3": (1, 5000)}))
    copy.commit(step(theirs, cursor={"shard-3": (1, 5000)}))
    copy.close()

    assert sorted(LearnerStore(copy.path).load().statistics.rows()) == sorted(
        LearnerStore(store.path).load().statistics.rows()
    )


def test_a_copy_replaces_what_was_there_with_its_wal(full, tmp_path):
    """SQLite would apply the old file's WAL to the new one."""
    store, statistics = full
    dump = store.dump()
    old = tmp_path / "old"
    old.mkdir()
    left = LearnerStore(old / "learner.sqlite3")
    left.commit(step(learned(50), snapshots={"old": b"o" * 200_000}))
    for name in ("learner.sqlite3", "learner.sqlite3-wal"):
        (old / f"kept-{name}").write_bytes((old / name).read_bytes())
    left.close()
    for name in ("learner.sqlite3", "learner.sqlite3-wal"):
        (old / f"kept-{name}").rename(old / name)  # as a kill leaves them

    restore(old / "learner.sqlite3", dump.data)

    again = LearnerStore(old / "learner.sqlite3")
    assert sorted(again.load().statistics.rows()) == sorted(statistics.rows())
    assert "old" not in again.load().snapshots
    assert again.moved_aside is None
    again.close()


def test_a_copy_holds_what_is_committed_and_nothing_else(full):
    """Also what is in the WAL only, and nothing of a step under way."""
    store, _ = full
    assert store.path.with_name(store.path.name + "-wal").stat().st_size > 0
    store.connection.execute("BEGIN IMMEDIATE")
    store.connection.execute("INSERT OR REPLACE INTO cursors VALUES ('shard-3', 9, 9)")

    assert store.dump().cursor == {"shard-3": (1, 4000)}
    store.connection.execute("COMMIT")
    assert store.dump().cursor == {"shard-3": (9, 9)}


def test_copies_taken_while_it_changes_are_of_one_moment(store, tmp_path):
    """Cursor, sums and snapshots belong together in each; commits and checkpoints go on beside."""
    statistics = Statistics()
    found, stop = [], threading.Event()

    def copy():
        while not stop.is_set():
            found.append(store.dump())

    store.commit(step(statistics, cursor={"shard-3": (1, 0)}, snapshots={"count": b"0"}))
    thread = threading.Thread(target=copy)
    thread.start()
    try:
        for number in range(1, 2000):
            statistics.add(key(0), NOW + number, [("quality", 1.0)])
            store.commit(
                step(statistics, cursor={"shard-3": (1, number)}, snapshots={"count": str(number).encode()})
            )
            statistics.stored()
            if number % 50 == 0:
                store.checkpoint()
            if number > 200 and len(found) > 5:
                break
    finally:
        stop.set()
        thread.join()

    assert len(found) > 5
    for number, dump in enumerate(found):
        restore(tmp_path / f"{number}.sqlite3", dump.data)
        copied = LearnerStore(tmp_path / f"{number}.sqlite3")
        loaded = copied.load()
        _, at = loaded.cursor["shard-3"]
        assert dump.cursor == loaded.cursor
        assert loaded.snapshots == {"count": str(at).encode()}
        assert sum(row[9] for row in loaded.statistics.rows()) == at
        copied.close()


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy, and an empty directory."""
    directory = tmp_path_factory.mktemp("damage")
    store = LearnerStore(directory / "from.sqlite3")
    store.commit(step(learned(), snapshots={"s": bytes(range(256)) * 20}))
    dump = store.dump()
    store.close()
    return dump.data, directory


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damaged_copy_is_taken(copied, data):
    """Cut off, changed or followed by something: refused, and what was there is untouched."""
    whole, directory = copied
    kind = data.draw(st.sampled_from(["cut", "flip", "more", "noise"]))
    at = data.draw(st.integers(10, len(whole) - 1))
    damaged = {
        "cut": whole[:at],
        "flip": whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :],
        "more": whole + b"x",
        "noise": random.Random(at).randbytes(at),
    }[kind]
    target = directory / "to.sqlite3"
    target.write_bytes(b"as it was")

    if kind == "flip" and _means_the_same(whole, damaged):
        return
    with pytest.raises(StoreCorrupt):
        restore(target, damaged)
    assert target.read_bytes() == b"as it was"
    assert sorted(path.name for path in directory.glob("to*")) == ["to.sqlite3"]


def _means_the_same(whole, changed):
    """A few bits of what is compressed fill up a byte."""
    try:
        return gzip.decompress(changed) == gzip.decompress(whole)
    except (OSError, EOFError, zlib.error):
        return False


@pytest.mark.parametrize(
    "image", [b"", b"no database", b"SQLite format 3\0", b"SQLite format 3\0" + b"\xff" * 9000]
)
def test_whatever_is_compressed_must_be_a_database(tmp_path, image):
    with pytest.raises(StoreCorrupt):
        restore(tmp_path / "to.sqlite3", gzip.compress(image))
    assert list(tmp_path.iterdir()) == []


def test_a_database_with_broken_pages_is_refused_at_both_ends(full, tmp_path):
    """A good copy is not replaced by a bad one, and a bad one is no start."""
    store, _ = full
    store.checkpoint()
    image = bytearray(store.path.read_bytes())
    image[4096 + 8 : len(image) - 100] = os.urandom(len(image) - 4204)
    with pytest.raises(StoreCorrupt):
        restore(tmp_path / "to.sqlite3", gzip.compress(bytes(image)))

    store.close()
    store.path.write_bytes(image)
    with pytest.raises(StoreCorrupt):
        store.dump()


def test_a_copy_of_something_else_or_of_a_newer_program_is_refused(full, tmp_path):
    store, _ = full
    store.connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="schema 99") as caught:
        restore(tmp_path / "to.sqlite3", store.dump().data)
    assert not isinstance(caught.value, StoreCorrupt)

    other = sqlite3.connect(tmp_path / "other.sqlite3")
    other.execute("CREATE TABLE t (x)")
    other.commit()
    with pytest.raises(StoreCorrupt):
        restore(tmp_path / "to.sqlite3", gzip.compress(other.serialize()))
    other.close()
    assert not (tmp_path / "to.sqlite3").exists()


def test_a_disk_that_refuses_leaves_no_half_file(full, tmp_path):
    store, _ = full
    with pytest.raises(OSError):
        restore(tmp_path / "nowhere" / "to.sqlite3", store.dump().data)
    (tmp_path / "to.sqlite3").mkdir()
    with pytest.raises(OSError):
        restore(tmp_path / "to.sqlite3", store.dump().data)
    assert not list(tmp_path.glob(".*tmp"))
