"""An alarm that an earlier owner has told is not told again by the next."""

import asyncio

import pytest

from optimizer import events
from optimizer.log.node import StateDirectory
from optimizer.log.reader import LogReader
from proxy.control.cluster.tenure_journal import TenureJournal, alarms_told
from proxy.control.journal import Journal


def alarm(at, *, signal="quality", **fields):
    return {"route": "chat", "model_key": "m", "variant_key": "v", "signal": signal, "at": at} | fields


@pytest.fixture
def journals(tmp_path):
    """By name: the node's journal over a directory of its own."""
    made = {}

    def journal(name):
        if name not in made:
            state = StateDirectory(tmp_path / name)
            made[name] = state, Journal(state, segment_bytes=1 << 20, now=lambda: 100.0)
        return made[name]

    yield journal
    for _, one in made.values():
        one.close()


def written(state):
    return [event["id"] for _, event in LogReader(state.log_directory).poll({}).events()]


def test_what_the_log_tells_already_is_left_out(journals):
    """Also when it is found a moment later now; what is later than that, or about something else, is new."""
    copy, before = journals("copy")
    before.write(events.DRIFT, alarm(50.0), "first")
    before.write(events.DRIFT, alarm(60.0), "second")
    before.write(events.TRANSITION, {"route": "chat"}, "no alarm")
    state, journal = journals("node")
    tenure = TenureJournal(journal, asyncio.Event(), alarms_told(copy.log_directory, {}))

    assert all(
        tenure.write(events.DRIFT, data, name)
        for name, data in (
            ("first", alarm(50.0)),
            ("second, again", alarm(63.0)),
            ("third", alarm(70.0)),
            ("other signal", alarm(50.0, signal="cost_usd")),
            ("other arm", alarm(50.0, variant_key="w")),
        )
    )
    tenure.write(events.TRANSITION, {"route": "chat"}, "step")

    assert written(state) == ["third", "other signal", "other arm", "step"]


def test_what_was_learned_already_tells_nothing(journals):
    """Only what is read again may be found again."""
    copy, before = journals("copy")
    before.write(events.DRIFT, alarm(50.0), "first")
    cursor = LogReader(copy.log_directory).poll({}).cursor

    assert alarms_told(copy.log_directory, cursor) == {}


def test_a_tenure_that_is_over_writes_nothing(journals):
    state, journal = journals("node")
    fenced = asyncio.Event()
    tenure = TenureJournal(journal, fenced, {})
    fenced.set()

    assert tenure.write(events.DRIFT, alarm(50.0), "late")
    assert written(state) == []
