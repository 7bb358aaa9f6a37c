"""Values as every database takes them, so that no row can block those behind it.

JSON is written in ASCII without NaN; a NUL, which PostgreSQL refuses in text, becomes U+FFFD.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from optimizer.control_store.tables import MAX_WORD


def encode(value: Any) -> str:
    """JSON in ASCII; numbers that JSON does not have become null, objects that it does not have their text."""
    try:
        return json.dumps(value, allow_nan=False, default=str)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, default=str)


def text(value: str) -> str:
    """``value`` without what PostgreSQL or UTF-8 can't hold."""
    return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def word(value: str) -> str:
    """``text``, cut to what an index takes."""
    return text(value)[:MAX_WORD]


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
