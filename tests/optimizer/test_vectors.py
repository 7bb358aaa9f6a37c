"""Vectors as events carry them."""

from base64 import b64encode

import numpy as np
import pytest

from optimizer.vectors import InvalidVector, Revision, sketch_of, vector_of, vectors_of

X = np.array([1.0, 0.5], "<f4").tobytes()


def data(x=X, version="f1", **more):
    return {"context": {"version": version, "x": b64encode(x).decode()}, **more}


def test_a_logged_vector_is_read_as_it_was_written():
    """Its bytes, untouched; events without one have none."""
    assert vector_of(data()) == ("f1", X)
    assert vector_of({}) is None
    assert sketch_of({"sketch": b64encode(b"\x01\x02").decode()}) == b"\x01\x02"


@pytest.mark.parametrize(
    "context", ["x", 1, [], {}, {"version": 1, "x": "AAAA"}, {"version": "f", "x": None}]
)
def test_anything_else_is_no_vector(context):
    """It says so, with one error."""
    with pytest.raises(InvalidVector):
        vector_of({"context": context})


@pytest.mark.parametrize("size", [0, 1, 3, 6])
def test_a_vector_is_whole_numbers_of_four_bytes(size):
    """A torn one is none."""
    with pytest.raises(InvalidVector):
        vector_of(data(b"\x00" * size))


@pytest.mark.parametrize("sketch", [None, 5, "%", ["AAAA"], "A"])
def test_a_sketch_that_can_not_be_read_is_none(sketch):
    """The rest of the event counts."""
    assert sketch_of({"sketch": sketch}) is None


def test_a_revision_adds_the_vector_of_its_own_version():
    """Not to vectors that have it already, nor where it does not know how."""
    asked = []

    def revise(version, x, sketch):
        asked.append((version, x, sketch))
        return None if sketch is None else x + x

    revision = Revision("f2", revise)

    assert vectors_of(data(version="f2"), revision) == [("f2", X)]
    assert vectors_of(data(), None) == [("f1", X)]
    assert vectors_of({}, revision) == []
    assert asked == []
    assert vectors_of(data(), revision) == [("f1", X)]
    assert vectors_of(data(sketch="AQA="), revision) == [("f1", X), ("f2", X + X)]
    assert asked == [("f1", X, None), ("f1", X, b"\x01\x00")]


def test_a_revision_that_refuses_makes_the_vector_invalid():
    """A vector that its own version's makers do not recognise is none."""

    def revise(version, x, sketch):
        raise ValueError("too short")

    with pytest.raises(InvalidVector, match="too short"):
        vectors_of(data(), Revision("f2", revise))
