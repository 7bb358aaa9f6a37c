"""All kinds of sinks. A new one is one module with a class and one line here."""

from collections.abc import Callable, Mapping
from typing import Final

from optimizer.log.node import StateDirectory
from optimizer.log.reader import LogReader
from optimizer.settings import Settings
from optimizer.sinks.base import Sink
from optimizer.sinks.kafka import KafkaShipper

SinkFactory = Callable[[Settings, StateDirectory], Sink | None]


def _kafka(settings: Settings, state: StateDirectory) -> Sink | None:
    if settings.kafka is None or not settings.kafka.brokers:
        return None
    return KafkaShipper(
        settings.kafka,
        LogReader(state.log_directory),
        cursor_file=state.kafka_cursor_file,
        dead_letter_file=state.dead_letter_file,
    )


SINKS: Final[Mapping[str, SinkFactory]] = {"kafka": _kafka}


def build_sinks(settings: Settings, state: StateDirectory) -> list[Sink]:
    """The sinks that ``settings`` ask for; a sink that is not configured is left out."""
    made = [factory(settings, state) for factory in SINKS.values()]
    return [sink for sink in made if sink is not None]
