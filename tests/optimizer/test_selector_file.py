"""Blobs: what is read is what was written, or is refused; the sweep keeps what somebody needs."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optimizer import selector_file
from optimizer.selector_file import BlobRefused
from policies.contextual import ContextualSelector, Index

GOLDEN_NAME = "sel-44eda40aad86e7f807479438"
GOLDEN_ARM = 0
GOLDEN_VECTOR = [0.95898, 0.02102, 0.0, 0.02]


def _index(seed: int = 0, arms: int = 4, size: int = 5, cap: float = float("inf")) -> Index:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(arms, size, size))
    return Index(
        value=rng.normal(size=(arms, size)),
        charges=rng.normal(size=(1, arms, size)) - 3.0,
        spread=np.einsum("kij,klj->kil", root, root) * 0.01,
        noise=np.full(arms, 1e-3),
        given=np.full(arms, 0.02),
        drawn=np.array([True, True, True, False]),
        cost=rng.normal(size=(arms, size)),
        max_request_usd=cap,
    )


@pytest.mark.parametrize("cap", [float("inf"), 0.25])
def test_an_index_comes_back(tmp_path: Path, cap: float) -> None:
    """In float32, read-only, and decisions are the same up to rounding."""
    index = _index(cap=cap)

    name = selector_file.write(tmp_path, index)
    read = selector_file.load(tmp_path / name)

    x = np.array([1.0, 0.3, -0.2, 0.5, 0.1], dtype=np.float32)
    assert read.value.dtype == np.float32
    assert not read.spread.flags.writeable
    assert read.max_request_usd == cap
    assert read.drawn.tolist() == [True, True, True, False]
    assert np.allclose(read.shares(x), index.shares(x.astype(np.float64)), atol=1e-4)


def test_the_golden_decision(tmp_path: Path) -> None:
    """One blob, one x, one eligible set, one draw: one arm and one vector, today and in a year."""
    name = selector_file.write(tmp_path, _index(7))
    selector = ContextualSelector("s", selector_file.load(tmp_path / name))
    x = np.array([1.0, -0.4, 0.9, 0.2, -0.7], dtype=np.float32)

    first = selector.choose(0.37, 0b1011, x)
    again = ContextualSelector("s", selector_file.load(tmp_path / name)).choose(0.37, 0b1011, x)

    assert first == again
    assert first[1] == pytest.approx(GOLDEN_VECTOR, abs=1e-4)
    assert first[0] == GOLDEN_ARM
    assert name == GOLDEN_NAME


def test_the_name_is_the_content(tmp_path: Path) -> None:
    """Writing the same twice leaves one file, younger; another index has another name; nobody else may read it."""
    name = selector_file.write(tmp_path, _index(1))
    os.utime(tmp_path / name, (1.0, 1.0))

    assert selector_file.write(tmp_path, _index(1)) == name
    other = selector_file.write(tmp_path, _index(2))

    assert other != name
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted((name, other))
    assert (tmp_path / name).stat().st_mtime > 1.0
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_damaged_file_is_written_again(tmp_path: Path) -> None:
    """What a crash left under the name does not stay."""
    name = selector_file.write(tmp_path, _index())
    (tmp_path / name).write_bytes(b"")

    assert selector_file.write(tmp_path, _index()) == name
    assert selector_file.load(tmp_path / name).n_arms == 4


def test_every_damage_is_refused(tmp_path: Path) -> None:
    """A missing, empty, cut, changed or renamed file is refused with its reason, and no byte can change unnoticed."""
    name = selector_file.write(tmp_path, _index())
    path = tmp_path / name
    good = path.read_bytes()

    def refusal() -> str:
        with pytest.raises(BlobRefused) as refused:
            selector_file.load(path)
        return refused.value.reason

    for place in range(0, len(good), 37):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        assert refusal() == "checksum"
    path.write_bytes(good[:-4])
    assert refusal() == "checksum"
    path.write_bytes(b"")
    assert refusal() == "format"
    path.unlink()
    assert refusal() == "missing"


def test_a_file_of_another_kind_or_with_no_numbers_is_refused(tmp_path: Path) -> None:
    """Good bytes that are no usable index: a projection under its own name, and an index with a NaN."""
    projection = selector_file.write_projection(tmp_path, np.ones((8, 2)))
    broken = _index()
    broken.value[0, 0] = np.nan
    name = selector_file.write(tmp_path, broken)

    with pytest.raises(BlobRefused, match="checksum"):
        selector_file.load(tmp_path / projection)  # it is named after another kind
    with pytest.raises(BlobRefused, match="not finite"):
        selector_file.load(tmp_path / name)


@pytest.mark.parametrize("broken", ["huge", "negative share", "shares", "variance"])
def test_numbers_that_no_decision_can_be_made_of_are_refused(tmp_path: Path, broken: str) -> None:
    """What would overflow, or make a probability negative, is refused as a whole and not met by a request."""
    index = _index()
    if broken == "huge":
        index.value[0, 0] = 3e38
    elif broken == "negative share":
        index.given[1] = -0.01
    elif broken == "shares":
        index.given[:] = 0.26
    else:
        index.noise[2] = -1e-3
    name = selector_file.write(tmp_path, index)

    with pytest.raises(BlobRefused, match="invalid"):
        selector_file.load(tmp_path / name)


def test_a_cap_that_is_none_is_refused(tmp_path: Path) -> None:
    """Nothing can be predicted to cost less than nothing."""
    name = selector_file.write(tmp_path, _index(cap=0.0))

    with pytest.raises(BlobRefused, match="a cap of"):
        selector_file.load(tmp_path / name)


def test_a_file_beyond_all_bounds_is_not_even_read(tmp_path: Path) -> None:
    """It is refused by its size."""
    path = tmp_path / "sel-000000000000000000000000"
    with path.open("wb") as file:
        file.truncate(1024**3)

    with pytest.raises(BlobRefused) as refused:
        selector_file.load(path)

    assert refused.value.reason == "too_large"


def test_shares_that_round_to_more_than_everything(tmp_path: Path) -> None:
    """Given shares that sum to 1 leave nothing negative for arms that are given none."""
    index = replace(_index(), given=np.array([0.1, 0.2, 0.7, 0.0]), drawn=np.ones(4, dtype=np.bool_))
    selector = ContextualSelector("s", selector_file.load(tmp_path / selector_file.write(tmp_path, index)))

    _, vector = selector.choose(0.999, 0b1111, np.ones(5, dtype=np.float32))

    assert min(vector) >= 0.0
    assert vector[:3] == pytest.approx([0.1, 0.2, 0.7], abs=1e-6)


def test_a_projection_comes_back(tmp_path: Path) -> None:
    """Rows in float32, under a name of their own."""
    rows = np.random.default_rng(0).normal(size=(4096, 3))

    name = selector_file.write_projection(tmp_path, rows)

    assert name.startswith("prj-")
    assert np.array_equal(selector_file.load_projection(tmp_path / name), rows.astype(np.float32))


def test_the_sweep(tmp_path: Path) -> None:
    """The newest tables' blobs stay whatever their age and size; others go by age, then the oldest by size."""
    names = [selector_file.write(tmp_path, _index(seed)) for seed in range(6)]
    for age, name in enumerate(names):
        os.utime(tmp_path / name, (10_000.0 - 1000 * age, 10_000.0 - 1000 * age))
    size = (tmp_path / names[0]).stat().st_size

    old = selector_file.sweep(tmp_path, {names[5]}, now=10_100.0, age_s=3500.0)
    crowded = selector_file.sweep(tmp_path, {names[5]}, now=10_100.0, bytes_cap=3 * size)
    young = selector_file.sweep(tmp_path, set(), now=10_030.0, bytes_cap=0)

    assert old == [names[4]]
    assert crowded == [names[3], names[2]]
    assert young == [names[5], names[1]]  # what was written a moment ago is about to be named
    assert [entry.name for entry in tmp_path.iterdir()] == [names[0]]
