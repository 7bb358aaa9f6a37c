"""How SQLite files are opened: by several at once, as processes that start together do."""

import sqlite3
import threading

import pytest

from optimizer import sqlite_file

AT_ONCE = 8
FILES = 60


def open_file(path, busy_s):
    return sqlite_file.connect(path, synchronous="NORMAL", busy_s=busy_s, checkpoints=True, any_thread=True)


def test_several_may_create_one_file_at_once(tmp_path):
    # Without waiting for the switch to WAL, one opening in a hundred failed here.
    refused, start = [], threading.Barrier(AT_ONCE)

    def run():
        for number in range(FILES):
            start.wait()
            try:
                open_file(tmp_path / f"{number}.sqlite3", busy_s=10.0).close()
            except sqlite3.Error as error:
                refused.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []


def test_a_file_that_stays_locked_is_refused_in_time(tmp_path):
    path = tmp_path / "held.sqlite3"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        open_file(path, busy_s=0.1)
    holder.close()
