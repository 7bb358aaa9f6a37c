"""One worker process: serves the public port, reads the table, appends to its own log.

Composition root of the data plane. Started by the supervisor as ``python -m proxy.worker``; in tests a
``Worker`` runs in the caller's loop. It imports neither aiohttp nor pydantic nor any store.
"""

import argparse
import asyncio
import ctypes
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from time import monotonic, perf_counter, time

import uvloop

from optimizer import events
from optimizer.guard import age_s
from optimizer.ids import RequestIds
from optimizer.log.node import StateDirectory, source_name
from optimizer.log.writer import DETAIL, VITAL, LogWriter, WriterBounds, encode, event_source
from optimizer.routing import Limits, Upstream
from optimizer.table_file import TableReader
from proxy.admin_link import AdminLink
from proxy.admission.keyring import Keyring
from proxy.admission.lease_client import LeaseClient
from proxy.admission.meter import Meters
from proxy.admission.shedding import Shedder
from proxy.app import Admission, DataPlane
from proxy.cache.cache import ResponseCache
from proxy.compiled import CompiledTable
from proxy.compiler import Compiler
from proxy.config.numerics import one_thread_for_numpy
from proxy.config.resolver import SecretResolver
from proxy.content import ContentWriter, Sampler
from proxy.feedback_endpoint import FeedbackEndpoint
from proxy.http1.client import Origin, Pool
from proxy.http1.server import Server
from proxy.logs import configure
from proxy.record import Recorder
from proxy.resilience.breaker import Board
from proxy.rollout_watch import Watches
from proxy.selectors import Selectors
from proxy.supervisor_link import QUICKLY, Link, Message
from proxy.table_intake import TableIntake
from proxy.turn import Turn
from proxy.worker_departure import Departure
from proxy.worker_stats import OutcomeCounts, process_facts

ROLE = "worker"
_TABLE_POLL_S = 0.1
_STATS_S = 0.25
_QUIET_STATS_S = 2.0
# How long the loop waits for a thread that computes: one that loads files of contextual routes, numpy the first time.
_SWITCH_S = 0.001
# M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of malloc.h, in bytes.
_MALLOC = {-1: 32 * 1024 * 1024, -2: 1024 * 1024, -3: 4 * 1024 * 1024}

_log = logging.getLogger("llm_optimizer.worker")


