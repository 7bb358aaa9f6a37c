"""What ``llm-optimizer doctor`` finds: one line per check, with what to do about it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. ``state`` is ``ok``, ``warn`` (works, but look at it) or ``fail``; ``fix`` says what to do."""

    check: str
    state: str
    message: str
    fix: str = ""

    def plain(self) -> Mapping[str, Any]:
        """As JSON."""
        return asdict(self)


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, OK, message)


def warn(check: str, message: str, fix: str = "") -> Finding:
    """It works, but somebody should look at it."""
    return Finding(check, WARN, message, fix)


def fail(check: str, message: str, fix: str) -> Finding:
    """Something is broken."""
    return Finding(check, FAIL, message, fix)
