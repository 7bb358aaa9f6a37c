"""What was answered to requests with an ``Idempotency-Key``, so that a repetition gets it again and does nothing.

Only what succeeded is kept: a refusal changed nothing, so the same request may succeed later. The answers are in memory
and, for a day, in the database; what takes traffic away never waits for that one.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from optimizer.control_store.errors import StoreError
from proxy.logs import LOGGER_NAME

MOST_KEPT: Final = 1000
"""Answers in memory."""
HASTE_S: Final = 0.1
"""How long what takes traffic away waits for the database to say whether it is a repetition."""

_log = logging.getLogger(LOGGER_NAME)


class Kept(Protocol):
    """An answer. ``request_hash`` names the request that got it, ``body`` is JSON."""

    @property
    def request_hash(self) -> str: ...

    @property
    def status(self) -> int: ...

    @property
    def body(self) -> bytes: ...


class AnswerStore(Protocol):
    """The part of ``SqlStore`` that is used here; both raise ``StoreError``."""

    async def remember(self, key: str, request_hash: str, status: int, body: bytes) -> None:
        """Keep an answer for a day; the first one to a key stays."""
        ...

    async def recall(self, key: str) -> Kept | None:
        """The answer that is kept for a key."""
        ...


class Misused(Exception):
    """The key belongs to another request, or to one that is under way; the message says which."""


@dataclass(frozen=True, slots=True)
class _Answer:
    request_hash: str
    status: int
    body: bytes


class Answers:
    """One per process."""

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._open: set[str] = set()

    async def once(
        self,
        key: str,
        request_hash: str,
        work: Callable[[], Awaitable[tuple[int, bytes]]],
        *,
        hasty: bool,
    ) -> tuple[Kept, bool]:
        """The answer of ``work``, which is done once per key, and whether it is a repetition.

        Args:
            key: The caller's.
            request_hash: Names the request.
            work: Gives status and body; what it raises is not kept.
            hasty: It takes traffic away, so a slow database is not waited for.

        Raises:
            Misused: See there.
        """
        if key in self._open:
            raise Misused("A request with this key is under way; ask again soon.")
        self._open.add(key)
        try:
            patience = HASTE_S if hasty else None
            kept = self._kept.get(key) or await self._recall(key, patience)
            if kept is None:
                kept = _Answer(request_hash, *await work())
                await self._keep(key, kept, patience)
                return kept, False
        finally:
            self._open.discard(key)
        if kept.request_hash != request_hash:
            raise Misused("This key was used for another request.")
        return kept, True

    async def _recall(self, key: str, patience: float | None) -> Kept | None:
        try:
            async with asyncio.timeout(patience):
                return await self._store.recall(key)
        except (StoreError, TimeoutError) as error:
            # What needs the database will be refused by it; the rest must be possible without.
            _log.warning("whether a request is a repetition can not be looked up: %r", error)
            return None

    async def _keep(self, key: str, kept: Kept, patience: float | None) -> None:
        self._kept[key] = kept
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        try:
            async with asyncio.timeout(patience):
                await self._store.remember(key, kept.request_hash, kept.status, kept.body)
        except (StoreError, TimeoutError) as error:
            _log.warning("an answer is kept in memory only: %r", error)
