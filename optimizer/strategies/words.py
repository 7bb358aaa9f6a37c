"""How strategies say things, and the few answers that several of them give alike."""

from dataclasses import replace

from optimizer.rollouts.records import Candidate
from optimizer.strategies.base import NOT_APPLICABLE, NoProposal, Situation
from optimizer.strategies.figures import Figures
from optimizer.strategies.solver import ArmMask
from policies.types import FloatArray


def percent(share: float) -> str:
    """``0.953`` as ``95.3 %``."""
    return f"{100.0 * share:.3g} %"


def usd(amount: float) -> str:
    """Three digits of an amount of money, however small."""
    return f"${amount:.3g}" if 0.0 < abs(amount) < 1.0 else f"${amount:.2f}"


def arms_text(figures: Figures, shares: FloatArray) -> str:
    """The arms with more than the floor, the greatest share first: ``80 % a, 15 % b``."""
    order = sorted(range(len(shares)), key=lambda index: (-shares[index], index))
    main = [index for index in order if shares[index] > figures.floors[index] + 1e-6] or order[:1]
    return ", ".join(f"{percent(float(shares[index]))} {figures.ids[index]}" for index in main)


def fixed_candidate(figures: Figures, shares: FloatArray) -> Candidate:
    """A candidate that gives exactly ``shares``."""
    policy = figures.situation.route.policy
    return Candidate(policy=replace(policy, name="fixed", fixed=figures.fixed(shares)))


def learning_off(situation: Situation) -> NoProposal | None:
    """Routes that play their baseline by order, or have nothing to choose."""
    route = situation.route
    if not route.optimize:
        return NoProposal(NOT_APPLICABLE, f"The route {route.name} is switched off (`optimize: false`).")
    if len(route.arms) < 2:
        return NoProposal(
            NOT_APPLICABLE, f"The route {route.name} has a single arm, so there is nothing to choose."
        )
    return None


def ids_at(figures: Figures, chosen: ArmMask) -> list[str]:
    """Ids of the chosen arms (bool per arm)."""
    return [arm for arm, yes in zip(figures.ids, chosen, strict=True) if yes]
