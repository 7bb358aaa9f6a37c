"""Tables with contextual routes, and a worker that serves one by itself: ``python -m loadtests.contextual``.

Invariant: nothing is learned here, so a run sees the same index from beginning to end; the numbers of an index cost the
same whatever they are.
"""

import argparse
import asyncio
import random
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import uvloop

from loadtests.product import ROUTE
from optimizer import selector_file
from optimizer.context.features import features_of
from optimizer.log.node import StateDirectory
from optimizer.routing import (
    Arm,
    Features,
    Model,
    Price,
    Route,
    RoutingTable,
    Selector,
    Side,
    Upstream,
    Variant,
)
from optimizer.settings import ContextSettings
from optimizer.table_file import write_table
from policies.contextual import Index
from proxy.config.resolver import SecretResolver
from proxy.worker import Worker

FLOOR = 0.01


def features() -> Features:
    """The built-in features: 32 of them."""
    return features_of(ContextSettings())


def index(arms: int, size: int, seed: int = 0) -> Index:
    """An index in which most arms compete for most requests: the dearest case."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(arms, size, size)) / size
    first = np.eye(1, size)
    return Index(
        value=rng.normal(0.0, 0.05, (arms, size)) + 0.7 * first,
        charges=rng.normal(0.0, 0.05, (2, arms, size)) - 4.0 * first,
        spread=np.einsum("kij,klj->kil", root, root),
        noise=np.full(arms, 1e-3),
        given=np.full(arms, FLOOR),
        drawn=np.ones(arms, dtype=np.bool_),
        cost=rng.normal(0.0, 0.1, (arms, size)) - 7.0 * first,
    )


def table(
    *,
    routes: int,
    arms: int,
    url: str = "http://127.0.0.1:9",
    directory: Path | None = None,
    seed: int = 0,
    version: int = 1,
) -> RoutingTable:
    """Routes that share models but not arms; contextual ones, with their blobs in ``directory``, if it is given."""
    rng = random.Random(seed)
    models = tuple(
        Model(f"model-{n}", "mock", f"model-{n}", f"{n:016x}", price=Price(1.0, 2.0, version="v"))
        for n in range(arms)
    )
    described = features()
    made = []
    for number in range(routes):
        own = tuple(
            Arm(f"{number}/model-{n}", f"model-{n}", "default", f"{number * arms + n:016x}", "d")
            for n in range(arms)
        )
        weights = [FLOOR + rng.random() for _ in own]
        shares = tuple(weight / sum(weights) for weight in weights)
        selector = Selector(f"{rng.getrandbits(96):024x}", "thompson", shares)
        side = Side(own, selector, own[0].id)
        route = Route(ROUTE if routes == 1 else f"{ROUTE}-{number}", side)
        if directory is not None:
            name = selector_file.write(directory, index(arms, described.size, seed * routes + number))
            side = replace(side, selector=replace(selector, index=name))
            route = replace(route, control=side, features=described)
        made.append(route)
    upstream = Upstream("mock", "openai", f"{url}/v1", auth="none", max_connections=4000)
    return RoutingTable(
        version, 0.0, "loadtests", (upstream,), models, (Variant("default", "d"),), tuple(made)
    )


async def _serve(options: argparse.Namespace) -> None:
    state = StateDirectory(options.state_dir)
    directory = state.selector_directory if options.contextual else None
    write_table(
        state.table_file, table(routes=1, arms=options.arms, url=options.upstream, directory=directory)
    )
    worker = Worker(state, incarnation=state.allocate_incarnation(), resolver=SecretResolver({}, {}))
    await worker.start("127.0.0.1", options.port)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await worker.stop(0.2)


def main() -> None:
    """Serve one route until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.contextual", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--arms", type=int, default=10)
    parser.add_argument("--contextual", action="store_true")
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
