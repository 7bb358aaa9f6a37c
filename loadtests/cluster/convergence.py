"""How many requests a cluster needs to find the best arm, against how old its tables are and how many nodes it has.

One owner learns from all nodes' traffic with the product's own loop; every node decides by the table that was frozen
``staleness`` seconds ago. Invariant: the best arm is named by the world, never by what was learned.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from loadtests.learning.routes import route
from loadtests.learning.team import Team
from optimizer.loop import RouteLoop
from optimizer.simulating.experiment import mean_and_deviation
from policies.contextual import ContextualSelector

NODES: Final = (1, 2, 4, 8)
STALENESS_S: Final = (0.1, 0.3, 1.0, 3.0, 10.0)
RATES: Final = {"good": 0.85, "fair": 0.75, "poor": 0.65}
"""Chance of a good rating; arms differ by what real models of one class differ by."""
PER_NODE: Final = 25.0
RATED: Final = 0.5
RATED_AFTER_S: Final = 1.0
SHARE: Final = 0.8
WINDOW: Final = 100
"""Requests over which the best arm's probability is averaged."""
PUBLISH_S: Final = (0.1, 0.5)
"""Tables follow each other at half their age, within these bounds; the upper one is the product's own."""
HORIZON: Final = 3_000
"""Requests that every run has; the share of the best arm over all of them shows what old tables cost."""
_NEVER: Final = 10**9
_ONE = np.ones(1, dtype=np.float32)


def convergence(team: Team) -> Sequence[Mapping[str, Any]]:
    """Rows: staleness, nodes, requests and seconds to 80 % share with their deviations between seeds."""
    cells = [(staleness, nodes) for staleness in STALENESS_S for nodes in NODES]
    tasks = [(staleness, nodes, seed) for staleness, nodes in cells for seed in range(team.seeds)]
    found = team.run("convergence", until_share, tasks)
    rows = []
    for place, (staleness, nodes) in enumerate(cells):
        own = found[place * team.seeds : (place + 1) * team.seeds]
        requests, deviation = mean_and_deviation([float(count) for count, _ in own])
        share, share_deviation = mean_and_deviation([share for _, share in own])
        rows.append(
            {
                "staleness_s": staleness,
                "nodes": nodes,
                "requests": requests,
                "sd": deviation,
                "most": max(count for count, _ in own),
                "seconds": requests / (PER_NODE * nodes),
                "behind": staleness * PER_NODE * nodes,
                "share": share,
                "share_sd": share_deviation,
            }
        )
    return rows


def until_share(task: tuple[float, int, int]) -> tuple[int, float]:
    """One run: requests of all nodes until the best arm's mean probability over a window reaches the share, and its
    share of all requests; the horizon when it never does."""
    staleness, nodes, seed = task
    rng = np.random.default_rng([seed, 0xC1])
    names = sorted(RATES, key=lambda name: RATES[name])
    best = names.index("good")
    loop = RouteLoop(route(names, baseline="poor"), size=1, every=_NEVER)
    in_use = ContextualSelector("node", loop.frozen.index)
    published: deque[tuple[float, ContextualSelector]] = deque()
    ratings: deque[tuple[float, int, float, float]] = deque()
    window: deque[float] = deque(maxlen=WINDOW)
    reached, taken = HORIZON, 0
    gap = 1.0 / (PER_NODE * nodes)
    pause = next_table = min(max(staleness / 2, PUBLISH_S[0]), PUBLISH_S[1])
    for number in range(HORIZON):
        at = number * gap
        while at >= next_table:
            while ratings and ratings[0][0] <= next_table:
                _, arm, decided, value = ratings.popleft()
                loop.rating(arm, _ONE, at=decided, value=value)
            loop.refresh()
            # The table is out at once; a node has it when it is as old as all its tables are.
            published.append((next_table + staleness, ContextualSelector("node", loop.frozen.index)))
            next_table += pause
        while published and published[0][0] <= at:
            in_use = published.popleft()[1]
        # Every node uses the same table at the same age, so whose request it is changes nothing but the rate.
        arm, shares = in_use.choose(float(rng.random()), in_use.full_mask, _ONE)
        window.append(shares[best])
        taken += arm == best
        loop.outcome(arm, _ONE, at=at, cost_usd=0.001, latency_s=0.5)
        if rng.random() < RATED:
            value = float(rng.random() < RATES[names[arm]])
            ratings.append((at + RATED_AFTER_S, arm, at, value))
        if reached == HORIZON and len(window) == WINDOW and sum(window) >= SHARE * WINDOW:
            reached = number + 1
    return reached, taken / HORIZON
