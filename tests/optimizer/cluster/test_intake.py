import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from loadtests.servers.kafka import KafkaBroker
from optimizer import events
from optimizer.cluster.consuming import Incoming
from optimizer.cluster.dead_letters import CUT, OFFSET, PARTITION, REASON, TOPIC
from optimizer.cluster.intake import FeedbackIntake, IntakeTuning, RatingRules
from optimizer.feedback import FeedbackProblem
from optimizer.settings import KafkaSettings
from tests.optimizer.cluster.group_helpers import eventually

KNOWN = "req_known"
TUNING = IntakeTuning(record_bytes=4096, session_s=3.0, poll_s=0.05, first_pause_s=0.1, longest_pause_s=0.5)
_names = itertools.count()


def _resolve(response_id: str) -> str | None:
    return {"chatcmpl-1": KNOWN, "chatcmpl-2": "req_of_others"}.get(response_id)


RULES = RatingRules(lambda request_id: request_id == KNOWN, _resolve, 4096)


def _record(value: Any, headers: Sequence[tuple[str, bytes]] = (), offset: int = 0) -> Incoming:
    return Incoming(offset, b"k", value if isinstance(value, bytes) else orjson.dumps(value), headers, 0)


@pytest.mark.parametrize(
    "value",
    [
        {"request_id": KNOWN, "value": 0.5},
        [{"request_id": KNOWN, "value": 0.5}],
        {"feedback": [{"response_id": "chatcmpl-1", "score": 1, "scale": 2}]},
    ],
    ids=["object", "list", "as callers post it"],
)
def test_ratings_are_read_as_callers_post_them(value: Any) -> None:
    ratings = RULES.read(_record(value))
    assert ratings is not None
    ((event_id, data),) = ratings
    assert event_id.startswith("fb_")
    assert (data["request_id"], data["metric"], data["value"]) == (KNOWN, "quality", 0.5)
    assert RULES.read(_record(value)) == ratings  # the same again is the same event


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b"", ()),
        ({"request_id": KNOWN, "value": 0.5}, [("ce_type", events.FEEDBACK.encode())]),
        ({"specversion": "1.0", "type": events.REQUEST, "data": {}}, ()),
        (b"whatever", [(REASON, b"was no rating")]),
    ],
    ids=["tombstone", "headers of ours", "event of ours", "dead letter"],
)
def test_what_is_no_rating_is_ignored(value: Any, headers: Sequence[tuple[str, bytes]]) -> None:
    assert RULES.read(_record(value, headers)) is None


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b'"text"', "must be an object"),
        ({"request_id": KNOWN}, "needs one of"),
        ({"request_id": KNOWN, "value": 7}, "within 0..1"),
        ({"request_id": "req_forged", "value": 1}, "not an id that this proxy gave out"),
        ({"response_id": "nobody", "value": 1}, "is not known"),
        ({"response_id": "chatcmpl-2", "value": 1}, "not an id that this proxy gave out"),
        (
            [{"request_id": KNOWN, "value": 1}, {"request_id": "req_forged", "value": 1}],
            "feedback[1].request_id",
        ),
        ({"specversion": "1.0", "type": "com.example.rating", "data": {}}, "is unknown"),
        ([{"request_id": KNOWN, "value": 1, "source": "judge:x@1"}], "must not begin with"),
        (b" " * 5000, "5000 bytes, the limit is 4096"),
        ([], "1 to 1000 items"),
    ],
)
def test_what_can_not_be_taken_says_why(value: Any, problem: str) -> None:
    with pytest.raises(FeedbackProblem) as caught:
        RULES.read(_record(value))
    assert problem in str(caught.value)


def test_response_ids_need_somebody_who_knows_them() -> None:
    with pytest.raises(FeedbackProblem, match="is not known"):
        RatingRules(lambda _: True).read(_record({"response_id": "chatcmpl-1", "value": 1}))


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(str.encode),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=10),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["feedback", "request_id", "value", "type", "specversion"]),
                    inner,
                    max_size=4,
                )
            ),
        ).map(orjson.dumps),
    )
)
def test_nothing_that_comes_breaks_it(value: bytes) -> None:
    with suppress(FeedbackProblem):
        RULES.read(_record(value))


