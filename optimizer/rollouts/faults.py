"""Why a command on an optimization was not carried out. Each message is for the person who gave it."""

from optimizer.rollouts.records import Optimization


class NotFound(Exception):
    """There is no such optimization, or it was deleted."""


class Refused(ValueError):
    """What was asked for makes no sense, whatever the state of things; ``field`` names the part that is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Conflict(Exception):
    """Not in this state of things. ``current`` is the record as it stands, None when it is about another one."""

    def __init__(self, message: str, current: Optimization | None = None) -> None:
        super().__init__(message)
        self.current = current


class Outdated(Conflict):
    """Whoever gave the command had seen another revision."""


class StoreAway(Exception):
    """Traffic can only be given while the database remembers it, and it does not answer."""
