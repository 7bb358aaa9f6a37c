"""The guard file: fresh after a renewal, ageing with the clock, absent when in doubt."""

from math import inf
from pathlib import Path

import pytest

from optimizer.guard import age_s, renew


def test_age_counts_from_the_last_renewal(tmp_path: Path) -> None:
    """The age is the time since the newest renewal."""
    guard = tmp_path / "guard"

    renew(guard, now=1000.0)
    renew(guard, now=1010.0)

    assert age_s(guard, 1012.5) == pytest.approx(2.5)


def test_a_missing_guard_is_infinitely_old(tmp_path: Path) -> None:
    """Nobody ever guarded, so no lease can hold."""
    assert age_s(tmp_path / "guard", 1000.0) == inf


def test_a_clock_set_back_does_not_keep_a_dead_guard_alive(tmp_path: Path) -> None:
    """A time stamp from the future proves nothing; a rounded one is fresh."""
    guard = tmp_path / "guard"
    renew(guard, now=5000.0)

    assert age_s(guard, 1000.0) == inf
    assert age_s(guard, 4999.9) == 0.0


def test_renewing_uses_the_machines_clock_by_default(tmp_path: Path) -> None:
    """Without a time the file system's clock stamps, and the file is private."""
    guard = tmp_path / "guard"

    renew(guard)

    assert age_s(guard, guard.stat().st_mtime) == 0.0
    assert guard.stat().st_mode & 0o777 == 0o600


def test_renewing_where_nothing_can_be_written_is_an_error(tmp_path: Path) -> None:
    """The optimizer must know when its guard does not reach the workers."""
    with pytest.raises(OSError, match="guard"):
        renew(tmp_path / "missing" / "guard")
