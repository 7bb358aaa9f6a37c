"""One thread that works for an event loop, or for other threads, and makes none wait longer than it said it would.

The thread is a daemon: one that is stuck in the system (a disk or a resolver that does not answer) keeps neither
callers nor the end of the process waiting, and serves on when the system answers. A call whose time is over before
the thread came to it is not carried out at all.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from optimizer.control_store.errors import StoreError


class Resource(Protocol):
    """What the thread works with. It is made, used and closed in the thread alone.

    ``deadline``, on the monotonic clock, is when the present call has to be over; it tries to keep to it.
    """

    deadline: float

    def close(self) -> None: ...


R = TypeVar("R", bound=Resource)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Job(Generic[R]):
    work: Callable[[R], Any]
    deadline: float
    future: Future[Any]


class Lane(Generic[R]):
    """The thread, started by the first call. ``make`` makes its resource, in the thread."""

    def __init__(self, name: str, make: Callable[[], R]) -> None:
        self._name = name
        self._make = make
        self._jobs: queue.SimpleQueue[_Job[R] | None] = queue.SimpleQueue()
        self._ended: Future[None] | None = None
        self._starting = threading.Lock()
        self._closed = False

    async def run(self, work: Callable[[R], T], seconds: float) -> T:
        """What ``work`` returns or raises.

        Raises:
            StoreError: It did not answer within ``seconds``, or the lane is closed.
        """
        future = self._begin(work, seconds)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise StoreError(f"no answer within {seconds:g} s") from None

    def wait(self, work: Callable[[R], T], seconds: float) -> T:
        """As ``run``, for a thread that may be kept waiting; raises the same."""
        future = self._begin(work, seconds)
        try:
            return future.result(seconds)
        except TimeoutError:
            future.cancel()
            raise StoreError(f"no answer within {seconds:g} s") from None

    async def close(self, seconds: float) -> bool:
        """Let calls that are under way end and close the resource; False if that took more than ``seconds``."""
        self._closed = True
        if self._ended is None:
            return True
        self._jobs.put(None)
        done, _ = await asyncio.wait([asyncio.wrap_future(self._ended)], timeout=seconds)
        return bool(done)

    def _begin(self, work: Callable[[R], T], seconds: float) -> Future[T]:
        if self._closed:
            raise StoreError("the store is closed")
        with self._starting:
            if self._ended is None:
                self._ended = Future()
                threading.Thread(
                    target=self._serve, args=(self._ended,), name=self._name, daemon=True
                ).start()
        future: Future[T] = Future()
        self._jobs.put(_Job(work, time.monotonic() + seconds, future))
        return future

    def _serve(self, ended: Future[None]) -> None:
        resource: R | None = None
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                if resource is None:
                    resource = self._make()
                resource.deadline = job.deadline
                result = job.work(resource)
            except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
                job.future.set_exception(error)
            else:
                job.future.set_result(result)
                del result
            del job
        try:
            if resource is not None:
                resource.close()
        finally:
            ended.set_result(None)
