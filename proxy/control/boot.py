"""Starting the optimizer process: from arguments to a published table, then to a running loop.

The order is the point. Workers can start as soon as a table is on disk, so what they need comes first, and the admin
surface, which takes longer to import than all of it, is imported after the supervisor has been told to go on.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optimizer.log.node import StateDirectory, StateDirectoryError
from proxy import logs
from proxy.config.environment import process_environment
from proxy.config.load import Loaded, load
from proxy.config.problems import ConfigProblems
from proxy.control.configuration import History
from proxy.control.core import Core
from proxy.supervisor_link import Link
from proxy.supervisor_state import within_memory

EXIT_CONFIG: Final = 78

_log = logging.getLogger(logs.LOGGER_NAME)


@dataclass(frozen=True, slots=True)
class Options:
    """The command line. ``resume`` lets a broken file be replaced by the last good one."""

    state_dir: Path
    config: Path | None
    link_fd: int | None
    resume: bool
    log_level: str | None
    log_style: str | None


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; ``--config none`` is the built-in configuration."""
    parser = argparse.ArgumentParser(prog="python -m proxy.control", description=__doc__)
    parser.add_argument("--state-dir", required=True, type=Path)
    parser.add_argument("--config", default="none")
    parser.add_argument("--link-fd", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--log-level", choices=logs.LEVELS)
    parser.add_argument("--log-style", choices=logs.STYLES)
    parsed = parser.parse_args(arguments)
    return Options(
        state_dir=parsed.state_dir,
        config=None if parsed.config == "none" else Path(parsed.config),
        link_fd=parsed.link_fd,
        resume=parsed.resume,
        log_level=parsed.log_level,
        log_style=parsed.log_style,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the optimizer process; the exit status."""
    options = parse(arguments)
    os.umask(0o077)
    redactor = logs.configure(
        "optimizer", level=options.log_level or "info", style=options.log_style or "auto"
    )
    link = Link.from_descriptor(options.link_fd) if options.link_fd is not None else None

    def send(message: Mapping[str, Any]) -> None:
        if link is not None:
            link.send(message)

    try:
        state = StateDirectory(options.state_dir)
        environ = within_memory(state, process_environment())
        loaded, is_kept = read(options, state, environ)
        logs.configure(
            "optimizer",
            level=options.log_level or loaded.log.level,
            style=options.log_style or loaded.log.format,
            redactor=redactor,
        )
        core = Core(
            state,
            loaded,
            path=options.config,
            environ=environ,
            send=send,
            redactor=redactor,
            now=time.time,
        )
        core.start()
    except (ConfigProblems, ValueError) as error:
        _log.critical("%s", error)
        return EXIT_CONFIG
    except StateDirectoryError as error:
        _log.critical("%s", error)
        return EXIT_CONFIG
    except Exception:  # noqa: BLE001 - the process's outermost frame; the supervisor tries again
        _log.critical("the state directory %s can't be used", options.state_dir, exc_info=True)
        return 1
    announce(core, send, secrets_known=is_kept)

    from proxy.control.runtime import serve  # noqa: PLC0415 - the reason is this module's invariant

    return serve(core, link=link)


def read(options: Options, state: StateDirectory, environ: Mapping[str, str]) -> tuple[Loaded, bool]:
    """The configuration to start with, and whether it is a kept one instead of the file.

    Raises:
        ConfigProblems: The file is refused, and no kept version may or can stand in.
    """
    try:
        return load(options.config, environ), False
    except ConfigProblems as refused:
        kept = History(state.config_history).newest(environ, options.config) if options.resume else None
        if kept is None:
            raise
        _log.error("%s", refused)
        _log.error("the configuration is refused; the last good one stays in use")
        return kept, True


def announce(core: Core, send: Any, *, secrets_known: bool) -> None:
    """Tell the supervisor what it needs to start workers.

    A kept configuration has references in the place of literal keys; the supervisor still holds their values.
    """
    loaded = core.configuration.loaded
    if not secrets_known:
        send({"secrets": loaded.upstream_secrets})
    about: dict[str, Any] = {"routes": [route.name for route in loaded.settings.routes]}
    if not loaded.admin.keys:
        about["admin_key_file"] = str(core.state.admin_key_file)
        if core.new_admin_key is not None:
            about["new_admin_key"] = core.new_admin_key
    send({"about": about})
    listen = loaded.listen
    send(
        {
            "listen": {
                "host": listen.host,
                "port": listen.port,
                "workers": listen.workers if listen.workers is not None else usable_cores(),
                "drain_s": listen.drain_s,
                "log_level": loaded.log.level,
                "log_style": loaded.log.format,
            }
        }
    )


def usable_cores() -> int:
    """How many cores this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
