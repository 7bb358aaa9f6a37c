"""Contextual decisions in words: what was seen, how the arms were weighed, where the draw fell, what is kept."""

from base64 import b64encode
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from optimizer.context.features import feature_names, features_of
from optimizer.routing import Arm, ClientFeature, Route, RoutingTable, Selector, Side
from optimizer.selector_file import write
from optimizer.settings import ContextSettings
from optimizer.steering import Kept, Steering
from policies.contextual import ContextualSelector, Index
from proxy.control.admin.explanation import explain
from proxy.control.admin.models_live import ContextualAnswer
from proxy.control.admin.sight import constraint_words, look_at, sentences

FEATURES = features_of(ContextSettings(client=(ClientFeature("tier", "header", "x-tier", ("free", "paid")),)))
SIZE = FEATURES.size
NAMES = feature_names(FEATURES)


def make_index(*, given=0.02):
    """The dear arm is worth more, above all for whoever pays."""
    value, cost = np.zeros((2, SIZE)), np.zeros((2, SIZE))
    value[:, 0], value[1, -1] = (0.7, 0.72), 0.1
    cost[:, 0] = np.log([0.001, 0.01])
    return Index(
        value=value,
        charges=(cost + np.log(5.0) * np.eye(1, SIZE))[None],
        spread=np.zeros((2, SIZE, SIZE)),
        noise=np.full(2, 4e-4),
        given=np.full(2, given),
        drawn=np.ones(2, dtype=np.bool_),
        cost=cost,
    )


def table_with(features=FEATURES) -> RoutingTable:
    arms = tuple(Arm(name, name, "default", name, "identity") for name in ("small", "large"))
    side = Side(arms, Selector("sel-now", "thompson", (0.5, 0.5), "sel-now"), "large")
    return RoutingTable(1, 0.0, "c", (), (), (), (Route("chat", side, features=features),))


def drawn(index, u=0.5, blob="sel-gone", **features: float) -> dict[str, Any]:
    """The event data of a decision with these features set."""
    x = np.zeros(SIZE, dtype="<f4")
    x[0] = 1.0
    for name, value in features.items():
        x[NAMES.index(name)] = value
    arm, vector = ContextualSelector("abc", index).choose(u, 3, x)
    return {
        "route": "chat", "requested_model": "chat", "arms": ["small", "large"], "arm": ["small", "large"][arm],
        "probabilities": list(vector), "propensity": vector[arm], "draw": u, "selector": blob, "reason": "bandit",
        "policy": "thompson", "context": {"version": FEATURES.version, "x": b64encode(x.tobytes()).decode()},
    }  # fmt: skip


def told(data, table, directory) -> str:
    sight = look_at(data, table, directory)
    assert sight is not None
    return "\n".join(sentences(sight, data["arm"]))


def test_a_decision_is_told_with_features_scores_and_draw(tmp_path):
    """Features by name, the greatest first; arms by score, with what they are charged and would cost."""
    name = write(tmp_path, make_index())
    data = drawn(make_index(), 0.97, name, task_code=1.0, length=0.4, question_mark=0.001)
    text = told(data, table_with(), tmp_path)

    assert "task_code 1.00, length 0.40." in text
    assert "question_mark" not in text
    assert "large 0.670 ± 0.020 (worth 0.720, charged 0.050, predicted cost 0.010000 USD)" in text
    assert text.index("small 0.695") < text.index("large 0.670")
    assert "so much is for exploring: small 2.0%, large 2.0%" in text
    assert "The draw was 0.9700, and 'large' has the stretch from 0." in text
    assert "to 1.0000" in text
    assert "Computed again" not in text


def test_the_words_of_the_caller_have_their_names(tmp_path):
    name = write(tmp_path, make_index(given=0.0))
    data = drawn(make_index(given=0.0), blob=name, **{"tier=paid": 1.0})
    text = told(data, table_with(), tmp_path)

    assert "tier=paid 1.00" in text
    assert "exploring" not in text
    assert "large 0.770" in text


def test_a_policy_that_is_gone_is_said_to_be_gone(tmp_path):
    """The features and the draw were logged, so they are told all the same."""
    text = told(drawn(make_index(), task_math=1.0), table_with(), tmp_path)

    assert "task_math 1.00" in text
    assert "(sel-gone) is no longer kept" in text
    assert "The draw was 0.5000." in text


def test_no_selector_names_a_file_elsewhere(tmp_path):
    """An event is data; its words are not paths."""
    (tmp_path / "inner").mkdir()
    data = drawn(make_index()) | {"selector": "/../../" + write(tmp_path, make_index())}
    sight = look_at(data, None, tmp_path / "inner")
    assert sight.scores is None


def test_features_of_another_version_have_numbers(tmp_path):
    """What they meant nobody knows here."""
    other = replace(FEATURES, version="0-old")
    text = told(drawn(make_index(), task_code=1.0), table_with(other), tmp_path)
    assert "task_code" not in text
    assert f"x{NAMES.index('task_code')} 1.00" in text


def test_a_different_answer_is_admitted(tmp_path):
    """What was logged is what was drawn from."""
    name = write(tmp_path, make_index())
    data = drawn(make_index(), blob=name) | {"probabilities": [0.5, 0.5]}
    assert "Computed again the probabilities differ" in told(data, table_with(), tmp_path)


def test_what_was_not_drawn_has_features_alone(tmp_path):
    data = drawn(make_index(), task_code=1.0) | {"draw": None, "reason": "pinned"}
    text = told(data, table_with(), tmp_path)
    assert text.count("\n") == 0
    assert look_at({"route": "chat"}, table_with(), tmp_path) is None


def test_the_document_is_as_described(tmp_path):
    """With and without scores."""
    name = write(tmp_path, make_index())
    for kept in (name, "sel-gone"):
        document = look_at(drawn(make_index(), blob=kept), table_with(), tmp_path).document()
        assert ContextualAnswer.model_validate(orjson.loads(orjson.dumps(document)))
        assert (document["arms"] is None) == (kept == "sel-gone")


def test_it_stands_where_the_decision_was_made():
    data = drawn(make_index())
    text = explain(data, ["SEEN."])
    assert (
        text.index("SEEN.") == next(at for at, words in enumerate(text) if words.startswith("It fell on")) + 1
    )
    assert any("had learned for requests like this one" in words for words in text)


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (
            Kept("cost", 0.001, 0.001, 0.0012, 310.0, feasible=True),
            "at most 0.001000 USD a request (now 0.001200 USD a request, multiplier 310)",
        ),
        (
            Kept("quality", 0.9, 0.91, None, 0.0, feasible=True),
            "at least a quality of 0.900 (nothing observed yet, not binding)",
        ),
        (
            Kept("late", 0.05, 0.08, 0.1, 1000.0, feasible=False),
            "it can not be kept with what else is asked: the nearest is 8.0% late replies",
        ),
    ],
)
def test_constraints_in_words(kept, words):
    assert words in constraint_words(Steering((kept,)))[0]
