"""Answers that are kept, so that a request that is sent again is not carried out again."""

from dataclasses import dataclass
from typing import Final

KEEP_ANSWERS_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to the request with this hash. ``at`` in Unix seconds."""

    at: float
    request_hash: str
    status: int
    body: bytes
