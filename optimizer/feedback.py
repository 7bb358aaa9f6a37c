"""Feedback as callers post it: one object, a list, or ``{"feedback": [...]}``, checked and made into events.

An item names a request (``request_id`` or ``response_id``; ``id`` takes either), says one of ``value``,
``score`` or ``thumbs``, and may add ``metric``, ``source``, ``comment`` and ``idempotency_key``. A source rates
a metric of a request once, whatever its idempotency keys; so posting again is always harmless. A comment's text
is dropped here; only its length goes on. Standard library only: workers check feedback
before it is logged.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import blake2b
from math import isfinite
from typing import Any

QUALITY = "quality"
# Names under which a rating of the reply arrives; all of them teach the one signal ``quality``, within 0..1.
QUALITY_METRICS = frozenset((QUALITY, "response_quality", "score", "rating", "thumbs"))
MAX_ITEMS = 1000
MAX_COMMENT_BYTES = 64 * 1024

_FIELDS = (
    "id",
    "request_id",
    "response_id",
    "metric",
    "value",
    "score",
    "scale",
    "thumbs",
    "comment",
    "source",
    "idempotency_key",
)
_METRIC = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
# Sources of this form are judges of ours; nobody else may speak for one: ``judge:<name>@<version>``.
_JUDGE = "judge:"
_SOURCE = re.compile(r"[A-Za-z0-9_.:@/-]{1,64}")
_THUMBS: Mapping[str, float] = {"up": 1.0, "down": 0.0}


class FeedbackProblem(ValueError):
    """A body that is no feedback. ``path`` names the field (``feedback[3].value``), ``reason`` the rule."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Feedback:
    """One rating. Exactly one of ``request_id`` and ``response_id`` is set; ``value`` is finite."""

    request_id: str | None
    response_id: str | None
    metric: str
    value: float
    source: str
    comment_bytes: int


def parse_feedback(doc: object) -> list[Feedback]:
    """Check a decoded JSON body completely, before any of it counts.

    Returns:
        1 to ``MAX_ITEMS`` items in the order given.

    Raises:
        FeedbackProblem: Naming the first field that is wrong.
    """
    if isinstance(doc, Mapping) and "feedback" in doc:
        unknown = next((name for name in doc if name != "feedback"), None)
        if unknown is not None:
            raise FeedbackProblem(str(unknown), "stands beside `feedback`; put it into the items")
        doc = doc["feedback"]
        if not isinstance(doc, list):
            raise FeedbackProblem("feedback", "must be a list of objects")
    if not isinstance(doc, list):
        return [_item(doc, "")]
    if not 0 < len(doc) <= MAX_ITEMS:
        raise FeedbackProblem("feedback", f"must have 1 to {MAX_ITEMS} items, it has {len(doc)}")
    return [_item(item, f"feedback[{index}]") for index, item in enumerate(doc)]


def to_event(feedback: Feedback, *, request_id: str) -> tuple[str, dict[str, Any]]:
    """Id and ``data`` of the ``feedback.v1`` event for feedback on ``request_id``.

    The id is a hash of what makes the feedback one and the same: request, metric and source. Posting it again gives
    the same id, and so does another idempotency key: it would be a way to vote twice.
    """
    identity = (request_id, feedback.metric, "source", feedback.source)
    digest = blake2b("\0".join(identity).encode(), digest_size=16)
    return f"fb_{digest.hexdigest()}", {
        "request_id": request_id,
        "metric": feedback.metric,
        "value": feedback.value,
        "source": feedback.source,
        "comment_bytes": feedback.comment_bytes,
    }


def judge_version(data: Mapping[str, Any]) -> str | None:
    """Which version of a judge the ``data`` of a ``feedback.v1`` event is from, None if it is not from a judge."""
    source = data.get("source")
    if not isinstance(source, str) or not source.startswith(_JUDGE):
        return None
    return source.rpartition("@")[2]


