"""Feature sets, their versions, and vectors of whole requests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.context.features import ProjectionInfo, feature_names, features_of
from optimizer.context.projection import lexical
from optimizer.context.structure import BUILT_IN
from optimizer.context.vector import compile_features, read_context, reviser, vectorise
from optimizer.context.words import BUCKETS, decode_sketch, word_buckets
from optimizer.routing import ClientFeature
from optimizer.settings import ContextSettings

TIER = ClientFeature("tier", "header", "X-Tier", values=("gold", "free"))
AGE = ClientFeature("age", "metadata", "age", low=10.0, high=30.0)
FLAG = ClientFeature("flag", "metadata", "flag", values=("true", "7"))
BOTH = ContextSettings(client=(TIER, AGE, FLAG))
WORDS = ContextSettings(lexical=True)
TEXT = "Why does the moon cause tides?"


def matrix(size=4, seed=0):
    return np.random.default_rng(seed).normal(size=(BUCKETS, size)).astype(np.float32)


def read(context, *, headers=None, **metadata):
    features = features_of(context)
    doc = {"messages": [{"role": "user", "content": TEXT}], "metadata": metadata}
    x = read_context(doc, "chat", compile_features(features), headers=headers or {}).x
    assert x.dtype == np.float32
    return dict(zip(feature_names(features), x.tolist(), strict=True))


def test_names_follow_the_vector():
    """Built-in, then the client's, then the lexical ones; the size is their number."""
    features = features_of(ContextSettings(client=(TIER, AGE), lexical=True), ProjectionInfo("prj-1", 2))

    names = feature_names(features)

    assert names == [*BUILT_IN, "tier=gold", "tier=free", "age", "words_1", "words_2"]
    assert features.size == len(names)
    assert features.projection == "prj-1"


def test_the_version_changes_with_the_meaning_and_only_then():
    """Letting words count means nothing before there is a projection."""
    plain = features_of(ContextSettings())
    versions = [
        plain.version,
        features_of(BOTH).version,
        features_of(ContextSettings(client=(AGE, TIER, FLAG))).version,
        features_of(
            ContextSettings(client=(ClientFeature("age", "metadata", "age", low=0.0, high=30.0),))
        ).version,
        features_of(WORDS, ProjectionInfo("prj-1", 2)).version,
        features_of(WORDS, ProjectionInfo("prj-2", 2)).version,
    ]

    assert len(set(versions)) == len(versions)
    assert features_of(WORDS).version == plain.version
    assert features_of(ContextSettings(), ProjectionInfo("prj-1", 2)) == plain
    assert features_of(BOTH) == features_of(BOTH)


def test_two_features_of_one_name():
    """Names are how people read a vector."""
    with pytest.raises(ValueError, match="distinct"):
        features_of(ContextSettings(client=(AGE, AGE)))


def test_what_the_client_says():
    """A word sets its entry, a number is scaled around the middle of its range, header names have no case."""
    found = read(BOTH, headers={b"x-tier": b" gold "}, age=25, flag=True)

    assert (found["tier=gold"], found["tier=free"]) == (1.0, 0.0)
    assert found["age"] == 0.5
    assert (found["flag=true"], found["flag=7"]) == (1.0, 0.0)
    assert read(BOTH, flag=7)["flag=7"] == 1.0
    assert read(BOTH, age="12")["age"] == pytest.approx(-0.8)
    assert read(BOTH, age=10**30)["age"] == 1.0


@pytest.mark.parametrize("age", [None, "old", "nan", float("inf"), [], {}, "", "9" * 1000])
def test_what_is_no_number_is_the_middle(age):
    """Like saying nothing; nothing raises."""
    assert read(BOTH, age=age)["age"] in (0.0, 1.0 if age == "9" * 1000 else 0.0)


@given(st.binary(), st.text() | st.integers() | st.floats() | st.none())
def test_clients_can_not_break_it(header, value):
    """Whatever is sent, client features stay within -1..1."""
    found = read(BOTH, headers={b"x-tier": header}, age=value, flag=value)

    assert all(
        -1.0 <= found[name] <= 1.0 for name in ("tier=gold", "tier=free", "age", "flag=true", "flag=7")
    )


def test_words_count_from_the_first_projection_on():
    """Before, their hashes are collected; then they are the last features."""
    before = vectorise(TEXT, compile_features(features_of(WORDS)))
    rows = matrix()
    after = vectorise(TEXT, compile_features(features_of(WORDS, ProjectionInfo("prj-1", 4)), rows))

    assert before.x.shape == (len(BUILT_IN),)
    assert before.sketch == after.sketch
    assert (decode_sketch(before.sketch) == word_buckets(TEXT)).all()
    assert (after.x[: len(BUILT_IN)] == before.x).all()
    assert (after.x[len(BUILT_IN) :] == lexical(word_buckets(TEXT), rows)).all()
    assert vectorise(TEXT, compile_features(features_of(ContextSettings()))).sketch is None


def raw(context):
    return context.x.astype("<f4").tobytes()


def test_the_log_is_enough_to_project_again():
    """A logged vector and sketch give exactly the vector that the new projection would have given."""
    context = ContextSettings(client=(AGE,), lexical=True)
    old = compile_features(features_of(context, ProjectionInfo("prj-1", 4)), matrix(4))
    new = compile_features(features_of(context, ProjectionInfo("prj-2", 6)), matrix(6, seed=1))
    none = compile_features(features_of(context))
    logged = vectorise(TEXT, old, {"age": 20})

    for plan in (new, none):
        again = reviser(plan)(old.features.version, raw(logged), logged.sketch)
        assert again == raw(vectorise(TEXT, plan, {"age": 20}))


def test_requests_from_before_words_counted_still_teach():
    """Their lexical features are the middle; the rest stays."""
    plain = compile_features(features_of(ContextSettings()))
    plan = compile_features(features_of(WORDS, ProjectionInfo("prj-1", 4)), matrix(4))
    logged = vectorise(TEXT, plain)

    again = reviser(plan)(plain.features.version, raw(logged), None)

    assert again == raw(logged) + bytes(16)


def test_vectors_of_other_features_are_not_revised():
    """Other client features, another release: nothing can be said. Damage raises."""
    plan = compile_features(features_of(WORDS, ProjectionInfo("prj-1", 4)), matrix(4))
    revise = reviser(plan)
    logged = vectorise(TEXT, plan)

    assert revise(features_of(BOTH).version, raw(logged), logged.sketch) is None
    assert revise("0-abc", raw(logged), logged.sketch) is None
    with pytest.raises(ValueError, match="no vector"):
        revise(plan.features.version, raw(logged)[:8], logged.sketch)
    with pytest.raises(ValueError, match="sketch"):
        revise(plan.features.version, raw(logged), b"\x01")


def test_a_projection_that_does_not_belong():
    """Missing, of a wrong size or shape, or features of another release: refused when the table is compiled."""
    features = features_of(WORDS, ProjectionInfo("prj-1", 4))

    with pytest.raises(ValueError, match="need the projection prj-1"):
        compile_features(features)
    with pytest.raises(ValueError, match="entries"):
        compile_features(features, matrix(5))
    with pytest.raises(ValueError, match="shape"):
        compile_features(features, matrix(4)[:100])
    with pytest.raises(ValueError, match="entries"):
        compile_features(type(features)(version="0-x", size=3))
