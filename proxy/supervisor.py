"""``llm-optimizer serve``: starts N workers and one optimizer, restarts what dies, fans out signals.

The invariant is isolation: no child's death takes another child, and the supervisor answers no request itself. The
optimizer reads the configuration and says where to listen; the listening sockets are made here, so that what waits in
them survives their worker. Secret values that stand literally in the configuration travel from the optimizer through
here to the workers, in memory only. Standard library only (with ``optimizer.log.node``), because everything waits for
this module.

A service manager hears of every change (``proxy.supervisor_notify``).

SIGTERM drains, SIGINT drains without the drain delay, a second signal cuts what is left, a third kills. SIGHUP
reloads the configuration, SIGUSR2 replaces the workers one after the other.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from optimizer.durable import replace_file
from optimizer.log.node import StateDirectory
from proxy.logs import LOGGER_NAME, Redactor
from proxy.supervisor_child import Child
from proxy.supervisor_link import DRAIN, QUICKLY, Message
from proxy.supervisor_notify import ServiceManager
from proxy.supervisor_sockets import SlotSockets, StartRefused, base_url, open_slots
from proxy.supervisor_workers import Workers

EXIT_CONFIG: Final = 78
"""Exit status of an optimizer that refuses its configuration (sysexits' EX_CONFIG): trying again can't help."""

LONGEST_SOCKET_PATH: Final = 103
"""macOS allows 103 bytes, Linux 107."""

_EARLY_DEATHS: Final = 3
_OPTIMIZER_PATIENCE_S: Final = 15.0
_WORKER_GRACE_S: Final = 5.0
_AT_ONCE_S: Final = 3.5
_ADMIN_PATIENCE_S: Final = 10.0
_GROUP_S: Final = 0.2

_log = logging.getLogger(LOGGER_NAME)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line decides; None leaves the word to environment and configuration file."""

    state_dir: Path
    config: Path | None = None
    host: str | None = None
    port: int | None = None
    workers: int | None = None
    log_level: str | None = None
    log_style: str | None = None


def module_command(module: str) -> Callable[..., list[str]]:
    """How to start one of our modules with this interpreter."""
    root = Path(__file__).resolve().parent.parent
    # From a checkout ``-m`` finds the packages in the working directory; anywhere else that directory
    # must not come first on the path, or a folder named ``proxy`` in it would be run instead of ours.
    isolation = [] if Path.cwd() == root else ["-P"]
    return lambda *arguments: [sys.executable, *isolation, "-m", module, *arguments]


@dataclass(frozen=True, slots=True)
class Commands:
    """How children are started: functions from arguments to a command line."""

    optimizer: Callable[..., list[str]] = field(default_factory=lambda: module_command("proxy.control"))
    worker: Callable[..., list[str]] = field(default_factory=lambda: module_command("proxy.worker"))


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the workers listen, as settled at start; a change needs a restart."""

    host: str
    port: int
    workers: int
    drain_s: float
    log_level: str
    log_style: str


class Supervisor:
    """Owns the children of one state directory.

    Args:
        options: The command line.
        announce: Receives the one line that says the product is ready (and the new admin key, on a terminal).
        commands: How to start children.
        redactor: Learns the secrets that pass through, so that no log line shows them.
        on_terminal: Whether ``announce`` reaches a person, who may see a newly made admin key once.
        manager: Is told when requests are served, the configuration is read and the end begins.
    """

    def __init__(
        self,
        options: ServeOptions,
        *,
        announce: Callable[[str], None],
        commands: Commands | None = None,
        redactor: Redactor | None = None,
        on_terminal: bool = False,
        manager: ServiceManager | None = None,
    ) -> None:
        self._options = options
        self._manager = manager if manager is not None else ServiceManager()
        self._announce = announce
        self._commands = commands if commands is not None else Commands()
        self._redactor = redactor if redactor is not None else Redactor()
        self._on_terminal = on_terminal
        self._state = StateDirectory(options.state_dir)
        self._secrets: dict[str, str] = {}
        self._about: Message = {}
        self._workers: Workers | None = None
        self._early_deaths = 0
        self._announced = False
        self._served = False
        self._administered = False
        self._patience: asyncio.TimerHandle | None = None
        self._listen: Listen | None = None
        self._wanted: asyncio.Future[Mapping[str, Any]] | None = None
        self._stop = asyncio.Event()
        self._signals = 0
        self._how = DRAIN
        self._exit_status = 0
        self._optimizer = Child(
            "optimizer",
            self._optimizer_command,
            greet=lambda _: self._write_pids(),
            on_message=self._from_optimizer,
            on_exit=self._child_ended,
        )

    async def run(self) -> int:
        """Serve until a signal; the exit status (0 after a drain).

        Raises:
            StartRefused: Another ``serve`` holds the state directory, or the port is taken.
        """
        check_socket_path(self._state.optimizer_socket)
        with _held(self._state.run_directory / "serve.lock"):
            loop = asyncio.get_running_loop()
            handlers: dict[signal.Signals, Callable[[], None]] = {
                signal.SIGTERM: lambda: self._on_stop_signal(DRAIN),
                signal.SIGINT: lambda: self._on_stop_signal(QUICKLY),
                signal.SIGHUP: self._on_reload_signal,
                signal.SIGUSR2: self._on_restart_signal,
            }
            for number, handler in handlers.items():
                loop.add_signal_handler(number, handler)
            self._wanted = loop.create_future()
            optimizer = loop.create_task(self._optimizer.keep(), name="optimizer")
            try:
                wanted = await self._first(self._wanted)
                if wanted is not None:
                    self._listen, slots = self._settle(wanted)
                    self._workers = self._make_workers(self._listen, slots)
                    self._workers.start()
                    await self._stop.wait()
            finally:
                await self._shut_down(optimizer)
                for number in handlers:
                    loop.remove_signal_handler(number)
            return self._exit_status

    def request_stop(self, status: int = 0) -> None:
        """Drain and end with ``status``."""
        self._exit_status = max(self._exit_status, status)
        self._stop.set()

    async def _first(self, wanted: "asyncio.Future[Mapping[str, Any]]") -> Mapping[str, Any] | None:
        async def settled() -> None:
            await asyncio.wait((wanted,))

        waits = [asyncio.ensure_future(wait) for wait in (settled(), self._stopped())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return wanted.result() if wanted.done() and not self._stop.is_set() else None

    async def _stopped(self) -> None:
        await self._stop.wait()

    def _settle(self, wanted: Mapping[str, Any]) -> tuple[Listen, list[SlotSockets]]:
        options = self._options
        host = options.host if options.host is not None else str(wanted["host"])
        port = options.port if options.port is not None else int(wanted["port"])
        workers = options.workers if options.workers is not None else int(wanted["workers"])
        if sys.platform == "darwin" and workers > 1:
            _log.warning("macOS does not spread connections over SO_REUSEPORT sockets: one worker is started")
            workers = 1
        slots = open_slots(host, port, max(1, workers))
        listen = Listen(
            host,
            slots[0].port,
            len(slots),
            drain_s=float(wanted.get("drain_s", 30.0)),
            log_level=options.log_level or str(wanted.get("log_level", "info")),
            log_style=options.log_style or str(wanted.get("log_style", "auto")),
        )
        return listen, slots

    def _make_workers(self, listen: Listen, slots: Sequence[SlotSockets]) -> Workers:
        def command(descriptors: Sequence[int], is_successor: bool) -> Sequence[str]:
            return self._commands.worker(
                *("--state-dir", str(self._state.path)),
                *[text for descriptor in descriptors for text in ("--listen-fd", str(descriptor))],
                *("--incarnation", str(self._state.allocate_incarnation())),
                *("--log-level", listen.log_level),
                *("--log-style", listen.log_style),
                *(("--successor",) if is_successor else ()),
            )

        return Workers(
            slots,
            command,
            greet=self._greet_worker,
            on_message=self._from_worker,
            on_exit=self._child_ended,
            patience_s=listen.drain_s + _WORKER_GRACE_S,
        )

    def _optimizer_command(self, start: int) -> Sequence[str]:
        options = self._options
        config = "none" if options.config is None else str(options.config)
        arguments = ["--state-dir", str(self._state.path), "--config", config]
        if options.log_level is not None:
            arguments += ["--log-level", options.log_level]
        if options.log_style is not None:
            arguments += ["--log-style", options.log_style]
        if start > 0 and self._listen is not None:
            # The file may have been edited badly since; a running product goes on with what it last had.
            arguments.append("--resume")
        return self._commands.optimizer(*arguments)

    def _greet_worker(self, child: Child) -> None:
        self._write_pids()
        child.send({"secrets": self._secrets})

    def _from_optimizer(self, _: Child, message: Message) -> None:
        if "secrets" in message:
            self._secrets = dict(message["secrets"])
            self._redactor.learn(self._secrets.values())
            for worker in self._workers or ():
                worker.send({"secrets": self._secrets})
        if "about" in message:
            self._about = dict(message["about"])
        if "listen" in message and self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(message["listen"])
        if "administered" in message:
            self._administered = True
            self._announce_when_ready()
        if "reloaded" in message:
            self._manager.ready()
        if "draining" in message and self._signals < 2:
            # It has the end of the log to ship before it goes.
            self._optimizer.allow(float(message["draining"]))
        if "leaving" in message:
            # If the whole group was signalled, our own signal may still be on its way.
            asyncio.get_running_loop().call_later(_GROUP_S, self._restart_optimizer)

    def _restart_optimizer(self) -> None:
        if not self._stop.is_set():
            _log.info("the optimizer was asked to end by a signal: it is started again")
            self._optimizer.send({"stop": DRAIN})

    def _from_worker(self, child: Child, message: Message) -> None:
        if self._workers is None:
            return
        if "draining" in message:
            # It knows the limits in force now; what was settled at start may have changed since.
            child.allow(float(message["draining"]) + _WORKER_GRACE_S)
        if "leaving" in message and not self._stop.is_set():
            _log.info("%s was asked to end by a signal: it is replaced", child.name)
            self._workers.replace_soon(child)
        if "ready" not in message:
            return
        child.is_ready()
        self._write_pids()
        if not self._served:
            self._served = True
            self._manager.ready("serving")
        if self._announced:
            _log.info("%s is ready again", child.name)
        else:
            self._announce_when_ready()

    def _child_ended(self, child: Child, status: int, lived: float) -> None:
        del lived
        if self._stop.is_set():
            return
        self._write_pids()
        serving = self._listen is not None if child is self._optimizer else self._announced
        if serving:
            return
        self._early_deaths += 1
        if status == EXIT_CONFIG:
            child.kill()  # It has ended, and is not started again; why, it has said itself.
            self.request_stop(1)
        elif self._early_deaths >= _EARLY_DEATHS:
            _log.error("%s can't be started (last exit status %d); giving up", child.name, status)
            self.request_stop(1)

    def _announce_when_ready(self) -> None:
        """Ready is when every worker serves and the admin surface answers, for which requests need not wait."""
        if self._announced or self._workers is None:
            return
        if not all(worker.ready for worker in self._workers.current):
            return
        if self._administered:
            self._say_ready()
        elif self._patience is None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(_ADMIN_PATIENCE_S, self._announce_without_admin)

    def _announce_without_admin(self) -> None:
        if not self._announced and not self._stop.is_set():
            _log.warning("the admin surface does not answer yet; requests are served")
            self._say_ready()

    def _say_ready(self) -> None:
        listen = self._listen
        if listen is None:
            return
        self._announced = True
        routes = ", ".join(self._about.get("routes", ())) or "none"
        key_file = self._about.get("admin_key_file")
        key_hint = f"; admin key: {key_file}" if key_file else ""
        self._announce(
            f"ready on {base_url(listen.host, listen.port)}  "
            f"(routes: {routes}; state: {self._state.path}{key_hint}; workers: {listen.workers})"
        )
        self._manager.ready(f"serving on {base_url(listen.host, listen.port)} with {listen.workers} workers")
        new_key = self._about.get("new_admin_key")
        if new_key and self._on_terminal:
            self._announce(f"new admin key, shown once: {new_key}")

    def _write_pids(self) -> None:
        workers = self._workers
        current = [] if workers is None else workers.current
        pids = {
            "supervisor": os.getpid(),
            "optimizer": self._optimizer.pid,
            "workers": [worker.pid for worker in current],
            "moving": [worker.pid for worker in workers or () if worker not in current and worker.pid],
        }
        # For operators and tests only; nothing in the product reads it.
        with contextlib.suppress(OSError):
            replace_file(self._state.pids_file, json.dumps(pids).encode())

    def _on_stop_signal(self, how: str) -> None:
        self._signals += 1
        if self._signals == 1:
            _log.info("stopping: draining the workers; a second signal ends at once")
            self._how = how
            self._stop.set()
            return
        if self._signals == 2:
            if self._workers is not None:
                self._workers.hurry(_AT_ONCE_S)
            self._optimizer.allow(_AT_ONCE_S)
            return
        for child in (*(self._workers or ()), self._optimizer):
            child.kill()

    def _on_reload_signal(self) -> None:
        if self._optimizer.send({"reload": True}):
            self._manager.reloading()
        else:
            _log.warning("reload asked for, but the optimizer is away; it reads the file when it starts")

    def _on_restart_signal(self) -> None:
        if self._workers is None or not self._announced or self._stop.is_set():
            _log.warning("a rolling restart was asked for, but the workers are starting or stopping")
            return
        self._workers.replace_all_soon()

    async def _shut_down(self, optimizer: "asyncio.Task[None]") -> None:
        self._stop.set()
        self._manager.stopping("draining")
        ended = True
        if self._workers is not None:
            ended = await self._workers.stop(self._how)
        # The optimizer goes last, so that it can fold what the draining workers logged.
        patience_s = _OPTIMIZER_PATIENCE_S if self._signals < 2 else _AT_ONCE_S
        ended &= await self._optimizer.stop(patience_s)
        await optimizer
        if not ended:
            self._exit_status = max(self._exit_status, 1)
        with contextlib.suppress(OSError):
            self._state.pids_file.unlink()


def check_socket_path(path: Path) -> None:
    """Unix socket addresses are short; say so before anything fails in a roundabout way.

    Raises:
        StartRefused: The path does not fit.
    """
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise StartRefused(
            f"the path {path} is longer than the {LONGEST_SOCKET_PATH} bytes that a unix socket may have. "
            "Choose a state directory with a shorter path (--state-dir)."
        )


@contextlib.contextmanager
def _held(path: Path) -> Any:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise StartRefused(
                f"another `llm-optimizer serve` (pid {owner}) uses {path.parent.parent}. "
                "Stop it, or choose another directory with --state-dir."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
