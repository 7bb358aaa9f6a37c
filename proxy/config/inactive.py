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


_STRATEGY = "no changes to routes are proposed yet"
_ROLLOUT = "changes reach traffic at once; there are no rollouts yet"

INACTIVE: tuple[Inactive, ...] = (
    Inactive(
        ("optimization", "interval_sec"),
        3,
        "strategies do not run in intervals yet; the bandit learns all the time",
    ),
    Inactive(
        ("optimization", "quality_threshold"),
        3,
        "no constraint on quality is enforced yet; its weight counts",
    ),
    Inactive(("optimization", "cost_reduction"), 3, _STRATEGY),
    Inactive(("optimization", "latency_optimization"), 3, _STRATEGY),
    Inactive(
        ("optimization", "prompt_optimization", "test_duration_sec"),
        3,
        "the comparison runs until the file changes",
    ),
    Inactive(("optimization", "prompt_optimization", "significance_level"), 3, "no winner is declared yet"),
    Inactive(
        ("optimization", "prompt_optimization", "metrics"), 3, "they are recorded, and judged from then on"
    ),
    Inactive(("deployment", "environment"), 3, _ROLLOUT),
    Inactive(("deployment", "auto_promote"), 3, _ROLLOUT),
    Inactive(("deployment", "canary"), 3, _ROLLOUT),
    Inactive(("deployment", "health_check"), 3, _ROLLOUT),
    Inactive(("database",), 3, "nothing needs a database yet; statistics are kept in the state directory"),
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
    listed = data.get("optimization", {}).get("strategies")
    for index, name in enumerate(listed if isinstance(listed, list) else ()):
        if name in ("cost_reduction", "latency_optimization"):
            findings.note(("optimization", "strategies", index), f"{name}: {_STRATEGY}.", step=3)
