"""Does the split come out as it was drawn? A sample-ratio check that may be looked at after every request.

The evidence is the likelihood of the counts under a Dirichlet belief around the intended shares, over their likelihood
under exactly these shares. It is an e-process: it starts at 1, its expectation stays 1 while the split is right.
Source: Lindon and Malek, "Anytime-valid inference for multinomial count data" (2022).
"""

from collections.abc import Sequence
from math import inf, lgamma, log
from typing import Final

CONCENTRATION: Final = 100.0
"""How closely the alternative clings to the intended shares; larger finds smaller mismatches, later."""


def log_mismatch(
    counts: Sequence[float], shares: Sequence[float], *, concentration: float = CONCENTRATION
) -> float:
    """ln of the evidence against "each unit fell to side k with probability ``shares[k]``".

    Args:
        counts: Units per side, counted when they were assigned.
        shares: Intended probabilities, summing to 1. A side with share 0 must have no unit.
        concentration: Imaginary units behind the alternative, > 0.

    Raises:
        ValueError: If the lengths differ, or ``shares`` are no probabilities.
    """
    if len(counts) != len(shares):
        raise ValueError(f"{len(counts)} counts for {len(shares)} shares")
    if min(shares) < 0.0 or abs(sum(shares) - 1.0) > 1e-9:
        raise ValueError("shares must be probabilities that sum to 1")
    evidence = lgamma(concentration) - lgamma(concentration + sum(counts))
    for count, share in zip(counts, shares, strict=True):
        if share > 0.0:
            weight = concentration * share
            evidence += lgamma(weight + count) - lgamma(weight) - count * log(share)
        elif count > 0:
            return inf
    return evidence
