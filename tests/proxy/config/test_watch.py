"""The watcher against what really happens to files: renames, link swaps, rewrites, vanishing."""

import asyncio
import contextlib
import os
import time

import pytest

from proxy.config.load import load
from proxy.config.watch import content_hash, watch

# Generous for a busy machine; a blind watcher would need the poll, which these tests set to a minute.
DEADLINE_S = 8.0


class Seen:
    """Collects hashes and lets a test wait for the next one."""

    def __init__(self):
        self.hashes = []
        self.arrived = asyncio.Event()

    async def changed(self, content):
        self.hashes.append(content)
        self.arrived.set()

    async def next(self):
        async with asyncio.timeout(DEADLINE_S):
            await self.arrived.wait()
        self.arrived.clear()
        return self.hashes[-1]


@contextlib.asynccontextmanager
async def watching(path, **options):
    """A running watcher that has seen the present content and set up its notifications."""
    seen = Seen()
    task = asyncio.create_task(watch(path, seen.changed, **{"poll_s": 60.0, **options}))
    try:
        # The watch exists once a first change is seen; a file of its own would need another directory.
        original = path.read_bytes()
        marker = 0
        async with asyncio.timeout(DEADLINE_S):
            while not seen.hashes:
                marker += 1
                path.write_bytes(original + b"\n# %d" % marker)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(seen.arrived.wait(), 0.3)
        while seen.hashes[-1] != content_hash(path):
            await seen.next()
        seen.arrived.clear()
        seen.hashes.clear()
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def replace(path, text):
    """As editors do: write beside, rename over."""
    other = path.with_name(path.name + ".tmp")
    other.write_text(text)
    other.replace(path)


async def test_renames_are_seen_again_and_again(tmp_path):
    """A watch on the file itself would go blind after the first."""
    path = tmp_path / "config.yaml"
    path.write_text("server: {port: 1}")

    async with watching(path) as seen:
        for port in (2, 3, 4):
            replace(path, f"server: {{port: {port}}}")
            assert await seen.next() == load(path, {}).content_hash


async def test_rewrites_in_place_are_seen(tmp_path):
    """Truncate and write, as a shell does."""
    path = tmp_path / "config.yaml"
    path.write_text("server: {port: 1}")

    async with watching(path) as seen:
        path.write_text("server: {port: 2}")
        assert await seen.next() == content_hash(path)


async def test_a_file_that_is_empty_for_a_moment_is_not_acted_upon(tmp_path):
    """Whoever rewrites a file in place empties it first, and may be slow to go on."""
    path = tmp_path / "config.yaml"
    path.write_text("a: 1")
    async with watching(path) as seen:
        path.write_text("")
        await asyncio.sleep(0.4)
        path.write_text("a: 2")
        assert await seen.next() == content_hash(path)


async def test_kubernetes_link_swaps_are_seen_again_and_again(tmp_path):
    """A config map is a link to `..data`, which is a link that is swapped."""

    def publish(number):
        directory = tmp_path / f"..version_{number}"
        directory.mkdir()
        (directory / "config.yaml").write_text(f"server: {{port: {number}}}")
        (tmp_path / "..data_tmp").symlink_to(directory.name)
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")

    publish(1)
    path = tmp_path / "config.yaml"
    path.symlink_to("..data/config.yaml")

    async with watching(path) as seen:
        for number in (2, 3, 4):
            publish(number)
            old = tmp_path / f"..version_{number - 1}"
            (old / "config.yaml").unlink()
            old.rmdir()
            assert await seen.next() == content_hash(path)
            assert load(path, {}).listen.port == number


async def test_touching_and_neighbours_are_no_change(tmp_path):
    """Only the content counts."""
    path = tmp_path / "config.yaml"
    path.write_text("server: {port: 1}")

    async with watching(path) as seen:
        same = path.read_text()
        path.touch()
        replace(path, same)
        (tmp_path / "other.yaml").write_text("x")
        replace(path, "server: {port: 5}")
        await seen.next()

    assert seen.hashes == [content_hash(path)]


async def test_a_vanished_file_is_no_change_and_its_return_is(tmp_path):
    """Between remove and write there is nothing to load."""
    path = tmp_path / "config.yaml"
    path.write_text("server: {port: 1}")

    async with watching(path) as seen:
        path.unlink()
        await asyncio.sleep(0.2)
        assert seen.hashes == []
        path.write_text("server: {port: 6}")
        assert await seen.next() == content_hash(path)


async def test_polling_alone_finds_changes(tmp_path):
    """Network file systems have no notifications."""
    path = tmp_path / "config.yaml"
    path.write_text("server: {port: 1}")

    async with watching(path, poll_s=0.05, use_notifications=False) as seen:
        replace(path, "server: {port: 2}")
        assert await seen.next() == content_hash(path)


async def test_a_change_before_the_start_is_seen(tmp_path):
    """What the caller acts on may be older than the file."""
    path = tmp_path / "config.yaml"
    path.write_text("server: {port: 1}")
    known = load(path, {}).content_hash
    path.write_text("server: {port: 2}")
    seen = Seen()

    task = asyncio.create_task(watch(path, seen.changed, known=known, poll_s=60.0))
    try:
        assert await seen.next() == content_hash(path)
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_changes_arrive_soon(tmp_path):
    """Well before the poll: the best of a few, since this machine may be busy."""
    path = tmp_path / "config.yaml"
    path.write_text("server: {port: 1}")
    delays = []

    async with watching(path) as seen:
        for port in range(10, 15):
            start = time.perf_counter()
            replace(path, f"server: {{port: {port}}}")
            await seen.next()
            delays.append(time.perf_counter() - start)

    assert min(delays) < 0.25