class Worker:
    """The data plane of one process. ``start`` listens; ``stop`` drains, closes and is final."""

    def __init__(
        self,
        state: StateDirectory,
        *,
        incarnation: int,
        resolver: SecretResolver,
        uniform_seed: int | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._state = state
        self._incarnation = incarnation
        self._resolver = resolver
        self._started = monotonic()
        reader = TableReader(state.table_file)
        self._limits = Limits()
        self._guard_lease_s = 10.0
        self._source = event_source(state.node, ROLE, incarnation)
        self._name = f"{state.node:08x}-{incarnation:08x}"
        first = reader.poll()
        self._writer = LogWriter(
            state.log_directory,
            node=state.node,
            incarnation=incarnation,
            role=ROLE,
            bounds=WriterBounds() if first is None else WriterBounds(segment_bytes=first.segment_bytes),
        )
        self._counts = OutcomeCounts()
        self._content = ContentWriter(
            state.content_directory, source=source_name(state.node, incarnation, ROLE)
        )
        self.keyring = Keyring(state.key_file, pepper=state.key_pepper, now=time)
        self._admin_pool = Pool(_optimizer_origin(str(state.optimizer_socket)), loop=loop)
        # Of its own: whoever reads admin replies slowly must not stand in the way of limits.
        self._lease_pool = Pool(_optimizer_origin(str(state.optimizer_socket)), loop=loop)
        leases = LeaseClient(self._lease_pool, token=state.worker_token, worker=incarnation)
        self.meters = Meters(ask=leases, now=time, loop=loop)
        self._cache = ResponseCache(secret=state.id_key, resolve=resolver.resolve, loop=loop)
        self.plane = self._make_plane(Random(uniform_seed).random)  # noqa: S311 - draws of a bandit, not secrets
        self._retired: list[Pool] = []
        self._board = Board(clock=perf_counter, uniform=self.plane.uniform)
        self._watches = Watches()
        self._watches.on_stop = self._append_report
        self._selectors = Selectors(state.selector_directory)
        self._reader = reader
        self._intake = self._make_intake(reader)
        self.server = Server(self.plane, lambda: self._limits, loop=loop)
        self._timers: list[asyncio.TimerHandle] = []
        self._last_report = 0.0
        self._reports = 0
        self._acknowledged = 0
        self._lag_ms = 0.0
        self._due = 0.0
        if first is not None:
            self._intake.take(first)

    def _make_intake(self, reader: TableReader) -> TableIntake:
        """What brings new tables, with the parts that last from table to table."""
        loop = self._loop
        compiler = Compiler(
            make_pool=lambda origin: Pool(origin, loop=loop),
            resolve_secret=self._resolver.resolve,
            retire=self._retired.append,
            unit_secret=self._state.id_key,
            board=self._board,
            watches=self._watches,
            selectors=self._selectors,
        )
        return TableIntake(reader, self._selectors, compiler, use=self._use, loop=loop)

    def _make_plane(self, uniform: Callable[[], float]) -> DataPlane:
        """The application, with the parts that it shares with nobody."""
        state, loop, incarnation = self._state, self._loop, self._incarnation
        admin = AdminLink(self._admin_pool, token=state.worker_token, worker=incarnation)
        return DataPlane(
            ids=RequestIds(node=state.node, incarnation=incarnation, key=state.id_key),
            recorder=Recorder(self._writer, source=self._source, count=self._counts.add),
            admin=admin,
            feedback=FeedbackEndpoint(
                log=self._writer, source=self._source, key=state.id_key, admin=admin, keyring=self.keyring
            ),
            uniform=uniform,
            admission=Admission(self.keyring, self.meters),
            turn=Turn(loop.call_soon, Shedder(self._limits.shed_delay_s)),
            call_later=loop.call_later,
            sampler=Sampler(self._content),
            cache=self._cache,
        )

    async def start(self, host: str, port: int, *, reuse_port: bool = False) -> int:
        """Listen and start the timers. Returns the port."""
        self.refresh()
        bound = await self.server.listen(host, port, reuse_port=reuse_port)
        self._begin()
        return bound

    async def start_on(self, sockets: Sequence[socket.socket]) -> int:
        """Listen on sockets that are bound already, and start the timers. Returns their port."""
        self.refresh()
        ports = [await self.server.listen_socket(sock) for sock in sockets]
        self._begin()
        return ports[0]

    def _begin(self) -> None:
        self._due = self._loop.time() + _TABLE_POLL_S
        self._timers = [
            self._loop.call_later(_TABLE_POLL_S, self._poll),
            self._loop.call_later(_STATS_S, self._report),
        ]

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self._limits

    async def stop(self, drain_s: float | None = None) -> int:
        """Stop accepting, let requests finish within ``drain_s``, close. Returns how many were cut."""
        self.plane.draining = True
        cut = await self.server.drain(self._limits.drain_s if drain_s is None else drain_s)
        self.close()
        return cut

    def close(self) -> None:
        """Report and write out what is left; nothing is served any more."""
        for timer in self._timers:
            timer.cancel()
        self.meters.close()
        self._intake.close()
        self._append_report()
        if self.plane.table is not None:
            for handle in self.plane.table.handles.values():
                handle.pool.close()
        for pool in (*self._retired, self._admin_pool, self._lease_pool):
            pool.close()
        self._content.close()
        self._cache.close()
        self._writer.close()

    def refresh(self) -> bool:
        """Take over new client keys, and a new table if there is one; True when the table changed."""
        self.keyring.poll()
        return self._intake.take_new()

    def _use(self, compiled: CompiledTable) -> None:
        table = compiled.source
        self.keyring.required = table.access.client_keys
        self.meters.rates_open = table.access.rates_open
        self.meters.budgets_open = table.access.budgets_open
        self.meters.prepare([(f"route:{r.name}", r.quota) for r in table.routes if r.quota is not None])
        self._limits = table.limits
        self._guard_lease_s = table.guard_lease_s
        self.plane.use(compiled)

    def learn_secrets(self, values: Mapping[str, str]) -> None:
        """Take literal secrets from the supervisor and make arms that waited for them available."""
        self._resolver.add_literals(values)
        self._intake.again()

    @property
    def port_ready(self) -> bool:
        return self.plane.table is not None

    def _poll(self) -> None:
        now = self._loop.time()
        self._lag_ms = max(self._lag_ms, (now - self._due) * 1000)
        self.keyring.poll()
        self._intake.poll()
        self.plane.guarded = age_s(self._state.guard_file, time()) <= self._guard_lease_s
        self._close_retired()
        self._board.tick()
        self._content.tick()
        self._cache.memory.sweep()
        self._due = now + _TABLE_POLL_S
        self._timers[0] = self._loop.call_later(_TABLE_POLL_S, self._poll)

    def _close_retired(self) -> None:
        """Pools whose upstream left the table go when nobody waits in them; what is under way goes on."""
        for pool in [pool for pool in self._retired if not pool.waiting]:
            pool.close()
            self._retired.remove(pool)

    def _report(self) -> None:
        self._append_report()
        self._timers[1] = self._loop.call_later(_STATS_S, self._report)

    def _append_report(self) -> None:
        rows, guards = self._counts.take(), self._watches.take()
        now, table = monotonic(), self.plane.table
        version = table.version if table is not None else 0
        # A new table is acknowledged soon even when nobody asks for anything.
        active = rows or guards or self.plane.in_flight or version != self._acknowledged
        if not active and now - self._last_report < _QUIET_STATS_S:
            return
        stops = self._watches.take_stops()
        self._last_report, self._acknowledged = now, version
        pools = {name: handle.pool for name, handle in table.handles.items()} if table is not None else {}
        data = {
            "worker": self._incarnation,
            "table_version": version,
            "routes": rows,
            "guards": guards,
            "stops": stops,
            "in_flight": self.plane.in_flight,
            "connections": self.server.open_connections,
            "buffered_bytes": self.server.buffered_bytes,
            "shed": self.plane.turn.shedder.refused,
            "evicted": self.server.evicted,
            "upstreams": {name: (pool.busy, pool.idle, pool.waiting) for name, pool in pools.items()},
            "lost": dict(self._writer.lost),
            "content": self._content.report(),
            "cache": self._cache.report(),
            "log": self._writer.state(),
            "refused_tables": self._reader.refused.total() + self._intake.unusable,
            "index_refused": dict(self._selectors.refused),
            "refused_key_files": self.keyring.refused.total(),
            "guarded": self.plane.guarded,
            "breakers": self._board.report(),
            "loop_lag_ms": round(self._lag_ms, 3),
            "uptime_s": round(now - self._started, 3),
            **process_facts(),
        }
        self._lag_ms = 0.0
        now_ms = int(time() * 1000)
        self._reports += 1
        event_id = f"{self._name}-{now_ms:x}-{self._reports:x}"
        line = encode(event_id, events.WORKER_STATS, self._source, now_ms, data)
        # When not all can be kept, a guard must not be the first to go blind.
        self._writer.append(line, priority=VITAL if guards or stops else DETAIL)


def _optimizer_origin(socket: str) -> Origin:
    """Where the optimizer process answers. Its answers may be slow (reports) or endless (event streams)."""
    return Origin.from_upstream(
        Upstream(
            name="optimizer",
            provider="openai",
            base_url="http://optimizer",
            auth="none",
            unix_socket=socket,
            connect_s=1.0,
            first_byte_s=30.0,
            idle_s=300.0,
        )
    )


async def _main(options: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    state = StateDirectory(Path(options.state_dir))
    worker = Worker(state, incarnation=options.incarnation, resolver=SecretResolver.from_process())
    if options.successor and not worker.port_ready:
        _log.critical("there is no routing table that this worker can use; it does not take over")
        worker.close()
        return 1
    link = Link.from_descriptor(options.link_fd) if options.link_fd is not None else None
    departure = Departure(worker, tell=link.send if link is not None else None)
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, departure.on_signal)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    if link is not None:

        def receive(message: Message) -> None:
            if "secrets" in message:
                worker.learn_secrets(message["secrets"])
            if "stop" in message:
                departure.ask(message["stop"])

        # Without its supervisor nobody starts a successor, and the next `serve` needs the port.
        link.attach(loop, on_message=receive, on_end=lambda: departure.ask(QUICKLY))
    port = await worker.start_on([socket.socket(fileno=number) for number in options.listen_fd])
    # What lives until the end need not be looked at by every collection, and requests leave no cycles behind.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    if link is not None:
        link.send({"ready": {"port": port, "incarnation": options.incarnation}})
    await departure.run()
    if link is not None:
        link.close()
    return 0


def _keep_freed_memory() -> None:
    """Tell glibc not to hand the top of the heap back after every large body.

    By default each 100 KB request grows and trims the heap several times, and the page faults cost more than
    parsing it does. Other C libraries have no ``mallopt``; they keep their own ways.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, size in _MALLOC.items():
            mallopt(option, size)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the worker process."""
    parser = argparse.ArgumentParser(prog="python -m proxy.worker", description=__doc__)
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--listen-fd", type=int, action="append", required=True)
    parser.add_argument("--incarnation", type=int, required=True)
    parser.add_argument("--link-fd", type=int)
    parser.add_argument(
        "--successor", action="store_true", help="another worker serves here until this one is ready"
    )
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-style", default="auto")
    options = parser.parse_args(arguments)
    _keep_freed_memory()
    one_thread_for_numpy()
    sys.setswitchinterval(_SWITCH_S)
    configure(level=options.log_level, style=options.log_style)
    return uvloop.run(_main(options))


if __name__ == "__main__":
    sys.exit(main())
