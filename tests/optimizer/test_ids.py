"""Request ids: what is minted is read back, ordered and unique; everything else is turned away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.ids import RequestId, RequestIds, verify

KEY = bytes(range(32))
u32 = st.integers(0, 2**32 - 1)
u48 = st.integers(0, 2**48 - 1)


def minted(now_ms: int = 1_790_000_000_000, key_tag: int = 7) -> str:
    return RequestIds(node=3, incarnation=4, key=KEY).mint(now_ms, key_tag)


@given(node=u32, incarnation=u32, now_ms=u48, key_tag=u32, key=st.binary(min_size=16, max_size=64))
def test_an_id_says_what_was_minted(
    node: int, incarnation: int, now_ms: int, key_tag: int, key: bytes
) -> None:
    """Every field comes back, and the sequence counts from zero."""
    ids = RequestIds(node=node, incarnation=incarnation, key=key)

    texts = [ids.mint(now_ms, key_tag) for _ in range(3)]

    read = [verify(text, key) for text in texts]
    assert read == [RequestId(now_ms, node, incarnation, sequence, key_tag) for sequence in range(3)]
    assert ids.last_sequence == 2


@given(times=st.lists(u48, min_size=2, max_size=20))
def test_text_order_is_time_order(times: list[int]) -> None:
    """Sorting ids of one process as text sorts them by time, then by order of minting."""
    ids = RequestIds(node=1, incarnation=2, key=KEY)

    texts = [ids.mint(now_ms) for now_ms in times]

    by_time = sorted(range(len(times)), key=lambda i: (times[i], i))
    assert sorted(texts) == [texts[i] for i in by_time]
    assert len(set(texts)) == len(texts)


def test_an_id_has_its_fixed_shape() -> None:
    """``req_`` and 60 lower-case hex digits, whatever the numbers."""
    text = minted(now_ms=1)

    assert len(text) == 64
    assert text.startswith("req_000000000001" + "00000003" + "00000004" + "00000000" + "00000007")


@given(position=st.integers(0, 63), character=st.sampled_from("0123456789abcdefABCDEF_xZé "))
def test_no_changed_character_is_accepted(position: int, character: str) -> None:
    """A single altered character, in any place, makes the id worthless."""
    text = minted()

    forged = text[:position] + character + text[position + 1 :]

    assert forged == text or verify(forged, KEY) is None


@given(
    text=st.text(max_size=100)
    | st.text(alphabet="0123456789abcdef", min_size=60, max_size=60).map("req_".__add__)
)
def test_nothing_made_up_is_accepted(text: str) -> None:
    """Arbitrary text is no id and never raises."""
    assert verify(text, KEY) is None


@given(key=st.binary(min_size=32, max_size=32).filter(lambda key: key != KEY))
def test_another_nodes_id_is_foreign(key: bytes) -> None:
    """An id that was minted with another key is refused."""
    assert verify(minted(), key) is None


def test_only_the_canonical_spelling_counts() -> None:
    """Upper case, surrounding space and non-ASCII digits are refused, so that one request has one id."""
    text = minted()

    spellings = [
        text.upper(),
        "req_" + text[4:].upper(),
        text + " ",
        " " + text,
        text[:-1] + "\N{FULLWIDTH DIGIT ONE}",
    ]

    assert [verify(spelling, KEY) for spelling in spellings] == [None] * len(spellings)


def test_numbers_that_do_not_fit_are_cut_off_not_fatal() -> None:
    """Minting never fails for a strange clock or tag."""
    ids = RequestIds(node=1, incarnation=1, key=KEY)

    read = [verify(ids.mint(2**48 + 5, 2**32 + 6), KEY), verify(ids.mint(-1, -1), KEY)]

    assert read == [RequestId(5, 1, 1, 0, 6), RequestId(2**48 - 1, 1, 1, 1, 2**32 - 1)]


def test_bad_parameters_are_named() -> None:
    """A node beyond 32 bits or a short key is a mistake of ours and is told."""
    with pytest.raises(ValueError, match="node"):
        RequestIds(node=2**32, incarnation=1, key=KEY)
    with pytest.raises(ValueError, match="incarnation"):
        RequestIds(node=1, incarnation=-1, key=KEY)
    with pytest.raises(ValueError, match="key"):
        RequestIds(node=1, incarnation=1, key=b"short")
