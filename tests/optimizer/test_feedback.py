"""Feedback as callers post it."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.feedback import MAX_COMMENT_BYTES, MAX_ITEMS, FeedbackProblem, parse_feedback, to_event


def test_one_object_a_list_and_a_batch_are_accepted():
    """All three shapes mean the same."""
    item = {"request_id": "req_1", "value": 0.5}

    assert parse_feedback(item) == parse_feedback([item]) == parse_feedback({"feedback": [item]})


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"value": 0.25}, 0.25),
        ({"value": 1}, 1.0),
        ({"score": 0.25}, 0.25),
        ({"score": 4, "scale": 5}, 0.8),
        ({"score": 3, "scale": [1, 5]}, 0.5),
        ({"thumbs": "up"}, 1.0),
        ({"thumbs": "down"}, 0.0),
        ({"thumbs": True}, 1.0),
        ({"thumbs": False}, 0.0),
    ],
)
def test_values_scores_and_thumbs_become_numbers(fields, value):
    """Quality is always within 0..1."""
    (item,) = parse_feedback({"request_id": "req_1", **fields})

    assert item.value == pytest.approx(value)
    assert (item.metric, item.source) == ("quality", "user")


def test_an_id_is_a_request_id_or_a_response_id():
    """Our ids are known by their prefix."""
    ours, theirs, named = parse_feedback(
        [
            {"id": "req_1", "value": 1},
            {"id": "chatcmpl-1", "value": 1},
            {"response_id": "resp_1", "value": 1},
        ]
    )

    assert (ours.request_id, ours.response_id) == ("req_1", None)
    assert (theirs.request_id, theirs.response_id) == (None, "chatcmpl-1")
    assert named.response_id == "resp_1"


def test_a_custom_metric_may_have_any_value():
    """Only quality is bounded here."""
    (item,) = parse_feedback({"request_id": "r", "metric": "business_value", "value": -1250.5})

    assert (item.metric, item.value) == ("business_value", -1250.5)


@pytest.mark.parametrize(
    ("doc", "path"),
    [
        (5, ""),
        ("text", ""),
        (None, ""),
        ([], "feedback"),
        ({"feedback": {}}, "feedback"),
        ({"feedback": [], "value": 1}, "value"),
        ([{"request_id": "r", "value": 1}] * (MAX_ITEMS + 1), "feedback"),
        ([{"request_id": "r", "value": 1}, 7], "feedback[1]"),
        ({"value": 1}, ""),
        ({"request_id": "r", "id": "r", "value": 1}, ""),
        ({"request_id": 5, "value": 1}, "request_id"),
        ({"request_id": "", "value": 1}, "request_id"),
        ({"request_id": "r"}, ""),
        ({"request_id": "r", "value": 1, "score": 1}, ""),
        ({"request_id": "r", "value": "1"}, "value"),
        ({"request_id": "r", "value": True}, "value"),
        ({"request_id": "r", "value": 1.5}, "value"),
        ({"request_id": "r", "metric": "rating", "value": 4}, "value"),
        ({"request_id": "r", "metric": "x", "value": 10**400}, "value"),
        ({"request_id": "r", "value": 1, "scale": 5}, "scale"),
        ({"request_id": "r", "score": 6, "scale": 5}, "score"),
        ({"request_id": "r", "score": 0, "scale": 0}, "scale"),
        ({"request_id": "r", "score": 0, "scale": [1]}, "scale"),
        ({"request_id": "r", "score": 0, "scale": [5, 1]}, "scale"),
        ({"request_id": "r", "thumbs": "sideways"}, "thumbs"),
        ({"request_id": "r", "value": 1, "metric": "no spaces"}, "metric"),
        ({"request_id": "r", "value": 1, "metric": "cost@v1"}, "metric"),
        ({"request_id": "r", "value": 1, "source": "a b"}, "source"),
        ({"request_id": "r", "value": 1, "source": "judge:main@1"}, "source"),
        ({"request_id": "r", "value": 1, "comment": 5}, "comment"),
        ({"request_id": "r", "value": 1, "comment": "x" * (MAX_COMMENT_BYTES + 1)}, "comment"),
        ({"request_id": "r", "value": 1, "idempotency_key": ""}, "idempotency_key"),
        (
            {"feedback": [{"request_id": "r", "value": 0}, {"request_id": "r", "value": 9}]},
            "feedback[1].value",
        ),
    ],
)
def test_problems_name_the_field(doc, path):
    """The caller learns where to look."""
    with pytest.raises(FeedbackProblem) as caught:
        parse_feedback(doc)

    assert caught.value.path == path
    assert str(caught.value).startswith(path)


def test_a_misspelt_field_is_refused_with_a_suggestion():
    """Silence would lose the rating."""
    with pytest.raises(FeedbackProblem, match=r"feedback\[0\]\.thumb: is unknown; did you mean `thumbs`\?"):
        parse_feedback([{"request_id": "r", "thumb": "up"}])


def test_a_comment_leaves_only_its_length():
    """Its text enters no event."""
    (item,) = parse_feedback({"request_id": "req_1", "value": 1, "comment": "sécret"})

    event_id, data = to_event(item, request_id="req_1")

    assert data["comment_bytes"] == 7
    assert b"cret" not in orjson.dumps([event_id, data])


def test_a_source_rates_a_metric_of_a_request_once():
    """Whatever it says and under whatever idempotency key: another key would be a way to vote twice."""

    def event_id(request_id="req_1", **fields):
        (item,) = parse_feedback({"request_id": request_id, "value": 1, **fields})
        return to_event(item, request_id=request_id)[0]

    keys = [event_id(idempotency_key=key) for key in ("k", "other", "x" * 256)]
    assert {event_id(), event_id(value=0), event_id(comment="again"), *keys} == {event_id()}
    assert event_id(idempotency_key="k", source="judge") == event_id(source="judge")
    different = [event_id(), event_id(source="judge"), event_id(metric="m"), event_id("req_2")]
    assert len(set(different)) == 4


def test_an_idempotency_key_enters_no_event():
    """It decides nothing, and is the caller's text."""
    (item,) = parse_feedback({"request_id": "req_1", "value": 1, "idempotency_key": "planted"})

    assert b"planted" not in orjson.dumps(to_event(item, request_id="req_1"))


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
field_names = st.sampled_from(
    ["request_id", "id", "value", "score", "scale", "thumbs", "metric", "comment", "source"]
)


@given(json_values | st.lists(st.dictionaries(field_names, json_values, max_size=5), max_size=3))
def test_any_body_is_accepted_or_named_a_problem(doc):
    """Nothing else ever comes out."""
    try:
        items = parse_feedback(doc)
    except FeedbackProblem:
        return

    assert all(item.value - item.value == 0.0 for item in items)
