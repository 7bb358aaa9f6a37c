"""Every parser of our own under the seeded mutator, for a moment: ``python -m loadtests.fuzz`` does it for minutes."""

import pytest

from loadtests.fuzzing.catalogue import targets
from loadtests.fuzzing.mutator import LARGEST, Mutator
from loadtests.fuzzing.runner import Hang, run
from loadtests.fuzzing.target import Target, cuts, demand

TARGETS = {target.name: target for target in targets()}
# Reading a configuration takes milliseconds, a file system tenths of one.
EXECUTIONS = {"config": 60}


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_breaks_nor_hangs(name):
    """The seeds and some hundred mutations of them, the same ones each time."""
    outcome = run(TARGETS[name], seed=7, executions=EXECUTIONS.get(name, 300))
    assert not outcome.crashes, "\n".join(crash.text for crash in outcome.crashes.values())
    assert outcome.executions >= 60


def test_one_seed_makes_one_sequence():
    corpus = (b'{"a": 1, "b": [true]}', b"data: x\n\n")
    first, second, other = (Mutator(seed, (b"token",)) for seed in (1, 1, 2))
    made = [first.make(corpus) for _ in range(200)]
    assert made == [second.make(corpus) for _ in range(200)]
    assert made != [other.make(corpus) for _ in range(200)]
    assert len(set(made)) > 150
    assert max(map(len, made)) <= LARGEST


def test_the_cuts_are_cuts():
    for data in (b"", b"a", bytes(range(256)) * 3):
        for pieces in cuts(data):
            assert b"".join(pieces) == data
            assert all(pieces)


def test_a_crash_is_found_and_kept_once_for_each_place():
    def fragile(data: bytes) -> int:
        demand(b"\x00" not in data, "no zero")
        if b"]]" in data:
            raise KeyError("x")
        return len(data) % 4

    outcome = run(Target("fragile", fragile, (b"[1]",), (b"\x00", b"]]")), seed=3, executions=2000)
    assert {place.partition(" ")[0] for place in outcome.crashes} == {"Broken", "KeyError"}
    assert all(b"\x00" in crash.data or b"]]" in crash.data for crash in outcome.crashes.values())
    assert outcome.shapes == 4


def test_a_hang_is_a_crash(monkeypatch):
    """Within the second that the watchdog gives, here a fiftieth of it."""
    monkeypatch.setattr("loadtests.fuzzing.runner.HANG_S", 0.02)

    def endless(data: bytes) -> None:
        while data:
            pass

    outcome = run(Target("endless", endless, (b"x",)), seed=1, executions=1)
    (crash,) = outcome.crashes.values()
    assert crash.place.startswith(Hang.__name__)


def test_lines_guide_the_search():
    """Bytes in a row are found one by one, because each reaches a new line."""

    def maze(data: bytes) -> None:
        if data[:1] != b"f":
            return
        if data[1:2] != b"u":
            return
        if data[2:3] == b"z":
            raise KeyError("found")

    seeds, tokens = (b"abcd",), (b"f", b"u", b"z")
    here = ("test_fuzz.py",)
    guided = run(Target("maze", maze, seeds, tokens, here), seed=5, executions=20_000, covered=True)
    assert guided.crashes
    assert guided.lines >= 3
