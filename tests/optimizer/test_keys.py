"""Client keys: how they look, what is kept, and the file that workers read."""

import contextlib
import hashlib
import hmac
import os
import subprocess
import sys
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.ids import RequestIds, verify
from optimizer.keys import (
    PREFIX,
    ClientKey,
    KeyFileRefused,
    decode_keys,
    digest_of,
    encode_keys,
    new_id,
    new_key,
    well_formed,
)
from optimizer.log.node import StateDirectory, StateDirectoryError
from optimizer.routing import Quota

PEPPER = b"p" * 32
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def key(text: str = "", **changes) -> ClientKey:
    text = text or new_key()
    base = ClientKey(
        id=new_id(), name="ci", digest=digest_of(text, PEPPER), last4=text[-4:], created_at=1_795_000_000.5
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def texts():
    return [new_key() for _ in range(200)]


def test_a_new_key_is_long_random_and_recognisable(texts):
    """54 characters: prefix, 43 of 32 random bytes, 6 of checksum; no two alike."""
    assert all(len(text) == 54 and text.startswith(PREFIX) and well_formed(text) for text in texts)
    assert len({text[5:48] for text in texts}) == len(texts)
    assert {character for text in texts for character in text[5:]} <= set(ALPHABET)


@given(st.integers(0, 199), st.integers(0, 53), st.sampled_from(ALPHABET + " \n.=é\0"))
def test_one_wrong_character_is_noticed_without_a_look_up(texts, number, place, character):
    """Typing errors never reach the keys."""
    text = texts[number]
    wrong = text[:place] + character + text[place + 1 :]

    assert well_formed(wrong) == (wrong == text)


@given(st.integers(0, 199), st.integers(0, 52))
def test_swapped_neighbours_and_cut_ends_are_noticed(texts, number, place):
    """The usual accidents of copying."""
    text = texts[number]
    swapped = text[:place] + text[place + 1] + text[place] + text[place + 2 :]

    assert well_formed(swapped) == (swapped == text)
    assert not well_formed(text[:place])
    assert not well_formed(text + text[place])


@given(st.text() | st.text(ALPHABET, min_size=49, max_size=49).map(PREFIX.__add__))
def test_no_other_text_is_a_key(text):
    """Whatever it is made of, nothing is raised and nothing passes (but by 1 in 2**36)."""
    assert not well_formed(text)


def test_the_digest_depends_on_the_pepper_and_on_what_it_is_for(tmp_path):
    """A plain HMAC of the same key by the same pepper is another; so are the keys of request ids."""
    text = new_key()
    state = StateDirectory(tmp_path / "state")

    assert digest_of(text, PEPPER) == digest_of(text, PEPPER)
    assert digest_of(text, PEPPER) != digest_of(text, b"q" * 32)
    assert digest_of(text, PEPPER) != hmac.digest(PEPPER, text.encode(), "sha256").hex()
    assert state.key_pepper not in (state.id_key, state.worker_token.encode())
    assert StateDirectory(tmp_path / "state").key_pepper == state.key_pepper
    assert (state.key_pepper_file.stat().st_mode & 0o777, len(state.key_pepper)) == (0o600, 32)


def test_a_damaged_pepper_is_refused_and_not_replaced(tmp_path):
    """A new one would silently end every key."""
    state = StateDirectory(tmp_path / "state")
    state.key_pepper_file.write_bytes(b"short")

    with pytest.raises(StateDirectoryError, match=r"keys\.pepper must hold 32 bytes"):
        _ = StateDirectory(tmp_path / "state").key_pepper


def test_the_tag_goes_into_request_ids_and_comes_out_again():
    """32 bits, never 0, of the id alone."""
    found = [key() for _ in range(50)]

    assert all(0 < one.tag < 2**32 for one in found)
    assert len({one.tag for one in found}) == 50
    minted = RequestIds(node=1, incarnation=1, key=b"k" * 32).mint(5, found[0].tag)
    assert verify(minted, b"k" * 32).key_tag == found[0].tag
    assert found[0].id.removeprefix("key_")[:8] not in minted


def test_a_key_shown_in_an_error_shows_no_digest():
    """Even the hash is not for logs."""
    one = key()

    assert one.digest not in repr(one)
    assert one.digest not in str([one])


def test_what_is_written_is_read_back():
    """Every field; the text of no key is in it."""
    text = new_key()
    keys = [
        key(text),
        key(expires_at=1.5, revoked_at=2.5, routes=("a", "b*"), models=("*",), pin=True, passthrough=True),
        key(quota=Quota(requests_per_minute=5, usd_per_month=1.5), name="ünï"),
    ]

    data = encode_keys(keys)

    assert [row.key for row in decode_keys(data).values()] == keys
    assert text.encode() not in data
    assert decode_keys(encode_keys([])) == {}


def test_keys_that_did_not_change_are_not_built_again():
    """A change of one costs little, however many there are."""
    first, second = key(), key()
    before = decode_keys(encode_keys([first, second]))

    after = decode_keys(encode_keys([first, replace(second, revoked_at=9.0)]), before)

    assert after[first.digest].key is before[first.digest].key
    assert after[second.digest].key.revoked_at == 9.0


def _mend(data: bytes, **changes) -> bytes:
    """The file with another first row, and a checksum that agrees."""
    rows = orjson.loads(data.split(b"\n")[1])
    rows[0].update(changes)
    mended = encode_keys([]).split(b"\n")[0]
    body = orjson.dumps(rows)
    header = orjson.loads(mended) | {"checksum": hashlib.blake2b(body, digest_size=16).hexdigest()}
    return b"%b\n%b\n" % (orjson.dumps(header), body)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda data: b"", "truncated"),
        (lambda data: data[:-1], "truncated"),
        (lambda data: data + b"x", "truncated"),
        (lambda data: b"{}\n" + data.split(b"\n")[1] + b"\n", "format"),
        (lambda data: b"[" + data, "format"),
        (lambda data: data.replace(b'"format":1', b'"format":2'), "format"),
        (lambda data: data.replace(b'"ci"', b'"cj"'), "checksum"),
        (lambda data: _mend(data, digest="00"), "invalid"),
        (lambda data: _mend(data, digest=None), "invalid"),
        (lambda data: _mend(data, routes=None), "invalid"),
        (lambda data: _mend(data, quota=5), "invalid"),
        (lambda data: _mend(data, expires_at="soon"), "invalid"),
    ],
)
def test_a_bad_file_is_refused_with_a_reason_that_quotes_nothing(harm, reason):
    """Nothing half-read."""
    one = key()
    with pytest.raises(KeyFileRefused) as caught:
        decode_keys(harm(encode_keys([one])))

    assert str(caught.value) == caught.value.reason == reason
    assert one.digest not in repr(caught.value.__cause__)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    """Never anything else."""
    with contextlib.suppress(KeyFileRefused):
        assert decode_keys(data) == {}


def test_what_a_later_version_adds_is_ignored():
    """An older worker goes on."""
    one = key()

    (row,) = decode_keys(_mend(encode_keys([one]), colour="red")).values()

    assert row.key == one


def test_importing_keys_costs_a_worker_nothing_heavy():
    """Workers import this module."""
    program = "import sys, optimizer.keys; print('sqlite3' in sys.modules or 'pydantic' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert found.stdout.strip() == "False"
