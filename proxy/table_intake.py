"""How a worker comes to a new routing table while it serves: read, its blobs loaded in a thread, compiled in slices.

Invariant: the loop is held for a few milliseconds at a time, however large a table is, and a table waits for its blobs
no longer than until the next poll: taking traffic away must not depend on a file. A newer table replaces one that is
still on its way.
"""

import asyncio
import logging
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from optimizer.routing import RoutingTable
from optimizer.table_file import TableReader
from proxy.compiled import CompiledTable
from proxy.compiler import Compiler
from proxy.selectors import Blob, Selectors

_SLICE_S = 0.0015

_log = logging.getLogger("llm_optimizer.worker")


class TableIntake:
    """Follows the table file. ``use`` is called with every table that is ready.

    ``unusable`` counts tables that could not be compiled; the one in use then serves on, whole.
    """

    def __init__(
        self,
        reader: TableReader,
        selectors: Selectors,
        compiler: Compiler,
        *,
        use: Callable[[CompiledTable], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.unusable = 0
        self._reader = reader
        self._selectors = selectors
        self._compiler = compiler
        self._use = use
        self._loop = loop
        self._thread: ThreadPoolExecutor | None = None
        self._loading: asyncio.Future[dict[str, Blob]] | None = None
        self._waiting: RoutingTable | None = None
        self._newest: RoutingTable | None = None
        self._in_use: RoutingTable | None = None
        self._steps: Generator[CompiledTable | None, None, None] | None = None
        self._closed = False

    def take(self, table: RoutingTable) -> bool:
        """Use ``table`` at once, blobs included, for a worker that does not serve yet; False if it can not be used."""
        self._newest = table
        names = self._selectors.missing(table)
        if names:
            self._selectors.learn(self._selectors.load(names))
        return self.again()

    def take_new(self) -> bool:
        """``take`` the file's table if it has changed; False if it has not, or can not be used."""
        table = self._reader.poll()
        return table is not None and self.take(table)

    def again(self) -> bool:
        """Compile the newest table now, with what is loaded: something that it depends on has changed."""
        self._abandon()
        self._waiting = None
        if self._newest is None:
            return False
        try:
            compiled = self._compiler.compile(self._newest)
        except Exception:  # noqa: BLE001  # whatever is wrong with it, the old one serves on, whole
            self._failed()
            return False
        self._finish(compiled)
        return True

    def poll(self) -> None:
        """Look for a new table; what it needs is done between requests."""
        overdue, self._waiting = self._waiting, None
        table = self._reader.poll()
        if table is None:
            if overdue is not None:
                self._begin(overdue)
            return
        self._newest = table
        names = self._selectors.missing(table)
        if names:
            self._load(names)
        if names and overdue is None:
            self._waiting = table
        else:
            # Also with files missing: the one before has waited already, and tables may come faster than files.
            self._begin(table)

    def close(self) -> None:
        """Nothing is taken in any more."""
        self._closed = True
        self._abandon()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _load(self, names: list[str]) -> None:
        if self._loading is not None:
            return  # whatever is missing then is loaded after
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="selectors")
        self._loading = self._loop.run_in_executor(self._thread, self._selectors.load, names)
        self._loading.add_done_callback(self._loaded)

    def _loaded(self, future: "asyncio.Future[dict[str, Blob]]") -> None:
        self._loading = None
        if self._closed or future.cancelled():
            return
        error = future.exception()
        if error is not None:
            _log.error("files of contextual routes could not be loaded", exc_info=error)
            return  # the next poll goes on without them
        loaded = future.result()
        self._selectors.learn(loaded)
        table = self._newest
        if table is None:
            return
        left = [name for name in self._selectors.missing(table) if name not in loaded]
        if left:
            self._load(left)
        else:
            # Also when it is in use already, without what has come now.
            self._waiting = None
            self._begin(table)

    def _begin(self, table: RoutingTable) -> None:
        self._abandon()
        self._steps = self._compiler.steps(table)
        # Reading the table took its time already.
        self._loop.call_soon(self._go_on, self._steps)

    def _go_on(self, steps: Generator[CompiledTable | None, None, None]) -> None:
        if steps is not self._steps:
            return  # a newer table has come
        until = perf_counter() + _SLICE_S
        try:
            for compiled in steps:
                if compiled is not None:
                    self._steps = None
                    self._finish(compiled)
                    return
                if perf_counter() >= until:
                    self._loop.call_soon(self._go_on, steps)
                    return
        except Exception:  # noqa: BLE001  # see ``again``
            self._steps = None
            self._failed()

    def _finish(self, compiled: CompiledTable) -> None:
        self._in_use = compiled.source
        self._selectors.keep(compiled.source)
        self._use(compiled)

    def _failed(self) -> None:
        self.unusable += 1
        self._newest = self._in_use
        _log.exception("the new routing table could not be used; the old one stays")

    def _abandon(self) -> None:
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.close()
