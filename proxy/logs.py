"""Structured logs on stderr: one JSON object or one console line per record, with secrets taken out.

The invariant is that the redaction sees the finished line, traceback included, so no formatting path goes
around it. Standard library only: the supervisor and the workers log through this module as well.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Iterable
from typing import TextIO

LOGGER_NAME = "llm_optimizer"
LEVELS = ("debug", "info", "warning", "error", "critical")
STYLES = ("auto", "text", "json")

_MASK = "[redacted]"
_MIN_SECRET_LENGTH = 6
# Quotes may be escaped: what is searched is the finished line, and JSON may stand inside JSON.
_NAMED = re.compile(
    r"(?i)\b((?:bearer\s+)|(?:(?:x-)?api[-_]?key|authorization)[\\\"']*\s*[:=]\s*[\\\"']*(?!bearer))"
    r"[^\s\\\"',;]{4,}"
)
_KEY_SHAPES = re.compile(r"\b(?:sk|pk|rk|gsk|xai|lopt|llmo)[-_][A-Za-z0-9_\-]{8,}")
_OCCASION_S = 600.0
_MOST_SAID = 1_000
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Redactor:
    """Masks the secrets it was told about, and whatever looks like a credential."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: tuple[str, ...] = ()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Add secret values. Very short ones are left out: masking them would shred ordinary words."""
        found = {text for text in secrets if len(text) >= _MIN_SECRET_LENGTH}
        found |= {json.dumps(text, ensure_ascii=False)[1:-1] for text in found}
        # Longest first, so that a secret which contains another is masked whole.
        self._known = tuple(sorted(found | set(self._known), key=len, reverse=True))

    def clean(self, text: str) -> str:
        """``text`` without secrets."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, _MASK)
        text = _NAMED.sub(lambda match: match.group(1) + _MASK, text)
        return _KEY_SHAPES.sub(_MASK, text)


class Occasional(logging.Filter):
    """Lets what a chatty library repeats through once in ten minutes; the next line says how many were left out.

    A Kafka client complains several times a second for as long as its brokers are away, and those who use it say that
    they are away already.
    """

    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = library
        self._said: dict[tuple[str, object], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written."""
        if record.name != self._library and not record.name.startswith(f"{self._library}."):
            return True
        # The text before its values are put in.
        key = (record.name, record.msg)
        at, left_out = self._said.get(key, (-_OCCASION_S, 0))
        if 0 <= record.created - at < _OCCASION_S:
            self._said[key] = (at, left_out + 1)
            return False
        if len(self._said) >= _MOST_SAID:
            self._said.clear()
        self._said[key] = (record.created, 0)
        if left_out:
            record.left_out = left_out
        return True


class LineFormatter(logging.Formatter):
    """Renders a record as JSON (``json``) or for people (``text``); ``extra`` fields are kept."""

    def __init__(self, style: str, role: str, redactor: Redactor) -> None:
        super().__init__()
        self._render = self._as_json if style == "json" else self._as_text
        self._role = role
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """The redacted line."""
        return self._redactor.clean(self._render(record))

    def _as_json(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _stamp(record.created),
            "level": record.levelname.lower(),
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)

    def _as_text(self, record: logging.LogRecord) -> str:
        extra = "".join(f" {name}={value}" for name, value in _extra(record).items())
        level = record.levelname.lower()
        line = f"{_stamp(record.created)} {level:<7} {self._role}: {record.getMessage()}{extra}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(
    role: str = "worker",
    *,
    level: str = "info",
    style: str = "auto",
    stream: TextIO | None = None,
    redactor: Redactor | None = None,
) -> Redactor:
    """Send every log record of this process to ``stream`` (stderr) and return what redacts them.

    May be called again, with the same redactor, when the configuration says how to log.

    Args:
        role: Who speaks: ``supervisor``, ``optimizer``, ``worker-1``.
        level: One of ``LEVELS``; an unknown word means ``info``.
        style: ``json``, ``text``, or ``auto``: text on a terminal, JSON elsewhere.
        stream: Where lines go; stderr when left out.
        redactor: What takes secrets out; a new one when left out.
    """
    redactor = redactor if redactor is not None else Redactor()
    target = stream if stream is not None else sys.stderr
    if style == "auto":
        style = "text" if target.isatty() else "json"
    handler = logging.StreamHandler(target)
    handler.setFormatter(LineFormatter(style, role, redactor))
    if level != "debug":
        handler.addFilter(Occasional("aiokafka"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    wanted = level if level in LEVELS else "info"
    root.setLevel(wanted.upper())
    # Client libraries narrate their connections at info; their warnings still get through.
    for library in ("aiokafka", "aiohttp", "alembic", "asyncio", "watchfiles", "kafka"):
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))
    return redactor


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _stamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"
