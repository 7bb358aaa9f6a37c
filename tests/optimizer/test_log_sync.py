"""Syncing what workers appended."""

import asyncio
import os

import pytest

from optimizer.log_sync import LogSyncer


def test_only_what_changed_is_synced(node):
    """A quiet log costs no sync."""
    node.request()
    syncer = LogSyncer([node.state.log_directory])

    assert [syncer.sync(), syncer.sync()] == [1, 0]
    node.request()
    assert [syncer.sync(), syncer.sync()] == [1, 0]
    assert syncer.errors == 0


def test_every_source_and_the_index_are_synced(node, make_node, tmp_path):
    """One level below each directory."""
    other = make_node()
    node.request()
    other.request()
    index = node.state.index_directory / "source"
    index.mkdir()
    (index / "0000.positions").write_bytes(b"12345678")
    (index / "other.file").write_bytes(b"")

    syncer = LogSyncer([node.state.log_directory, node.state.index_directory, tmp_path / "missing"])

    assert syncer.sync() == 3


def test_what_retention_took_is_forgotten(node):
    """A file that is gone is no error."""
    node.request()
    syncer = LogSyncer([node.state.log_directory])
    syncer.sync()

    for path in node.state.log_directory.rglob("*.jsonl"):
        path.unlink()

    assert syncer.sync() == 0
    assert syncer.errors == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_can_not_be_synced_is_counted_and_tried_again(tmp_path):
    """A pipe, for one, can not be synced."""
    (tmp_path / "source").mkdir()
    os.mkfifo(tmp_path / "source" / "00000001.jsonl")
    keep_open = os.open(tmp_path / "source" / "00000001.jsonl", os.O_RDWR)
    syncer = LogSyncer([tmp_path])

    assert [syncer.sync(), syncer.sync()] == [0, 0]

    os.close(keep_open)
    assert syncer.errors == 2


async def test_run_syncs_until_it_is_cancelled(node):
    """In a thread, beside whatever the loop does."""
    syncer = LogSyncer([node.state.log_directory])
    node.request()
    task = asyncio.create_task(syncer.run(0.001))
    async with asyncio.timeout(10):
        while not syncer.synced:
            await asyncio.sleep(0.001)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
