"""Everything of this process that speaks to Kafka on a node of any kind: events out, other systems' ratings in.

Nothing of it is needed by a request, and all of it begins again when the configuration points elsewhere.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from optimizer.ids import verify
from optimizer.settings import Settings
from optimizer.sinks.base import Sink
from proxy.control.core import Core
from proxy.control.tasks import Tasks

if TYPE_CHECKING:
    from optimizer.cluster.intake import FeedbackIntake

PATIENCE_S: Final = 5.0
_INTAKE: Final = "feedback-intake"


class KafkaSide:
    """See the module. ``sinks`` are those that run now."""

    def __init__(
        self, core: Core, tasks: Tasks, *, answered: Callable[[str], Awaitable[str | None]] | None = None
    ) -> None:
        """``answered`` finds the request id of a response id that this node does not know (yet)."""
        self.sinks: Sequence[Sink] = ()
        self._core = core
        self._tasks = tasks
        self._answered = answered
        self._intake: FeedbackIntake | None = None
        self._stop = asyncio.Event()

    @property
    def feedback(self) -> Mapping[str, int] | None:
        """What became of the records on the feedback topic; None without Kafka."""
        intake = self._intake
        if intake is None:
            return None
        return {
            "accepted": intake.accepted,
            "ignored": intake.ignored,
            "dead_lettered": intake.dead_lettered,
        }

    def start(self) -> None:
        """Begin, as the configuration in use says."""
        core = self._core
        settings = core.configuration.settings
        self._stop = asyncio.Event()
        if settings.kafka is None:
            return
        # Client libraries are loaded by those who use them only.
        from optimizer.sinks.registry import build_sinks  # noqa: PLC0415

        cluster = core.cluster
        shards = cluster.counted if cluster is not None else None
        self.sinks = build_sinks(settings, core.state, secret=core.configuration.secret, shards=shards)
        if cluster is not None:
            cluster.engines.shipper = self.sinks[0] if self.sinks else None
        for sink in self.sinks:
            self._tasks.spawn(f"sink-{sink.name}", partial(sink.run, self._stop))
        self._intake = self._listen(settings)
        self._tasks.spawn(_INTAKE, partial(self._intake.run, self._stop))

    async def stop(self, patience_s: float = PATIENCE_S) -> None:
        """End, shipping what is there within ``patience_s``."""
        self._stop.set()
        sinks, self.sinks = self.sinks, ()
        for sink in sinks:
            await self._tasks.finish(f"sink-{sink.name}", patience_s=patience_s)
        await self._tasks.finish(_INTAKE, patience_s=PATIENCE_S)
        self._intake = None

    def _listen(self, settings: Settings) -> "FeedbackIntake":
        from optimizer.cluster.intake import FeedbackIntake  # noqa: PLC0415 - as above
        from optimizer.sinks.client import client_security  # noqa: PLC0415 - as above

        core = self._core
        assert settings.kafka is not None
        genuine: Callable[[str], object] = partial(verify, key=core.state.id_key)
        return FeedbackIntake(
            settings.kafka,
            journal=core.journal.write,
            verify=lambda request_id: genuine(request_id) is not None,
            resolve=core.ingest.responses.lookup,
            ask=self._answered,
            security=partial(client_security, settings.kafka.security, core.configuration.secret),
        )
