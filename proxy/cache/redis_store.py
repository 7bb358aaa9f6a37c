"""Answers in Redis, behind a worker's own memory. Imported only by workers whose table has a route that asks for it.

Invariants: asking takes at most ``ASK_S``, and while Redis is away next to nothing, after which the request goes on as
if nothing had been found; leaving an answer there keeps nobody waiting and is given up rather than queued.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from optimizer.cluster.redis_link import RedisLink
from optimizer.cluster.types import Away
from optimizer.routing import CacheStore
from proxy.cache.entry import Entry, decode, encode

ASK_S: Final = 0.02
LEAVE_S: Final = 0.1
_MOST_LEAVING: Final = 64

_log = logging.getLogger("llm_optimizer.cache")


class RedisStore:
    """Entries by key, sealed with ``secret``. ``then`` of ``get`` is called later, exactly once, and never raises.

    ``ask_s`` bounds asking, ``dropped`` counts the entries that were not left there.
    """

    def __init__(
        self, url: str, store: CacheStore, *, secret: bytes, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Get ready; the first call connects.

        Raises:
            ValueError: If ``url`` is no address of a Redis.
        """
        self.dropped = 0
        self.ask_s = ASK_S
        self._link = RedisLink(url, name=store.name, max_connections=store.max_connections)
        self._secret = secret
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = 0

    def get(self, key: bytes, then: Callable[[Entry | None], None]) -> None:
        """Look for an entry."""
        self._spawn(self._get(key, then))

    def put(self, key: bytes, entry: Entry, ttl_s: float) -> None:
        """Leave an entry for ``ttl_s``, as far as there is nothing more urgent."""
        if self._leaving >= _MOST_LEAVING:
            self.dropped += 1
            return
        self._leaving += 1
        self._spawn(self._put(key, entry, max(1, round(ttl_s * 1000))))

    def close(self) -> None:
        """Let go of everything; who waits is told that nothing was found."""
        self._spawn(self._link.close())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _get(self, key: bytes, then: Callable[[Entry | None], None]) -> None:
        entry = None
        try:
            data = await self._link.command("GET", self._name(key), timeout_s=self.ask_s)
            if isinstance(data, bytes):
                entry = decode(data, key, self._secret)
        except Away:
            pass  # The request goes on without.
        except Exception:  # noqa: BLE001  # whatever it is, the request must not wait for ever
            _log.exception("an answer could not be read")
        then(entry)

    async def _put(self, key: bytes, entry: Entry, ttl_ms: int) -> None:
        data = encode(entry, key, self._secret)
        try:
            await self._link.command("SET", self._name(key), data, "PX", ttl_ms, timeout_s=LEAVE_S)
        except Away:
            self.dropped += 1
        finally:
            self._leaving -= 1

    def _name(self, key: bytes) -> str:
        return self._link.key("answer", key.hex())
