"""Replacing small files: all or nothing, in both orders."""

import os
from pathlib import Path

import pytest

from optimizer.durable import Order, replace_file


@pytest.mark.parametrize("order", ["fsync_first", "rename_first"])
def test_a_replaced_file_holds_the_new_bytes_only(tmp_path: Path, order: Order) -> None:
    """New content, private mode, nothing left beside it."""
    path = tmp_path / "file"
    path.write_bytes(b"a much longer old content")

    replace_file(path, b"new", order=order)

    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("order", ["fsync_first", "rename_first"])
def test_a_failed_replacement_leaves_the_old_file_alone(tmp_path: Path, order: Order) -> None:
    """When the rename is refused, no temporary stays behind."""
    path = tmp_path / "file"
    path.mkdir()

    with pytest.raises(OSError, match="file"):
        replace_file(path, b"new", order=order)

    assert os.listdir(tmp_path) == ["file"]
