"""Telling when the configuration file has other content than before.

Watches directories, not the file: editors replace files by renaming, Kubernetes swaps a symbolic link
beside them, and a watch on the file itself goes blind after the first such change. A slow poll of the
content stands behind it, for file systems without notifications. Only a changed SHA-256 of the content
counts, so touching the file does nothing.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path

from watchfiles import awatch

DEBOUNCE_MS = 60
POLL_S = 10.0
_SETTLE_S = 0.03
_EMPTY_S = 2.0
_EMPTY = sha256(b"").hexdigest()
_LARGEST_FILE = 4 * 1024 * 1024 + 1

logger = logging.getLogger("llm_optimizer.config")


def content_hash(path: Path) -> str | None:
    """SHA-256 of the file's bytes, as in ``Loaded.content_hash``; None while it can't be read."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE)
    except OSError:
        return None
    return sha256(content.removeprefix(b"\xef\xbb\xbf")).hexdigest()


async def watch(
    path: Path,
    changed: Callable[[str], Awaitable[None]],
    *,
    known: str | None = None,
    poll_s: float = POLL_S,
    use_notifications: bool = True,
) -> None:
    """Call ``changed`` with the new content hash after every change, until cancelled.

    ``known`` is the hash that the caller already acts on; None takes the present content. A file that
    vanishes is no change: the next content is. Exceptions of ``changed`` end the watch.
    """
    path = path.absolute()  # noqa: ASYNC240 (touches no disk)
    last = known if known is not None else content_hash(path)
    async with aclosing(_wakeups(path, poll_s, use_notifications)) as wakeups:
        async for _ in wakeups:
            current = content_hash(path)
            if current is None or current == last:
                continue
            # An editor that truncates and rewrites in place must not be read half-way.
            await asyncio.sleep(_SETTLE_S)
            if current == _EMPTY:
                await _filled(path)
            if content_hash(path) != current:
                current = await _settled(path)
            if current is not None and current != last:
                last = current
                await changed(current)


async def _filled(path: Path) -> None:
    """Until an empty file has something in it: nearly always one that is being written, and nothing to act on."""
    for _ in range(int(_EMPTY_S / _SETTLE_S)):
        if content_hash(path) != _EMPTY:
            return
        await asyncio.sleep(_SETTLE_S)


async def _settled(path: Path) -> str | None:
    """The content once two reads in a row agree; after ten attempts whatever is there."""
    before = content_hash(path)
    for _ in range(10):
        await asyncio.sleep(_SETTLE_S)
        current = content_hash(path)
        if current == before:
            return current
        before = current
    return before


async def _wakeups(path: Path, poll_s: float, use_notifications: bool) -> AsyncGenerator[None, None]:
    """Once at the start, then whenever something may have changed, at least every ``poll_s`` seconds."""
    yield
    while use_notifications:
        directories = _directories(path)
        if not directories:
            await asyncio.sleep(min(poll_s, 1.0))
            yield
            continue
        try:
            async for _ in awatch(
                *directories,
                watch_filter=None,
                recursive=False,
                debounce=DEBOUNCE_MS,
                step=DEBOUNCE_MS // 3,
                rust_timeout=max(1, int(poll_s * 1000)),
                yield_on_timeout=True,
            ):
                yield
                if _directories(path) != directories:
                    # The link leads elsewhere now; a change may have fallen between the two watches.
                    break
        except OSError as error:
            logger.warning(
                "file notifications are not available, polling instead", extra={"cause": str(error)}
            )
            break
        yield
    while True:
        await asyncio.sleep(poll_s)
        yield


def _directories(path: Path) -> list[Path]:
    """Where changes to the file become visible: its directory, and those that its links lead through."""
    found: dict[Path, None] = {}
    place = path
    for _ in range(16):
        if place.parent.is_dir():
            found[place.parent] = None
        if not place.is_symlink():
            break
        place = place.parent / place.readlink()
    real = path.resolve().parent
    if real.is_dir():
        found[real] = None
    return list(found)
