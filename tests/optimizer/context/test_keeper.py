"""When a route's words are condensed, and what survives a restart."""

from base64 import b64encode

import pytest

from optimizer import events
from optimizer.context.features import ProjectionInfo
from optimizer.context.keeper import FIRST_FIT, LEAST_AGE_S, MOST_SAVED, TURNOVERS, ProjectionKeeper
from optimizer.context.words import encode_sketch, word_buckets

NOON = 1_795_000_000.0
SKETCH = b64encode(encode_sketch(word_buckets("some words here"))).decode()


def event(route="auto", sketch=SKETCH, at=NOON):
    return {"type": events.REQUEST, "data": {"route": route, "sketch": sketch, "started_ms": int(at * 1000)}}


def feed(keeper, count, **fields):
    for _ in range(count):
        keeper.observe(event(**fields), None)


@pytest.fixture
def keeper():
    keeper = ProjectionKeeper(capacity=600)
    keeper.configure({"auto": 16})
    return keeper


def test_the_first_projection(keeper):
    """It is due from 500 sketches on, until one was adopted."""
    feed(keeper, FIRST_FIT - 1)
    assert keeper.due() == []

    feed(keeper, 1)
    assert keeper.due() == ["auto"]
    assert keeper.size("auto") == 16
    assert len(keeper.sketches("auto")) == FIRST_FIT
    assert (keeper.sketches("auto")[0] == word_buckets("some words here")).all()

    keeper.adopt("auto", ProjectionInfo("prj-1", 16))
    assert keeper.due() == []
    assert keeper.projection("auto") == ProjectionInfo("prj-1", 16)


def test_later_ones_need_a_new_sample_and_time(keeper):
    """Neither busy minutes nor quiet days alone make a new version."""
    feed(keeper, FIRST_FIT)
    keeper.adopt("auto", ProjectionInfo("prj-1", 16))

    feed(keeper, TURNOVERS * 600)
    assert keeper.due() == []
    assert len(keeper.sketches("auto")) == 600

    feed(keeper, 1, at=NOON + LEAST_AGE_S)
    assert keeper.due() == ["auto"]

    keeper.adopt("auto", None)
    assert keeper.due() == []
    assert keeper.projection("auto") == ProjectionInfo("prj-1", 16)

    feed(keeper, 1, at=NOON + 3 * LEAST_AGE_S)
    assert keeper.due() == []


def test_a_failed_fit_is_not_tried_for_ever(keeper):
    """A sample that can not be fitted is noted like a fit and waits for another one."""
    feed(keeper, FIRST_FIT)
    keeper.adopt("auto", None)
    feed(keeper, 10)

    assert keeper.due() == []
    assert keeper.projection("auto") is None


def test_another_size_is_due_at_once(keeper):
    """The operator asked for it. A vocabulary that gave fewer features is not asked again."""
    feed(keeper, FIRST_FIT)
    keeper.adopt("auto", ProjectionInfo("prj-1", 9))
    assert keeper.due() == []

    keeper.configure({"auto": 8})
    assert keeper.due() == ["auto"]


def test_a_lost_file_is_made_again(keeper):
    """Without its file a projection is none."""
    feed(keeper, FIRST_FIT)
    keeper.adopt("auto", ProjectionInfo("prj-1", 16))

    keeper.lose("auto")

    assert keeper.projection("auto") is None
    assert keeper.due() == ["auto"]


def test_only_what_concerns_it(keeper):
    """Other routes, other events and requests without a sketch leave no trace; a damaged sketch raises."""
    feed(keeper, 5, route="other")
    feed(keeper, 5, route=None)
    feed(keeper, 5, sketch=None)
    keeper.observe({"type": events.FEEDBACK, "data": {}}, None)
    with pytest.raises(ValueError, match="sketch"):
        keeper.observe(event(sketch=b64encode(b"\xff").decode()), None)
    keeper.observe(event(sketch=b64encode(b"\xff\xff").decode()), None)

    assert keeper.sketches("auto") == []
    assert keeper.sketches("other") == []
    assert keeper.projection("other") is None
    assert keeper.size("other") == 0
    keeper.adopt("other", ProjectionInfo("prj-1", 16))
    keeper.lose("other")


