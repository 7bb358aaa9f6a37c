"""What ``candidate.yaml`` may say: one arm, shares by arm, or the keys of a route block.

The first two are fixed policies. Anything else is a policy that learns, and is compiled like a route of a configuration
file, by the caller; here only the kind is told apart and arm names are looked up in the log.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import fsum, isfinite
from typing import Any

from optimizer.replaying.refusal import ReplayRefused
from optimizer.replaying.targets import Shares

FIXED_KEYS = frozenset(("arm", "probabilities"))
_TOLERANCE = 1e-6


def fixed_target(doc: Mapping[str, Any], arms: Sequence[str], *, name: str = "these shares") -> Shares | None:
    """The fixed policy that ``doc`` describes; None if it describes one that learns.

    Args:
        doc: The document's mapping.
        arms: Arm ids of the log.
        name: What to call shares.

    Raises:
        ReplayRefused: If it names arms that the log does not have, or shares that are none.
    """
    given = FIXED_KEYS & doc.keys()
    if not given:
        return None
    beside = sorted(set(doc) - given)
    if len(given) > 1 or beside:
        others = ", ".join(f"`{key}`" for key in beside) or "`arm`"
        raise ReplayRefused(
            f"`{min(given) if beside else 'probabilities'}` stands alone, but there is {others}."
        )
    if "arm" in given:
        arm = find_arm(doc["arm"], arms)
        return Shares(f"always {arm}", {arm: 1.0})
    shares = doc["probabilities"]
    if not isinstance(shares, Mapping) or not shares:
        raise ReplayRefused("`probabilities` must be a mapping of arms to shares.")
    found: dict[str, float] = {}
    for key, share in shares.items():
        if (
            isinstance(share, bool)
            or not isinstance(share, int | float)
            or not isfinite(share)
            or share < 0.0
        ):
            raise ReplayRefused(f"`probabilities.{key}` must be a share of 0 or more, not {share!r}.")
        arm = find_arm(key, arms)
        found[arm] = found.get(arm, 0.0) + float(share)
    total = fsum(found.values())
    if abs(total - 1.0) > _TOLERANCE:
        raise ReplayRefused(f"`probabilities` must sum to 1, they sum to {total:g}.")
    return Shares(name, found)


def find_arm(given: object, arms: Sequence[str]) -> str:
    """The arm of the log that is meant.

    Raises:
        ReplayRefused: Naming the arms there are.
    """
    text = str(given)
    if text in arms:
        return text
    near = get_close_matches(text, arms, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ReplayRefused(f"The log has no arm {text!r}.{hint} It has: {', '.join(sorted(arms))}.")
