"""Who learns on this node: one ``Learning`` over its own log when it is alone, those of its shards in a cluster.

The rest of the process asks here for the table, and for what is known about a route, and need not know which it is.
"""

from collections.abc import Sequence
from typing import Protocol

from optimizer.routing import RoutingTable
from optimizer.settings import Settings
from proxy.control.learning import Learning
from proxy.control.learning_tasks import LearningTasks
from proxy.control.tasks import Tasks


class Learners(Protocol):
    """What is learned here, and the table that comes of it. Everything runs in one thread."""

    @property
    def settings(self) -> Settings:
        """The configuration in use."""
        ...

    @property
    def table(self) -> RoutingTable | None:
        """The table that workers were given last; None before the first."""
        ...

    @property
    def table_version(self) -> int:
        """Its version; 0 before the first."""
        ...

    @property
    def is_guarding(self) -> bool:
        """Whether candidates may have traffic on this node."""
        ...

    def all(self) -> Sequence[Learning]:
        """What is learned on this node at present."""
        ...

    def of(self, route: str) -> Learning | None:
        """Who learns a route here; None if nobody does."""
        ...

    def is_testing_prompts(self, route: str) -> bool:
        """Whether a test of prompts collects evidence on a route just now, wherever it is learned."""
        ...

    def start(self) -> None:
        """Publish the first table; from then on the workers can serve.

        Raises:
            ValueError, OSError: It can't be built or written.
        """
        ...

    def spawn(self, tasks: Tasks) -> None:
        """Begin to learn, once there is an event loop."""
        ...

    async def prepare(self, settings: Settings) -> None:
        """Do beside everything else what ``use`` would have to wait for; it may be left out, or fail."""
        ...

    def use(self, settings: Settings) -> None:
        """Learn and publish as another configuration says.

        Raises:
            ValueError, OSError: It can't be published; the old one stays in use.
        """
        ...

    def follow(self) -> list[str]:
        """End what the configuration in use no longer allows; the ids of those optimizations."""
        ...

    def republish(self) -> None:
        """Write the table though it says the same, which makes workers look their secrets up anew."""
        ...

    async def close(self) -> None:
        """Finish what is under way; the tasks have ended."""
        ...


class Alone:
    """The learners of a node that is alone: one, over its own log."""

    def __init__(self, learning: Learning) -> None:
        self.learning = learning
        self._tasks: LearningTasks | None = None

    @property
    def settings(self) -> Settings:
        """See ``Learners``; so it is with all of these."""
        return self.learning.settings

    @property
    def table(self) -> RoutingTable | None:
        return self.learning.publication.table

    @property
    def table_version(self) -> int:
        return self.learning.publication.version

    @property
    def is_guarding(self) -> bool:
        return self.learning.optimizing.is_guarding

    def all(self) -> Sequence[Learning]:
        return (self.learning,)

    def of(self, route: str) -> Learning | None:
        return self.learning if self.settings.route(route) is not None else None

    def is_testing_prompts(self, route: str) -> bool:
        return self.learning.optimizing.is_testing_prompts(route)

    def start(self) -> None:
        self.learning.start()

    def spawn(self, tasks: Tasks) -> None:
        self._tasks = LearningTasks(self.learning, tasks)
        self._tasks.start()

    async def prepare(self, settings: Settings) -> None:
        await self.learning.prepare(settings)

    def use(self, settings: Settings) -> None:
        self.learning.use(settings)
        if self._tasks is not None:
            self._tasks.reloaded()

    def follow(self) -> list[str]:
        return self.learning.follow()

    def republish(self) -> None:
        self.learning.publication.publish(self.settings, always=True)

    async def close(self) -> None:
        await self.learning.optimizing.close()
