"""All kinds of sinks. A new one is one module with a class and one line here."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from optimizer.log.node import StateDirectory
from optimizer.log.reader import LogReader
from optimizer.settings import Settings
from optimizer.sinks.base import Sink
from optimizer.sinks.client import Secrets
from optimizer.sinks.kafka import ClusterTopic, KafkaShipper

Shards = Callable[[], int | None]


class SinkFactory(Protocol):
    """Makes a sink, or None when it is not configured."""

    def __call__(
        self,
        settings: Settings,
        state: StateDirectory,
        *,
        secret: Secrets | None = None,
        shards: Shards | None = None,
    ) -> Sink | None:
        """See ``build_sinks``."""
        ...


def _kafka(
    settings: Settings, state: StateDirectory, *, secret: Secrets | None = None, shards: Shards | None = None
) -> Sink | None:
    if settings.kafka is None or not settings.kafka.brokers:
        return None
    cluster = None
    if shards is not None and settings.cluster is not None:
        cluster = ClusterTopic(shards, settings.cluster.shards)
    return KafkaShipper(
        settings.kafka,
        LogReader(state.log_directory),
        cursor_file=state.kafka_cursor_file,
        dead_letter_file=state.dead_letter_file,
        secret=secret,
        cluster=cluster,
    )


SINKS: Final[Mapping[str, SinkFactory]] = {"kafka": _kafka}


def build_sinks(
    settings: Settings, state: StateDirectory, *, secret: Secrets | None = None, shards: Shards | None = None
) -> list[Sink]:
    """The sinks that ``settings`` ask for; a sink that is not configured is left out.

    Args:
        settings: What is shipped where.
        state: Whose log, and where cursors are.
        secret: The value that a reference names, None when there is none.
        shards: In a cluster, how many there are, None as long as that is not known; left out on a node of its own.
    """
    made = [factory(settings, state, secret=secret, shards=shards) for factory in SINKS.values()]
    return [sink for sink in made if sink is not None]
