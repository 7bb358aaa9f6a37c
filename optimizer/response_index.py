"""From a provider's response id to our request id, for the newest million replies.

Newest entries are rows in arrival order and a dictionary in memory; every ``run_size`` of them are sealed
into one row of sorted 64-bit hashes with the request ids beside them. So inserting touches the last page
only, whatever the hashes are, and a look-up is a bisection per run. Response ids themselves are not kept.
"""

import sqlite3
from array import array
from bisect import bisect_left
from hashlib import blake2b

from optimizer.ids import PREFIX

REQUEST_BYTES = 30
CAPACITY = 1_000_000
RUN_SIZE = 8_192


class ResponseIndex:
    """Lives in the learner's database; a ``store.Participant``. Hashes of sealed runs take 8 bytes each."""

    def __init__(
        self, connection: sqlite3.Connection, *, capacity: int = CAPACITY, run_size: int = RUN_SIZE
    ) -> None:
        """Continue what the database holds.

        Raises:
            ValueError: If a run would not fit into the capacity.
        """
        if not 0 < run_size <= capacity:
            raise ValueError(f"run_size must be within 1..{capacity}, got {run_size}")
        self._connection = connection
        self._run_size = run_size
        self._runs_kept = max(capacity // run_size - 1, 1)
        self._new: dict[int, bytes] = {}
        self._recent: dict[int, bytes] = dict(
            connection.execute("SELECT hash, request FROM responses_recent ORDER BY sequence").fetchall()
        )
        self._runs: dict[int, array[int] | None] = {
            run: None for (run,) in connection.execute("SELECT run FROM responses_run ORDER BY run")
        }
        self._sealed: tuple[int, array[int]] | None = None

    def add(self, response_id: str, request_id: str) -> None:
        """Note which request a reply belongs to; the newest wins. Foreign request ids are left out."""
        try:
            request = bytes.fromhex(request_id.removeprefix(PREFIX))
        except ValueError:
            return
        if len(request) == REQUEST_BYTES:
            self._new[_hash(response_id)] = request

    def lookup(self, response_id: str) -> str | None:
        """The request id that ``response_id`` belongs to, None when it is unknown or too old."""
        key = _hash(response_id)
        found = self._new.get(key) or self._recent.get(key)
        if found is None:
            for run in reversed(self._runs):
                found = self._find(run, key)
                if found is not None:
                    break
        return PREFIX + found.hex() if found is not None else None

    def write(self, connection: sqlite3.Connection) -> None:
        """See ``store.Participant``."""
        self._sealed = None
        if len(self._recent) + len(self._new) < self._run_size:
            connection.executemany(
                "INSERT INTO responses_recent (hash, request) VALUES (?, ?)", self._new.items()
            )
            return
        entries = sorted((self._recent | self._new).items())
        hashes = array("q", [key for key, _ in entries])
        requests = b"".join([request for _, request in entries])
        row = connection.execute(
            "INSERT INTO responses_run (hashes, requests) VALUES (?, ?)", (hashes.tobytes(), requests)
        )
        number = row.lastrowid
        assert number is not None
        connection.execute("DELETE FROM responses_run WHERE run <= ?", (number - self._runs_kept,))
        connection.execute("DELETE FROM responses_recent")
        self._sealed = number, hashes

    def written(self) -> None:
        """See ``store.Participant``."""
        if self._sealed is None:
            self._recent.update(self._new)
        else:
            number, hashes = self._sealed
            self._runs[number] = hashes
            for run in [run for run in self._runs if run <= number - self._runs_kept]:
                del self._runs[run]
            self._recent.clear()
            self._sealed = None
        self._new.clear()

    def __len__(self) -> int:
        """Entries that can be found, about: repeated ids count once per run."""
        return len(self._new) + len(self._recent) + len(self._runs) * self._run_size

    def _find(self, run: int, key: int) -> bytes | None:
        hashes = self._runs[run]
        if hashes is None:
            stored = self._connection.execute(
                "SELECT hashes FROM responses_run WHERE run = ?", (run,)
            ).fetchone()
            hashes = self._runs[run] = array("q", bytes(stored[0]))
        at = bisect_left(hashes, key)
        if at == len(hashes) or hashes[at] != key:
            return None
        with self._connection.blobopen("responses_run", "requests", run, readonly=True) as requests:
            requests.seek(at * REQUEST_BYTES)
            return requests.read(REQUEST_BYTES)


def _hash(response_id: str) -> int:
    digest = blake2b(response_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
