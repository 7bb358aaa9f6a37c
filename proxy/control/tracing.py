"""The sending of spans, as the configuration in use says: begun, begun again when it changes, ended."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from optimizer.log.reader import LogReader
from optimizer.settings import Settings
from optimizer.spans import asked_of
from proxy.control.core import Core
from proxy.control.product import product_version
from proxy.control.tasks import Tasks

if TYPE_CHECKING:
    from optimizer.sinks.otlp import SpanSender

PATIENCE_S: Final = 5.0
SERVICE: Final = "llm-optimizer"
_TASK: Final = "traces"


@dataclass(frozen=True, slots=True)
class TraceFacts:
    """What a scrape shows of it. ``lost`` counts spans by reason; ``error`` says what went wrong last."""

    up: bool
    lag_bytes: int
    delivered: int
    errors: int
    lost: Mapping[str, int]
    error: str = ""


class Tracing:
    """See the module."""

    def __init__(self, core: Core, tasks: Tasks) -> None:
        self._core = core
        self._tasks = tasks
        self._sender: SpanSender | None = None
        self._stop = asyncio.Event()

    @property
    def facts(self) -> TraceFacts | None:
        """How it goes; None when nothing is sent."""
        if self._sender is None:
            return None
        stats = self._sender.stats
        return TraceFacts(
            stats.up, stats.lag_bytes, stats.delivered, stats.errors, self._sender.lost, stats.last_error
        )

    def start(self) -> None:
        """Begin, if the configuration in use asks for it."""
        core = self._core
        settings = core.configuration.settings.tracing
        if settings is None:
            return
        # Client libraries are loaded by those who use them only.
        from optimizer.sinks.otlp import SpanSender  # noqa: PLC0415

        version = product_version()
        self._stop = asyncio.Event()
        self._sender = SpanSender(
            settings,
            LogReader(core.state.log_directory),
            cursor_file=core.state.traces_cursor_file,
            asked=lambda: asked_of(core.configuration.settings),
            resource={
                "service.name": SERVICE,
                "service.version": version,
                "service.instance.id": f"{core.state.node:08x}",
            },
            version=version,
            secret=core.configuration.secret,
        )
        self._tasks.spawn(_TASK, partial(self._sender.run, self._stop))

    async def stop(self) -> None:
        """End, sending what is there as far as it goes quickly."""
        self._stop.set()
        self._sender = None
        await self._tasks.finish(_TASK, patience_s=PATIENCE_S)

    async def follow(self, before: Settings) -> None:
        """Begin again when the configuration in use says something else than ``before``."""
        if before.tracing != self._core.configuration.settings.tracing:
            await self.stop()
            self.start()
