"""The seam between learning and deciding: what is known about an arm, asked by route and arm."""

from typing import Protocol

from optimizer.routing import Arm
from policies.types import ArmEvidence


class EvidenceSource(Protocol):
    """Anything that remembers outcomes and feedback per (route, model key, variant key, signal)."""

    def evidence(self, route: str, arm: Arm, *, now: float, half_life_s: float) -> ArmEvidence:
        """What is known about ``arm`` on ``route`` at ``now``, weights halved every ``half_life_s`` seconds.

        An arm never seen has no pulls and no signals; that is not an error.
        """
        ...


class NoEvidence:
    """Knows nothing: the source of the first table and of the static tables in tests."""

    def evidence(self, route: str, arm: Arm, *, now: float, half_life_s: float) -> ArmEvidence:
        """See ``EvidenceSource``."""
        return ArmEvidence(arm=arm.id)