def _item(item: object, path: str) -> Feedback:
    if not isinstance(item, Mapping):
        raise FeedbackProblem(path, "must be an object")
    for name in item:
        if name not in _FIELDS:
            near = get_close_matches(str(name), _FIELDS, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"known fields: {', '.join(_FIELDS)}"
            raise FeedbackProblem(_at(path, name), f"is unknown; {hint}")
    request_id, response_id = _subject(item, path)
    metric = _text(item, "metric", path, _METRIC) or QUALITY
    _text(item, "idempotency_key", path, None)
    source = _text(item, "source", path, _SOURCE) or "user"
    if source.startswith(_JUDGE):
        raise FeedbackProblem(
            _at(path, "source"), f"must not begin with `{_JUDGE}`, which names the judges of routes"
        )
    return Feedback(
        request_id=request_id,
        response_id=response_id,
        metric=metric,
        value=_value(item, metric, path),
        source=source,
        comment_bytes=_comment_bytes(item, path),
    )


def _subject(item: Mapping[str, Any], path: str) -> tuple[str | None, str | None]:
    given = [name for name in ("request_id", "response_id", "id") if item.get(name) is not None]
    if len(given) != 1:
        wanted = "`request_id` (header x-request-id of the reply) or `response_id` (field id of the reply)"
        raise FeedbackProblem(
            path, f"needs {wanted}" if not given else f"name only one of {', '.join(given)}"
        )
    name = given[0]
    text = _text(item, name, path, None)
    is_request = name == "request_id" or (name == "id" and text is not None and text.startswith("req_"))
    return (text, None) if is_request else (None, text)


def _value(item: Mapping[str, Any], metric: str, path: str) -> float:
    given = [name for name in ("value", "score", "thumbs") if item.get(name) is not None]
    if len(given) != 1:
        problem = "needs one of" if not given else "takes only one of"
        raise FeedbackProblem(path, f"{problem} `value`, `score` and `thumbs`")
    if given[0] != "score" and item.get("scale") is not None:
        raise FeedbackProblem(_at(path, "scale"), "belongs to `score`")
    if given[0] == "thumbs":
        return _thumbs(item["thumbs"], _at(path, "thumbs"))
    if given[0] == "score":
        return _score(item, path)
    value = _number(item["value"], _at(path, "value"))
    if metric in QUALITY_METRICS and not 0.0 <= value <= 1.0:
        raise FeedbackProblem(
            _at(path, "value"), f"must be within 0..1 for the metric `{metric}` (or use `score` with `scale`)"
        )
    return value


def _thumbs(thumbs: object, path: str) -> float:
    if isinstance(thumbs, bool):
        return 1.0 if thumbs else 0.0
    if isinstance(thumbs, str) and thumbs in _THUMBS:
        return _THUMBS[thumbs]
    raise FeedbackProblem(path, 'must be "up", "down", true or false')


def _score(item: Mapping[str, Any], path: str) -> float:
    """A score on a scale as a share of it: ``scale`` 5 means 0..5, ``[1, 5]`` means 1..5, none means 0..1."""
    score = _number(item["score"], _at(path, "score"))
    scale = item.get("scale")
    where = _at(path, "scale")
    low, high = 0.0, 1.0
    if isinstance(scale, list):
        if len(scale) != 2:
            raise FeedbackProblem(where, "must be the largest score, or [lowest, highest]")
        low, high = _number(scale[0], where), _number(scale[1], where)
    elif scale is not None:
        high = _number(scale, where)
    if not low < high or not isfinite(high - low):
        raise FeedbackProblem(where, "must go from a lower to a higher number")
    if not low <= score <= high:
        raise FeedbackProblem(
            _at(path, "score"), f"must be within {low:g}..{high:g} (`scale` sets the range)"
        )
    return (score - low) / (high - low)


def _comment_bytes(item: Mapping[str, Any], path: str) -> int:
    comment = item.get("comment")
    if comment is None:
        return 0
    if not isinstance(comment, str):
        raise FeedbackProblem(_at(path, "comment"), "must be text")
    size = len(comment.encode("utf-8", "surrogatepass"))
    if size > MAX_COMMENT_BYTES:
        raise FeedbackProblem(_at(path, "comment"), f"has {size} bytes, the limit is {MAX_COMMENT_BYTES}")
    return size


def _text(item: Mapping[str, Any], name: str, path: str, pattern: re.Pattern[str] | None) -> str | None:
    text = item.get(name)
    if text is None:
        return None
    if not isinstance(text, str) or not 0 < len(text) <= 256:
        raise FeedbackProblem(_at(path, name), "must be text of 1 to 256 characters")
    if pattern is not None and not pattern.fullmatch(text):
        raise FeedbackProblem(_at(path, name), f"must match {pattern.pattern}")
    return text


def _number(value: object, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FeedbackProblem(path, "must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not isfinite(number):
        raise FeedbackProblem(path, "must be a finite number")
    return number


def _at(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)
