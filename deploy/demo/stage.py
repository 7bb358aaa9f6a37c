"""What the story is played on: nodes, a candidate that can be made to fail, and a Kafka that can be killed.

Its verbs block until they are done; the story calls them in threads.
"""

from collections.abc import Sequence
from typing import Protocol

ADMIN_KEY = "demo"
TOPIC = "llm-feedback"
SHARDS = 8


class StageFailed(Exception):
    """Something did not come up; the message says what, with the end of its output."""


class Stage(Protocol):
    """Everything that runs."""

    @property
    def nodes(self) -> Sequence[str]:
        """The address of each node, such as ``http://127.0.0.1:8081``."""
        ...

    @property
    def kafka(self) -> str:
        """host:port of the broker, from here."""
        ...

    def start(self) -> None:
        """Start everything and wait until it answers."""
        ...

    def break_candidate(self) -> None:
        """From now on nine of ten requests to the candidate's model fail."""
        ...

    def kill_kafka(self) -> None:
        """As a power cut would."""
        ...

    def start_kafka(self) -> None:
        """Again, on what it had written."""
        ...

    def close(self) -> None:
        """End everything that ``start`` started."""
        ...
