"""Reading parsed JSON that may have any shape: the expected type, or the empty value of it.

Peers send anything; with these a reader says what it expects and never trips over what it got.
"""

from collections.abc import Mapping
from typing import Any


def text_of(value: Any) -> str:
    return value if type(value) is str else ""


def items_of(value: Any) -> list[Any]:
    return value if type(value) is list else []


def object_of(value: Any) -> Mapping[str, Any]:
    return value if type(value) is dict else {}
