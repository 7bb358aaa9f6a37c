"""What ``POST /api/v1/keys`` asks for: checked completely, every problem told at once with its field.

Strict about types: a limit in quotes or a ``pin`` that is 1 is more often a mistake than a wish, and this is access.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from math import isfinite
from typing import Any, Final

from optimizer.key_store import Grant
from optimizer.routing import Quota
from optimizer.settings import Settings
from proxy.config.problems import Problem, suggest

MAX_NAME: Final = 100
MAX_PATTERNS: Final = 100
MAX_PATTERN: Final = 200
LONGEST_S: Final = 100 * 365 * 86400.0
"""A century: beyond that somebody has sent milliseconds."""
LARGEST: Final = 10**12

_FIELDS: Final = (
    "name",
    "routes",
    "models",
    "pin",
    "passthrough",
    "expires_in_sec",
    "expires_at",
    "quota",
)
_COUNTS: Final = ("requests_per_minute", "tokens_per_minute")
_AMOUNTS: Final = ("usd_per_day", "usd_per_month")


class KeyProblems(Exception):
    """The request is refused, for all of ``problems``."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


@dataclass(slots=True)
class _Reader:
    """Reads fields and collects what is wrong with them."""

    document: Mapping[str, Any]
    now: float
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, path: str, message: str, suggestion: str | None = None) -> None:
        self.problems.append(Problem(path, message, suggestion))

    def unknown(self, names: Iterable[object], known: Collection[str], prefix: str = "") -> None:
        for name in names:
            if name not in known:
                self.wrong(f"{prefix}{str(name)[:100]}", "is unknown.", suggest(str(name), known))

    def name(self) -> str:
        name = self.document.get("name")
        if not isinstance(name, str) or not 0 < len(name.strip()) <= MAX_NAME or not name.isprintable():
            self.wrong("name", f"must be printable text of 1 to {MAX_NAME} characters: whose key is it?")
            return ""
        return name.strip()

    def patterns(self, path: str, default: tuple[str, ...]) -> tuple[str, ...]:
        given = self.document.get(path)
        if given is None:
            return default
        if not isinstance(given, list) or len(given) > MAX_PATTERNS:
            self.wrong(
                path, f'must be a list of at most {MAX_PATTERNS} names or patterns, such as ["chat*"].'
            )
            return default
        for index, pattern in enumerate(given):
            if (
                not isinstance(pattern, str)
                or not 0 < len(pattern) <= MAX_PATTERN
                or not pattern.isprintable()
            ):
                self.wrong(f"{path}[{index}]", f"must be printable text of 1 to {MAX_PATTERN} characters.")
        return tuple(pattern for pattern in given if isinstance(pattern, str))

    def flag(self, path: str) -> bool:
        given = self.document.get(path, False)
        if not isinstance(given, bool):
            self.wrong(path, "must be true or false.")
        return given is True

    def expiry(self) -> float | None:
        seconds, moment = self.document.get("expires_in_sec"), self.document.get("expires_at")
        if seconds is not None and moment is not None:
            self.wrong("expires_at", "stands beside `expires_in_sec`; give one of them.")
            return None
        if seconds is not None:
            if not _is_number(seconds) or not 0 < seconds <= LONGEST_S:
                self.wrong("expires_in_sec", f"must be a number of seconds above 0, at most {LONGEST_S:.0f}.")
                return None
            return self.now + float(seconds)
        if moment is None:
            return None
        at = _moment(moment)
        if at is None:
            self.wrong("expires_at", "must be Unix seconds, or text such as 2027-01-31T00:00:00Z.")
        elif not self.now < at <= self.now + LONGEST_S:
            self.wrong("expires_at", "must be in the future (and within a century); times are in seconds.")
        return at

    def quota(self) -> Quota | None:
        given = self.document.get("quota")
        if given is None:
            return None
        if not isinstance(given, dict):
            self.wrong("quota", f"must be an object with some of {', '.join((*_COUNTS, *_AMOUNTS))}.")
            return None
        self.unknown(given, (*_COUNTS, *_AMOUNTS), "quota.")
        limits: dict[str, Any] = {}
        for name in (*_COUNTS, *_AMOUNTS):
            limit = given.get(name)
            if limit is None:
                continue
            whole = name in _COUNTS
            if not _is_number(limit) or (whole and limit != int(limit)) or not 0 < limit <= LARGEST:
                self.wrong(f"quota.{name}", f"must be a {'whole ' if whole else ''}number above 0.")
            else:
                limits[name] = int(limit) if whole else float(limit)
        return Quota(**limits) if limits else None


def read_grant(document: object, *, now: float) -> Grant:
    """What the new key may do.

    Args:
        document: The decoded body.
        now: Unix seconds.

    Raises:
        KeyProblems: With everything that is wrong.
    """
    if not isinstance(document, dict):
        raise KeyProblems([Problem("", 'The body must be an object, such as {"name": "ci"}.')])
    reader = _Reader(document, now)
    reader.unknown(document, _FIELDS)
    grant = Grant(
        name=reader.name(),
        routes=reader.patterns("routes", ("*",)),
        models=reader.patterns("models", ()),
        pin=reader.flag("pin"),
        passthrough=reader.flag("passthrough"),
        expires_at=reader.expiry(),
        quota=reader.quota(),
    )
    if reader.problems:
        raise KeyProblems(reader.problems)
    return grant


def warnings(grant: Grant, settings: Settings) -> list[str]:
    """What may surprise whoever made the key, under the configuration in use."""
    routes = [route.name for route in settings.routes]
    models = [model.name for model in settings.models]
    found = [
        f"{scope}[{index}]: {pattern!r} matches no {scope[:-1]} of the configuration. {suggest(pattern, names) or ''}"
        for scope, names, patterns in (("routes", routes, grant.routes), ("models", models, grant.models))
        for index, pattern in enumerate(patterns)
        if pattern != "*" and not any(fnmatchcase(name, pattern) for name in names)
    ]
    if not (grant.routes or grant.models or grant.passthrough):
        found.append("The key may use nothing: it has neither routes nor models nor passthrough.")
    if not settings.access.client_keys:
        found.append(
            "No key is asked for at present: set `client_keys: true` below `access:` in the configuration."
        )
    return [text.strip() for text in found]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _moment(value: object) -> float | None:
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            return moment.timestamp() if moment.tzinfo is not None else None
        except (ValueError, OverflowError):
            return None
    return float(value) if isinstance(value, int | float) and _is_number(value) else None
