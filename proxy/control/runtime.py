"""The running optimizer process: tasks around ``Core``, the admin application, an orderly end.

The invariant is that nothing here is needed by a request. A task that dies starts again; a damaged database ends the
process, because only opening it anew repairs it, and the supervisor starts it again.
"""

import asyncio
import gc
import logging
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from optimizer import guard
from optimizer.log.position_index import PositionIndex
from optimizer.log.reader import least
from optimizer.log.retention import Retention, Sweep
from optimizer.log.segment import EventReader
from optimizer.log_sync import LogSyncer
from optimizer.store import StoreCorrupt
from proxy.config.load import Loaded
from proxy.config.problems import ConfigProblems
from proxy.config.watch import watch
from proxy.control.admin.app import build_app
from proxy.control.admin.feedback import PATIENCE_S, request_of
from proxy.control.admin.registry import ENDPOINTS
from proxy.control.configuration import ReloadResult
from proxy.control.core import Core
from proxy.control.facts import FactSource
from proxy.control.judge import Judge
from proxy.control.judge_caller import UpstreamCaller
from proxy.control.judge_ledger import Ledger
from proxy.control.kafka_side import KafkaSide
from proxy.control.page.serving import Page
from proxy.control.product import product_version
from proxy.control.services import Services
from proxy.control.tasks import Tasks
from proxy.control.tracing import Tracing
from proxy.control.webhooks import Webhooks
from proxy.logs import LOGGER_NAME
from proxy.supervisor_link import Link, Message

if TYPE_CHECKING:
    from proxy.control.cluster.view import ClusterView

GUARD_S: Final = 1.0
SWITCH_S: Final = 0.001
SWEEP_S: Final = 5.0
LAG_S: Final = 1.0
LIMITS_SYNC_S: Final = 1.0
LIMITS_SWEEP_S: Final = 60.0
KEYS_S: Final = 1.0
CONFIG_POLL_S: Final = 1.0
"""Notifications are quicker, but an edit between the first look and the first notification has none."""
TAIL_PATIENCE_S: Final = 45.0
"""How long the end of the log may take to be shipped. A broker that does not answer ends the wait earlier."""
_REST_S: Final = 10.0

_log = logging.getLogger(LOGGER_NAME)


@dataclass(slots=True)
class Watermarks:
    """What the background tasks last measured. ``caught_up_at`` is Unix seconds."""

    caught_up_at: float
    lag_bytes: int = 0
    sweep: Sweep | None = None
    unread_lost: int = 0


