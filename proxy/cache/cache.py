"""The answers of one worker: which requests are for them, where they are looked for, and what is counted.

Memory is asked first, and at once. Redis is asked only for routes that say so, and only then is its client imported.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import orjson

from optimizer.routing import REDIS, CacheStore, Caching
from proxy.cache.entry import Entry
from proxy.cache.key import entry_key, is_ambiguous
from proxy.cache.memory import MemoryStore
from proxy.cache.visit import BYPASS, HIT, MISS, Arrival, Visit, concerns, wishes
from proxy.compiled import CompiledTable

if TYPE_CHECKING:
    from proxy.cache.redis_store import RedisStore

_log = logging.getLogger("llm_optimizer.cache")


class ResponseCache:
    """See the module. ``secret`` keys the names of entries; ``clock`` gives monotonic seconds."""

    def __init__(
        self,
        *,
        secret: bytes,
        resolve: Callable[[str], str | None],
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.memory = MemoryStore(0, clock=clock)
        self._secret = secret
        self._resolve = resolve
        self._loop = loop
        self._redis: RedisStore | None = None
        self._place: tuple[CacheStore, str] | None = None
        self._counts: Counter[tuple[str, str]] = Counter()

    def use(self, table: CompiledTable) -> None:
        """Follow a new table."""
        self.memory.use(table.source.limits.cache_bytes)
        store = table.source.cache_store
        url = self._resolve(store.url) if store is not None else None
        place = (store, url) if store is not None and url is not None else None
        if place == self._place:
            return
        if self._redis is not None:
            self._redis.close()
        self._place = place
        self._redis = self._open(*place) if place is not None else None

    def visit(self, arrival: Arrival) -> tuple[Visit, Entry | None]:
        """What a request has to do with the cache, and its answer if memory has it."""
        decision, headers = arrival.decision, arrival.request.headers
        rules = decision.route.caching
        assert rules is not None
        takes, leaves = wishes(headers)
        key = self._key(arrival, rules) if leaves and concerns(rules, arrival.envelope) else None
        if key is None or not takes:
            return self._visit(arrival, rules, BYPASS, key), None
        entry = self.memory.get(key)
        if entry is not None:
            return self._visit(arrival, rules, HIT, key), entry
        if rules.store == REDIS and self._redis is not None:
            return Visit(arrival, rules, result=MISS, key=key, keep=self._keep, further=True), None
        return self._visit(arrival, rules, MISS, key), None

    def ask(self, arrival: Arrival, visit: Visit, then: Callable[[Entry | None], None]) -> None:
        """Look further; ``then`` is called later, after ``redis_store.ASK_S`` at the latest."""
        key, redis, ttl_s = visit.key, self._redis, visit.rules.ttl_s
        assert key is not None
        assert redis is not None

        def found(entry: Entry | None) -> None:
            left_s = _left_s(entry, ttl_s) if entry is not None else 0.0
            if entry is not None and left_s > 0.0:
                self.memory.put(key, entry, left_s)
                visit.result = HIT
            self._count(arrival, visit.result)
            then(entry if visit.result == HIT else None)

        redis.get(key, found)

    def report(self) -> dict[str, Any]:
        """For the worker's statistics; what was counted is counted from 0 again."""
        requests = [[*key, count] for key, count in self._counts.items()]
        self._counts.clear()
        return {"requests": requests, "bytes": self.memory.size, "entries": len(self.memory)}

    def close(self) -> None:
        """Let go of Redis."""
        if self._redis is not None:
            self._redis.close()
        self._redis, self._place = None, None

    def _open(self, store: CacheStore, url: str) -> "RedisStore | None":
        from proxy.cache.redis_store import RedisStore  # noqa: PLC0415  # see the module

        try:
            return RedisStore(url, store, secret=self._secret, loop=self._loop)
        except ValueError as error:
            _log.error("answers are kept in memory only: %s", error)
            return None

    def _key(self, arrival: Arrival, rules: Caching) -> bytes | None:
        if rules.shared and is_ambiguous(arrival.envelope.raw):
            return None
        try:
            return entry_key(self._secret, arrival.decision, arrival.envelope, arrival.request, rules)
        except orjson.JSONEncodeError:
            return None  # What can be read may be nested too deeply to be written.

    def _visit(self, arrival: Arrival, rules: Caching, result: str, key: bytes | None) -> Visit:
        self._count(arrival, result)
        return Visit(arrival, rules, result=result, key=key, keep=self._keep)

    def _count(self, arrival: Arrival, result: str) -> None:
        self._counts[arrival.decision.route.name, result] += 1

    def _keep(self, key: bytes, entry: Entry, rules: Caching) -> None:
        self.memory.put(key, entry, rules.ttl_s)
        if rules.store == REDIS and self._redis is not None:
            self._redis.put(key, entry, rules.ttl_s)


def _left_s(entry: Entry, ttl_s: float) -> float:
    """How long an entry that another process has left may still be given; clocks may differ."""
    return min(ttl_s, ttl_s - (time() - entry.at_ms * 1e-3))
