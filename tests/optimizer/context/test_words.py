"""Hashing words into buckets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.context.words import (
    BUCKETS,
    MOST_BUCKETS,
    MOST_BYTES,
    OFFSET,
    decode_sketch,
    encode_sketch,
    word_buckets,
)


def buckets(text):
    return word_buckets(text).tolist()


def by_hand(word):
    """The same hash, one byte after the other, with Python's own integers."""
    total = sum(byte * pow(0x85EBCA77, position, 2**32) for position, byte in enumerate(word)) % 2**32
    return total * 0x9E3779B1 % 2**32 >> 20


@given(st.lists(st.from_regex(r"[a-z]{1,12}", fullmatch=True), max_size=60))
def test_a_word_has_its_bucket_wherever_it_stands(words):
    """One running sum gives what hashing word by word gives."""
    expected = {by_hand(word.encode()) for word in words} - {OFFSET}

    assert buckets(" ".join(words)) == sorted(expected)


def test_the_hash_never_changes():
    """Sketches in the log and projections on disk depend on these numbers."""
    assert buckets("the quick brown fox") == GOLDEN


GOLDEN = [1078, 1460, 1870, 2072]


def test_case_punctuation_and_digits_do_not_matter():
    """A number is known by its length only."""
    assert buckets("Hello, WORLD!") == buckets("world hello")
    assert buckets("in 1989") == buckets("in 2024")
    assert buckets("in 1989") != buckets("in 19")


def test_scripts_without_spaces_have_words_too():
    """Ideographs and kana count one by one; accented letters belong to their word."""
    assert len(buckets("今日は")) == 3
    assert buckets("今日は") == buckets("は日今今")
    assert set(buckets("今a日")) == set(buckets("今 a 日"))
    assert len(buckets("déjà")) == 1
    assert len(buckets("한국어")) == 3


def test_no_words_have_no_buckets():
    """Empty or all signs: an empty sketch."""
    assert buckets("") == buckets(" \n ?! ") == []
    assert word_buckets("").dtype == np.uint16


@given(st.text(max_size=MOST_BYTES * 2))
def test_any_text_gives_a_sketch(text):
    """Distinct, rising, bounded, and never the reserved bucket."""
    found = word_buckets(text)

    assert len(found) <= MOST_BUCKETS
    assert (np.diff(found.astype(int)) > 0).all()
    assert OFFSET not in found
    assert (found < BUCKETS).all()
    assert (decode_sketch(encode_sketch(found)) == found).all()


def test_many_words_are_thinned_evenly():
    """Beyond the cap buckets are left out all over the range, the same ones every time."""
    text = " ".join(
        f"{first}{second}" for first in "abcdefghijklmnopqrst" for second in "abcdefghijklmnopqrst"
    )

    found = word_buckets(text)

    assert len(found) == MOST_BUCKETS
    assert found[-1] > BUCKETS * 0.95
    assert (found == word_buckets(text)).all()


@pytest.mark.parametrize("data", [b"\x01", b"\x00\x10", b"\x01\x00" * (MOST_BUCKETS + 1)])
def test_what_is_no_sketch_is_refused(data):
    """Half a number, a bucket that does not exist, too many of them."""
    with pytest.raises(ValueError, match="sketch"):
        decode_sketch(data)