def test_the_sample_is_renewed_at_random():
    """Old sketches leave one by one, so the sample reaches back further than its size."""
    keeper = ProjectionKeeper(capacity=600)
    keeper.configure({"auto": 16})
    feed(keeper, 600)
    other = b64encode(encode_sketch(word_buckets("entirely different"))).decode()

    feed(keeper, 600, sketch=other)

    old = sum(len(sketch) == 3 for sketch in keeper.sketches("auto"))
    assert 150 < old < 290


def test_restart(keeper):
    """Sample, projection and progress come back; routes that are configured no more are forgotten."""
    feed(keeper, FIRST_FIT)
    keeper.adopt("auto", ProjectionInfo("prj-1", 16))
    data = keeper.snapshot()

    again = ProjectionKeeper(capacity=600)
    again.restore(data)
    assert again.snapshot() == data
    again.configure({"auto": 16})

    assert again.snapshot() == data
    assert again.projection("auto") == ProjectionInfo("prj-1", 16)
    assert [sketch.tolist() for sketch in again.sketches("auto")] == [
        sketch.tolist() for sketch in keeper.sketches("auto")
    ]
    feed(again, TURNOVERS * 600, at=NOON + LEAST_AGE_S)
    assert again.due() == ["auto"]
    again.configure({})
    assert again.projection("auto") is None
    assert again.snapshot() == b"{}"


def test_restored_after_it_was_configured(keeper):
    """Either order works."""
    feed(keeper, FIRST_FIT)
    keeper.adopt("auto", ProjectionInfo("prj-1", 16))

    again = ProjectionKeeper()
    again.configure({"auto": 16})
    again.restore(keeper.snapshot())

    assert again.projection("auto") == ProjectionInfo("prj-1", 16)


def test_it_does_not_rewrite_itself_at_every_step(keeper):
    """Snapshots stay the same bytes for a minute of the log, but never hide a new projection."""
    feed(keeper, 10)
    first = keeper.snapshot()
    feed(keeper, 10, at=NOON + 30)
    assert keeper.snapshot() is first

    feed(keeper, 10, at=NOON + 61)
    second = keeper.snapshot()
    assert len(second) > len(first)

    keeper.adopt("auto", ProjectionInfo("prj-1", 16))
    assert b"prj-1" in keeper.snapshot()


def test_what_is_saved_is_bounded_however_many_routes_there_are():
    """It is written in one piece while the loop waits. A smaller sample is refitted when it is full again."""
    names = [f"r{number}" for number in range(100)]
    keeper = ProjectionKeeper(capacity=600)
    keeper.configure(dict.fromkeys(names, 16))
    for name in names:
        feed(keeper, 600, route=name)
    keeper.adopt("r0", ProjectionInfo("prj-1", 16))
    feed(keeper, TURNOVERS * 600 - 1, route="r0", at=NOON + LEAST_AGE_S)

    again = ProjectionKeeper(capacity=600)
    again.configure(dict.fromkeys(names, 16))
    again.restore(keeper.snapshot())

    assert sum(len(again.sketches(name)) for name in names) == MOST_SAVED
    feed(again, 10, route="r0", at=NOON + LEAST_AGE_S)
    assert "r0" not in again.due()
    feed(again, 600, route="r0", at=NOON + LEAST_AGE_S)
    assert "r0" in again.due()


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"auto": {"sketches": [1], "sizes": [2]}}', b'{"auto": {"sketches": ""}}']
)
def test_a_damaged_snapshot_is_refused(data):
    """The reading loop then starts it afresh."""
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        ProjectionKeeper().restore(data)
