"""A candidate that learns: the keys of a route block, compiled as in a configuration file, taken along the log.

The models are those of the log: what they cost, how fast and how good they are is known from it, so nothing but the
names is asked of the configuration.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from optimizer.replaying.refusal import ReplayRefused
from optimizer.replaying.replay import usable
from optimizer.replaying.rows import Decisions
from optimizer.replaying.targets import Learned, Shares, Target, learned
from optimizer.settings import RouteSettings
from proxy.config.load import load_text
from proxy.config.problems import ConfigProblems, describe_problems, problems_of_block

_UPSTREAM = "log"
_PRICE = {"input": 1.0, "output": 1.0}
# Freezing an index takes milliseconds; so many are enough to follow what is learned over any log.
_FREEZINGS = 2000
_LEAST_OUTCOMES = 25


def learning_target(
    doc: Mapping[str, Any],
    decisions: Decisions,
    name: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Target, Decisions]:
    """The policy that a route block describes, and the decisions that it can be judged by.

    Raises:
        ReplayRefused: If the block has problems, or names what the log does not have.
    """
    from optimizer.loop import RouteLoop  # noqa: PLC0415 - numerical, and only for policies that learn

    route = compile_route(doc, decisions)
    if route.policy.name == "fixed" or not route.optimize:
        shares = Shares(
            name, dict(route.policy.fixed) if route.optimize and route.policy.fixed else {route.baseline: 1.0}
        )
        return shares, usable(decisions, shares)
    if route.policy.name != "thompson":
        raise ReplayRefused(
            f"only `thompson` and `fixed` policies can be replayed, not `{route.policy.name}`."
        )
    places = [decisions.arms.index(arm.id) for arm in route.arms]
    decisions = usable(decisions, Shares(name, {arm.id: 1.0 for arm in route.arms}))
    if not len(decisions):
        raise ReplayRefused("no request of the log had all arms of the policy.")
    size = 1
    if route.context is not None:
        if decisions.x is None:
            raise ReplayRefused(
                "The policy looks at requests, but the log has no features of them: "
                "they are logged by routes with `context`."
            )
        size = int(decisions.x.shape[1])
    every = max(_LEAST_OUTCOMES, len(decisions) // _FREEZINGS)
    loop = RouteLoop(route, size=size, start=float(decisions.at[0]), every=every)
    rows = learned(loop, np.array(places, dtype=np.int64), decisions, size, progress)
    return Learned(name, rows), decisions


def compile_route(doc: Mapping[str, Any], decisions: Decisions) -> RouteSettings:
    """``doc`` as the settings of a route over the log's arms.

    Raises:
        ReplayRefused: Naming every problem with its path.
    """
    import yaml  # noqa: PLC0415 - slow to import

    block = dict(doc)
    arms = block.pop("arms", None)
    wanted = list(decisions.arms) if arms is None else [_name(arm) for arm in _listed(arms)]
    unknown = [arm for arm in wanted if arm not in decisions.arms]
    if unknown:
        raise ReplayRefused(
            f"The log has no arm {unknown[0]!r}. It has: {', '.join(sorted(decisions.arms))}."
        )
    baseline = decisions.arms[int(decisions.baseline[-1])] if decisions.baseline[-1] >= 0 else wanted[0]
    block.setdefault("baseline", baseline if baseline in wanted else wanted[0])
    file = {
        "upstreams": {_UPSTREAM: {"base_url": "http://127.0.0.1:9/v1", "auth": "none"}},
        # Costs come from the log; a price only says that they are known.
        "models": {f"model{place}": {"upstream": _UPSTREAM, "price": _PRICE} for place in range(len(wanted))},
        "routes": {
            decisions.route: {
                **block,
                "arms": [{"model": f"model{place}", "id": arm} for place, arm in enumerate(wanted)],
            }
        },
    }
    try:
        loaded = load_text(yaml.safe_dump(file), {})
    except ConfigProblems as refused:
        own = problems_of_block(refused.problems, "routes", decisions.route)
        raise ReplayRefused(describe_problems(own, origin="the policy")) from refused
    route = loaded.settings.route(decisions.route)
    assert route is not None
    return replace(route, judge=None)


def _listed(arms: object) -> list[Any]:
    if not isinstance(arms, list) or not arms:
        raise ReplayRefused("`arms` must be a list of the log's arms.")
    return arms


def _name(arm: object) -> str:
    if isinstance(arm, Mapping):
        return str(arm.get("id") or arm.get("model"))
    return str(arm)
