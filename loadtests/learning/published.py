"""The published router on our halves, in a Python of its own: ``python published.py world.npz SEED``.

Runs where the package ``paretobandit`` is installed and nothing of ours is, so it imports neither this project nor what
it depends on beyond numpy. The router is built as its own demonstration builds one without its shipped priors (which
need its embedding model): the cold-start parameters it publishes, its pacer, and our features in place of its
embeddings. It is told the true reward and cost of what it chose, as we are.
"""

import json
import logging
import sys

import numpy as np


def main(source: str, seed: int) -> None:
    """Play every budget with one seed; print [reward, cost] by budget as JSON."""
    # What is published is imported late, where the other Python is known to have it.
    from pareto_bandit.budget_pacer import BudgetPacer  # noqa: PLC0415
    from pareto_bandit.config import BEST_K3_TABULA_RASA_HPARAMS as HYPER  # noqa: PLC0415
    from pareto_bandit.feature_service import FeatureService  # noqa: PLC0415
    from pareto_bandit.router import BanditRouter  # noqa: PLC0415

    logging.disable(logging.WARNING)
    data = np.load(source, allow_pickle=False)
    x, reward, cost = data["x"], data["reward"], data["cost"]
    arms = [str(arm) for arm in data["arms"]]
    column = {arm: number for number, arm in enumerate(arms)}
    registry = {
        arm: {"model_id": arm, "input_cost_per_m": prices[0], "output_cost_per_m": prices[1]}
        for arm, prices in zip(arms, data["prices"].tolist(), strict=True)
    }
    # Its vectors end with the bias.
    x = np.ascontiguousarray(np.concatenate((x[:, 1:], x[:, :1]), axis=1))
    found = []
    for budget in data["budgets"].tolist():
        router = BanditRouter.create(
            model_registry={arm: dict(known) for arm, known in registry.items()},
            feature_service=FeatureService.for_precomputed(x.shape[1]),
            priors="none",
            alpha=HYPER["alpha"],
            forgetting_factor=HYPER["forgetting_factor"],
            budget_pacer=BudgetPacer(budget),
            bandit_seed=seed,
        )
        kept = []
        for number, row in enumerate(data["orders"][seed]):
            model, log = router.route(x[row])
            log.cost_usd = float(cost[row, column[model]])
            router.process_feedback(log.request_id, reward=float(reward[row, column[model]]))
            if number >= int(data["before"]):
                kept.append((float(reward[row, column[model]]), log.cost_usd))
        found.append(np.mean(kept, axis=0).tolist())
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
