"""The routes that the tables are measured with: the product's defaults, and what a table is about."""

from collections.abc import Sequence

from optimizer.routing import Arm
from optimizer.settings import (
    Constraints,
    ContextSettings,
    DriftSettings,
    Objective,
    PolicySettings,
    RouteSettings,
)

QUALITY = (Objective("quality", 1.0, maximize=True),)
COST = (Objective("cost", 1.0, maximize=False),)


def route(
    arms: Sequence[str],
    *,
    baseline: str,
    objectives: tuple[Objective, ...] = QUALITY,
    constraints: Constraints | None = None,
    context: ContextSettings | None = None,
    policy: PolicySettings | None = None,
) -> RouteSettings:
    """A route over arms that are models of their own. Drift is looked for as by default."""
    return RouteSettings(
        name="measured",
        arms=tuple(Arm(arm, arm, "default", f"model:{arm}", "variant:default") for arm in arms),
        baseline=baseline,
        objectives=objectives,
        policy=policy or PolicySettings(),
        context=context,
        constraints=constraints or Constraints(),
        drift=DriftSettings(),
    )
