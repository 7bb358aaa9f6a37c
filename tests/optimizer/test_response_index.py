"""From response ids to request ids."""

import sqlite3

import pytest

from optimizer.ids import RequestIds
from optimizer.response_index import ResponseIndex
from optimizer.statistics import Statistics
from optimizer.store import Commit, LearnerStore

IDS = RequestIds(node=1, incarnation=2, key=b"k" * 32)


@pytest.fixture
def store(tmp_path):
    opened = LearnerStore(tmp_path / "learner.sqlite3")
    yield opened
    opened.close()


def save(store, index):
    store.commit(Commit(Statistics().changes(), latest=0.0, cursor={}), (index,))


def filled(store, count, *, capacity=1000, run_size=100, per_commit=30):
    """An index with replies r0.. in commits, and their request ids."""
    index = ResponseIndex(store.connection, capacity=capacity, run_size=run_size)
    requests = [IDS.mint(1_000_000 + number) for number in range(count)]
    for number, request_id in enumerate(requests):
        index.add(f"r{number}", request_id)
        if number % per_commit == per_commit - 1:
            save(store, index)
    save(store, index)
    return index, requests


def test_what_was_added_is_found_in_every_place(store):
    """Uncommitted, recent, sealed."""
    index, requests = filled(store, 555)
    late = IDS.mint(5)
    index.add("late", late)

    assert [index.lookup(f"r{number}") for number in range(555)] == requests
    assert index.lookup("late") == late
    assert index.lookup("never") is None


def test_it_continues_after_a_restart(store, tmp_path):
    """Everything committed is found by the next process."""
    _, requests = filled(store, 555)
    store.close()

    again = LearnerStore(tmp_path / "learner.sqlite3")
    index = ResponseIndex(again.connection, capacity=1000, run_size=100)

    assert [index.lookup(f"r{number}") for number in range(555)] == requests
    again.close()


def test_only_the_newest_are_kept(store):
    """The oldest leave first, and the bound holds."""
    index, requests = filled(store, 3000)

    assert len(index) <= 1000
    assert index.lookup("r0") is None
    assert [index.lookup(f"r{number}") for number in range(2300, 3000)] == requests[2300:]
    (runs,) = store.connection.execute("SELECT count(*) FROM responses_run").fetchone()
    assert runs <= 10


def test_the_newest_of_the_same_id_wins(store):
    """Also over one that was sealed before."""
    index, _ = filled(store, 250)
    newer = IDS.mint(9)

    index.add("r3", newer)
    save(store, index)

    assert index.lookup("r3") == newer


def test_a_failed_commit_loses_nothing(store):
    """What was rolled back is written next time."""
    index = ResponseIndex(store.connection, capacity=1000, run_size=10)
    requests = [IDS.mint(number) for number in range(25)]
    for number, request_id in enumerate(requests):
        index.add(f"r{number}", request_id)

    class Refusing:
        def write(self, connection: sqlite3.Connection) -> None:
            raise sqlite3.OperationalError("disk full")

        def written(self) -> None:
            raise AssertionError

    with pytest.raises(sqlite3.OperationalError):
        store.commit(Commit(Statistics().changes(), latest=0.0, cursor={}), (index, Refusing()))
    save(store, index)

    assert [index.lookup(f"r{number}") for number in range(25)] == requests


def test_ids_of_another_shape_are_left_out(store):
    """Only our own request ids can be answers."""
    index = ResponseIndex(store.connection)

    for request_id in ("req_zz", "req_abcd", "", "x" * 64):
        index.add("r", request_id)

    assert index.lookup("r") is None


def test_a_run_must_fit():
    """Bounds are checked at the door."""
    with pytest.raises(ValueError, match="run_size"):
        ResponseIndex(sqlite3.connect(":memory:"), capacity=10, run_size=11)
