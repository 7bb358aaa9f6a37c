"""Which keys are read and checked already, but act only from a later step of the project on.

``check-config`` reports each that a file sets. A step that makes a key act removes its line here.
"""

from dataclasses import dataclass
from typing import Any

from proxy.config.problems import Findings, KeyPath


@dataclass(frozen=True, slots=True)
class Inactive:
    """A key, the step that will make it act, and what happens meanwhile."""

    path: KeyPath
    step: int
    meanwhile: str


INACTIVE: tuple[Inactive, ...] = (
    Inactive(("redis",), 5, "one node needs no Redis"),
    Inactive(
        ("kafka", "group_id"), 5, "events are shipped; reading them back as a group comes with several nodes"
    ),
)


def report_inactive(data: dict[str, Any], findings: Findings) -> None:
    """Add a note for every inactive key that ``data`` (in the normal form) sets."""
    for entry in INACTIVE:
        place: Any = data
        for part in entry.path:
            place = place.get(part) if isinstance(place, dict) else None
        if place is not None:
            findings.note(entry.path, entry.meanwhile + ".", step=entry.step)