class Log:
    """A journal that can be full."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, Any], str]] = []
        self.full = False

    def write(self, type_: str, data: Mapping[str, Any], event_id: str) -> bool:
        if self.full:
            return False
        self.events.append((type_, data, event_id))
        return True

    @property
    def values(self) -> list[float]:
        return [data["value"] for _, data, _ in self.events]


@asynccontextmanager
async def _running(
    address: str, topic: str, log: Log, ask: Callable[[str], Awaitable[str | None]] | None = None
) -> AsyncIterator[FeedbackIntake]:
    intake = FeedbackIntake(
        KafkaSettings(
            (address,),
            topic=topic,
            group_id=f"g-{topic}",
            dead_letter_topic=f"{topic}-dead",
            request_timeout_s=3.0,
        ),
        journal=log.write,
        verify=lambda request_id: request_id.startswith(KNOWN),
        ask=ask,
        tuning=TUNING,
    )
    stop = asyncio.Event()
    task = asyncio.create_task(intake.run(stop))
    try:
        yield intake
    finally:
        stop.set()
        await asyncio.wait_for(task, 15.0)


def _topic() -> str:
    return f"ratings-{os.getpid()}-{next(_names)}"


def _rating(number: int) -> bytes:
    return orjson.dumps({"request_id": f"{KNOWN}{number}", "value": number / 1000})


def _write(kafka: KafkaBroker, topic: str, *values: bytes, headers: Any = None) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for value in values:
        producer.produce(topic, value, key=b"key", headers=headers)
    assert producer.flush(20) == 0


@pytest.mark.slow
async def test_ratings_are_logged_and_what_is_bad_is_put_aside(kafka: KafkaBroker) -> None:
    topic, log = kafka.make_topic(_topic()), Log()
    _write(kafka, topic, _rating(1))
    _write(kafka, topic, b"{}", headers=[("ce_type", events.REQUEST.encode())])
    _write(kafka, topic, b"broken", headers=[("from", b"them")])
    _write(kafka, topic, b"x" * 5000, _rating(2))
    async with _running(kafka.bootstrap, topic, log) as intake:
        await eventually(lambda: log.values == [0.001, 0.002])
        await eventually(lambda: intake.dead_lettered == 2)
        assert (intake.accepted, intake.ignored) == (2, 1)
        assert intake.up
    assert {type_ for type_, _, _ in log.events} == {events.FEEDBACK}
    broken, large = kafka.messages(f"{topic}-dead", 2)
    assert (broken.key(), broken.value()) == (b"key", b"broken")
    headers = dict(broken.headers())
    assert headers.pop(REASON).startswith(b"is not valid JSON")
    assert headers == {"from": b"them", TOPIC: topic.encode(), PARTITION: b"0", OFFSET: b"2"}
    assert large.value() == b"x" * 5000
    # Everything was committed: whoever comes next finds nothing.
    again = Log()
    async with _running(kafka.bootstrap, topic, again) as intake:
        await eventually(lambda: intake.up)
        _write(kafka, topic, _rating(3))
        await eventually(lambda: again.values == [0.003])


async def test_answers_of_other_nodes_are_asked_for(kafka: KafkaBroker) -> None:
    """A rating of a response id comes to any node; only the one that answered knows what it belongs to."""
    topic, log = kafka.make_topic(_topic()), Log()

    async def ask(response_id: str) -> str | None:
        await asyncio.sleep(0)
        return {"chatcmpl-7": f"{KNOWN}7", "chatcmpl-8": f"{KNOWN}8"}.get(response_id)

    both = [{"response_id": f"chatcmpl-{number}", "value": number / 1000} for number in (7, 8)]
    _write(kafka, topic, orjson.dumps({"response_id": "chatcmpl-9", "value": 0.5}), orjson.dumps(both))
    async with _running(kafka.bootstrap, topic, log, ask) as intake:
        await eventually(lambda: log.values == [0.007, 0.008])
        assert (intake.accepted, intake.dead_lettered) == (2, 1)
    assert [data["request_id"] for _, data, _ in log.events] == [f"{KNOWN}7", f"{KNOWN}8"]


async def test_whoever_never_says_whose_answer_it_was_holds_nothing_up(
    kafka: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizer.cluster.intake._ASK_S", 0.2)
    topic, log = kafka.make_topic(_topic()), Log()

    async def ask(response_id: str) -> str | None:
        await asyncio.Event().wait()
        return response_id

    unknown = [orjson.dumps({"response_id": f"chatcmpl-{number}", "value": 0.5}) for number in range(20)]
    _write(kafka, topic, *unknown, _rating(1))
    async with _running(kafka.bootstrap, topic, log, ask) as intake:
        await eventually(lambda: log.values == [0.001])
        assert intake.dead_lettered == 20


async def test_a_dead_letter_that_is_too_large_for_its_topic_leaves_its_value_behind(
    kafka: KafkaBroker,
) -> None:
    topic = kafka.make_topic(_topic())
    kafka.make_topic(f"{topic}-dead", **{"max.message.bytes": "2000"})
    _write(kafka, topic, os.urandom(3000))
    async with _running(kafka.bootstrap, topic, Log()) as intake:
        await eventually(lambda: intake.dead_lettered == 1)
    (letter,) = kafka.messages(f"{topic}-dead", 1)
    assert not letter.value()
    assert dict(letter.headers())[CUT] == b"3000"


async def test_nothing_is_committed_that_the_log_did_not_take(kafka: KafkaBroker) -> None:
    topic, log = kafka.make_topic(_topic()), Log()
    log.full = True
    _write(kafka, topic, *map(_rating, range(50)))
    async with _running(kafka.bootstrap, topic, log) as intake:
        await eventually(lambda: intake.errors > 1)
        assert "log takes no more" in intake.last_error
        log.full = False
        await eventually(lambda: len(set(log.values)) == 50)


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_broker_that_dies_loses_no_rating_and_no_dead_letter(kafka: KafkaBroker) -> None:
    topic, log = kafka.make_topic(_topic(), 3), Log()
    async with _running(kafka.bootstrap, topic, log) as intake:
        await eventually(lambda: intake.up)
        _write(kafka, topic, *map(_rating, range(100)), b"bad-0")
        kafka.kill()
        await asyncio.sleep(1.0)
        await asyncio.to_thread(kafka.start)
        await asyncio.to_thread(_write, kafka, topic, *map(_rating, range(100, 200)), b"bad-1")
        await eventually(lambda: len(set(log.values)) == 200, 30.0)
        await eventually(lambda: intake.dead_lettered >= 2, 30.0)
    ids = {event_id for _, _, event_id in log.events}
    assert len(ids) == 200
    assert {letter.value() for letter in kafka.messages(f"{topic}-dead", 2)} == {b"bad-0", b"bad-1"}


@pytest.mark.slow
async def test_two_nodes_share_the_ratings(kafka: KafkaBroker) -> None:
    topic, one, two = kafka.make_topic(_topic(), 4), Log(), Log()
    async with _running(kafka.bootstrap, topic, one) as first:
        await eventually(lambda: first.up)
        async with _running(kafka.bootstrap, topic, two) as second:
            await eventually(lambda: second.up)
            _write(
                kafka, topic, *(orjson.dumps({"request_id": f"{KNOWN}{i}", "value": 1}) for i in range(100))
            )
            await eventually(lambda: len({event[2] for event in one.events + two.events}) == 100)
        _write(
            kafka, topic, *(orjson.dumps({"request_id": f"{KNOWN}{i}", "value": 1}) for i in range(100, 150))
        )
        await eventually(lambda: len({event[2] for event in one.events + two.events}) == 150)


async def test_it_runs_and_stops_without_any_broker(make_relay: Callable[..., Any]) -> None:
    relay = make_relay("127.0.0.1:9")
    relay.mode = "refuse"
    async with _running(relay.address, "none", Log()) as intake:
        await eventually(lambda: intake.errors > 1)
        assert not intake.up