class Runtime:
    """One optimizer process in one event loop; ``start`` and ``stop`` once each, or ``run``."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.tasks = Tasks()
        self.watermarks = Watermarks(caught_up_at=core.now())
        self.kafka = KafkaSide(core, self.tasks, answered=self._answered)
        self.tracing = Tracing(core, self.tasks)
        self.stopping = asyncio.Event()
        self.exit_status = 0
        self._asked_reloads = 0
        self._link: Link | None = None
        self._signals = 0
        self._reloading = asyncio.Lock()
        self._runner: web.AppRunner | None = None
        self._syncer = LogSyncer([core.state.log_directory, core.state.index_directory])
        self.webhooks = Webhooks(
            lambda: core.settings.webhooks, secret=core.configuration.secret, now=core.now
        )
        core.ingest.add_consumer(self.webhooks)
        self.judge_calls = UpstreamCaller(core.configuration.secret)
        self.judge = Judge(
            core.state.content_directory,
            ledger=Ledger(core.state.judge_file, now=core.now),
            settings=lambda: core.settings,
            caller=self.judge_calls,
            write=core.journal.write,
            is_tested=self.core.learners.is_testing_prompts,
            now=core.now,
        )
        self.facts = FactSource(core, self)
        self.services = Services(
            core=core,
            reload=self.reload,
            responses=core.ingest.responses,
            positions=core.ingest.positions,
            events=EventReader(core.state.log_directory),
            facts=self.facts,
            started=core.now(),
            version=product_version(),
            worker_token=core.state.worker_token,
            peers=_peers(core),
        )

    async def _answered(self, response_id: str) -> str | None:
        give_up = asyncio.get_running_loop().time() + PATIENCE_S
        return await request_of(self.services, response_id, None, give_up)

    async def start(self) -> None:
        """Start every task and listen."""
        core = self.core
        self.tasks.spawn("guard", self._guard)
        self.tasks.spawn("ingest", self._ingest)
        self.tasks.spawn("log-sync", self._syncer.run)
        self.tasks.spawn("retention", self._retain)
        self.tasks.spawn("lag", self._measure_lag)
        self.tasks.spawn("limits", self._keep_limits)
        if core.shared_limits is not None:
            self.tasks.spawn("shared-limits", core.shared_limits.run)
            self.tasks.spawn("shared-keys", self._follow_keys)
        core.learners.spawn(self.tasks)
        self.tasks.spawn("webhooks", self.webhooks.run)
        self.tasks.spawn("judge", self.judge.run)
        if core.configuration.path is not None:
            self.tasks.spawn("config-watch", self._watch)
        self.kafka.start()
        self.tracing.start()
        self._runner = web.AppRunner(
            build_app(self.services, ENDPOINTS, Page()),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=75.0,
            shutdown_timeout=2.0,
        )
        await self._runner.setup()
        # A socket of a killed predecessor is in the way; the state directory's lock says that it is nobody's.
        with suppress(FileNotFoundError):
            core.state.optimizer_socket.unlink()
        await web.UnixSite(self._runner, str(core.state.optimizer_socket)).start()
        listen = core.configuration.loaded.admin.listen
        if listen is not None:
            await self._listen_apart(self._runner, *listen)
        await asyncio.to_thread(core.configuration.keep)

    async def _listen_apart(self, runner: web.AppRunner, host: str, port: int) -> None:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            # The same surface is reachable through the workers, so this is no reason not to start.
            _log.error("admin.listen %s:%d can't be listened on: %s", host, port, error)

    async def stop(self) -> None:
        """Answer no more, end the tasks, learn from the rest of the log, save."""
        if self._runner is not None:
            await self._runner.cleanup()
        # What is to be joined is written before the last is shipped.
        while self.core.cluster is not None and self._step():
            pass
        # Where the log goes with the machine, what is not shipped now is lost.
        if self._link is not None and self.kafka.sinks:
            self._link.send({"draining": TAIL_PATIENCE_S + _REST_S})
        await self.tracing.stop()
        await self.kafka.stop(TAIL_PATIENCE_S)
        await self.tasks.close()
        if self.core.shared_limits is not None:
            await self.core.shared_limits.close()
        self.judge_calls.close()
        await self.core.learners.close()
        await self.core.store.close()
        try:
            self.core.close()
        except Exception:  # noqa: BLE001 - what could not be saved is in the log and is read again
            _log.exception("the last events could not be saved")
            self.exit_status = 1
        await asyncio.to_thread(self._syncer.sync)

    def _step(self) -> int:
        try:
            return self.core.ingest.step()
        except Exception:  # noqa: BLE001 - what was not read is in the log and is read again
            _log.exception("the last events could not be read")
            return 0

    async def run(self, link: Link | None) -> int:
        """Serve until told to stop or until the supervisor is gone; the exit status."""
        loop = asyncio.get_running_loop()
        self._link = link
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, link)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        if link is not None:
            link.attach(loop, on_message=self._on_message, on_end=self.stopping.set)
        await self.start()
        if link is not None:
            link.send({"administered": True})
        _settle()
        await self.stopping.wait()
        await self.stop()
        if link is not None:
            link.close()
        return self.exit_status

    async def reload(self, trigger: str) -> ReloadResult:
        """Read the file again; see ``Core.reload``. One at a time."""
        core = self.core
        async with self._reloading:
            before = core.configuration.loaded
            try:
                loaded = await asyncio.to_thread(core.configuration.read)
            except ConfigProblems as refused:
                return core.configuration.reject(refused.problems, trigger=trigger)
            await core.prepare(loaded)
            result = core.use(loaded, trigger=trigger)
            await self._follow(before)
            return result

    async def _follow(self, before: Loaded) -> None:
        """Restart the sinks when the configuration points them elsewhere."""
        if before.settings.kafka != self.core.configuration.settings.kafka:
            await self.kafka.stop()
            self.kafka.start()
        await self.tracing.follow(before.settings)

    def _on_signal(self, link: Link | None) -> None:
        """Ask the supervisor to end this process; without one, or asked again, just end.

        Service managers signal every process of a group, and workers that drain still need their leases renewed.
        """
        self._signals += 1
        if link is None or self._signals > 1 or not link.send({"leaving": True}):
            self.stopping.set()

    def _on_message(self, message: Message) -> None:
        if message.get("stop"):
            self.stopping.set()
        if message.get("reload"):
            self._reload_soon()

    def _reload_soon(self) -> None:
        async def once() -> None:
            try:
                await self.reload("signal")
            finally:
                if self._link is not None:
                    self._link.send({"reloaded": True})

        self._asked_reloads += 1
        self.tasks.spawn(f"reload-{self._asked_reloads}", once)

    async def _guard(self) -> None:
        while True:
            # Not renewed, it lets the workers send candidates' traffic back to control.
            if self.core.learners.is_guarding:
                guard.renew(self.core.state.guard_file)
            await asyncio.sleep(GUARD_S)

    async def _ingest(self) -> None:
        try:
            await self._repair_index()
            await self.core.ingest.run()
        except StoreCorrupt:
            _log.exception("learned state is damaged; the process starts again and repairs it")
            self.exit_status = 1
            self.stopping.set()

    async def _repair_index(self) -> None:
        try:
            repaired = await asyncio.to_thread(self.core.ingest.repair_index)
        except OSError as error:
            # Learning goes on; feedback to the requests that are not indexed finds no decision.
            _log.error("the position index can not be repaired: %s", error)
            return
        if repaired:
            _log.info("the position index has %d events again", repaired)

    async def _retain(self) -> None:
        state = self.core.state
        # An index object of its own: sweeps run in a thread, and the learner writes through the other one.
        index = PositionIndex(state.index_directory)
        while True:
            retention = Retention(
                state.log_directory, self.core.configuration.settings.retention, index=index
            )
            read = self._learned_from()
            sweep = await asyncio.to_thread(
                retention.sweep, self.core.now(), read=read, shipped=self._shipped()
            )
            self.watermarks.sweep = sweep
            self.watermarks.unread_lost += sweep.lost_events
            await asyncio.sleep(SWEEP_S)

    def _learned_from(self) -> dict[str, tuple[int, int]]:
        """Up to where the log teaches nothing any more: in a cluster, up to where others can learn from it too."""
        cursor = dict(self.core.ingest.cursor)
        if self.core.cluster is None:
            return cursor
        return least(cursor, *(sink.cursor for sink in self.kafka.sinks)) if self.kafka.sinks else {}

    def _shipped(self) -> dict[str, tuple[int, int]] | None:
        cursors = [sink.cursor for sink in self.kafka.sinks]
        if not cursors:
            return None
        if self.core.cluster is not None:
            cursors.append(self.core.cluster.engines.forwarder.cursor)
        return least(*cursors)

    async def _measure_lag(self) -> None:
        marks = self.watermarks
        while True:
            marks.lag_bytes = self.core.ingest.lag_bytes()
            if marks.lag_bytes == 0:
                marks.caught_up_at = self.core.now()
            await asyncio.sleep(LAG_S)

    async def _keep_limits(self) -> None:
        """Make grants durable against power loss, and forget old windows."""
        swept_at = 0.0
        while True:
            await asyncio.to_thread(self.core.lease_store.checkpoint)
            if time.monotonic() - swept_at >= LIMITS_SWEEP_S:
                swept_at = time.monotonic()
                self.core.leases.sweep()
            await asyncio.sleep(LIMITS_SYNC_S)

    async def _follow_keys(self) -> None:
        while True:
            await asyncio.to_thread(self.core.keys.refresh)
            await asyncio.sleep(KEYS_S)

    async def _watch(self) -> None:
        configuration = self.core.configuration
        assert configuration.path is not None

        async def changed(content_hash: str) -> None:
            del content_hash
            await self.reload("file")

        known = configuration.loaded.content_hash
        await watch(configuration.path, changed, known=known, poll_s=CONFIG_POLL_S)


def _peers(core: Core) -> "ClusterView | None":
    if core.foundation is None:
        return None
    from proxy.control.cluster.composition import view_of  # noqa: PLC0415 - loaded already, by clusters only

    return view_of(core.foundation, core.learners, core.store)


def _settle() -> None:
    """Look for garbage seldom: with thousands of arms a look at everything holds the loop for 0.2 s.

    And a thread that freezes an index gives way soon: every statement of a commit waits for it anew.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def serve(core: Core, *, link: Link | None) -> int:
    """Run the process's loop."""

    async def run() -> int:
        return await Runtime(core).run(link)

    started = time.perf_counter()
    status = asyncio.run(run())
    _log.info("the optimizer ended after %.1f s", time.perf_counter() - started)
    return status
