"""New tables on their way to a serving worker: in slices, with their blobs, the newest one last."""

import asyncio
import random
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optimizer import selector_file
from optimizer.context.features import features_of
from optimizer.routing import (
    Arm,
    ClientFeature,
    Model,
    Route,
    RoutingTable,
    Selector,
    Side,
    Upstream,
    Variant,
)
from optimizer.settings import ContextSettings
from optimizer.table_file import TableReader, write_table
from policies.contextual import Index
from proxy.compiled import CompiledTable
from proxy.compiler import Compiler
from proxy.dispatch import decide
from proxy.envelope import parse
from proxy.http1.client import Origin, Pool
from proxy.resilience.breaker import Board
from proxy.selectors import Blob, Selectors
from proxy.table_intake import TableIntake

FEATURES = features_of(ContextSettings())


def _table(
    version: int, *, routes: int = 1, index: str | None = None, url: str = "http://127.0.0.1:1"
) -> RoutingTable:
    arms = tuple(Arm(name, name, "default", name, "d") for name in "ab")
    shares = (0.5 + version / 1000, 0.5 - version / 1000)
    side = Side(arms, Selector(f"s{version}", "thompson", shares, index), "a")
    return RoutingTable(
        version,
        0.0,
        "",
        (Upstream("up", "openai", url, auth="none"),),
        tuple(Model(name, "up", name, name) for name in "ab"),
        (Variant("default", "d"),),
        tuple(
            Route(f"r{number}", side, features=FEATURES if index is not None else None)
            for number in range(routes)
        ),
    )


def _index(seed: int = 0) -> Index:
    arms, size = 2, FEATURES.size
    return Index(
        value=np.random.default_rng(seed).normal(size=(arms, size)),
        charges=np.zeros((0, arms, size)),
        spread=np.zeros((arms, size, size)),
        noise=np.full(arms, 0.1),
        given=np.zeros(arms),
        drawn=np.ones(arms, dtype=np.bool_),
        cost=np.zeros((arms, size)),
    )


class SlowSelectors(Selectors):
    """Blobs on a disk that answers when it is let."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.answer = threading.Event()

    def load(self, names: Iterable[str]) -> dict[str, Blob]:
        assert self.answer.wait(10)
        return super().load(names)


class Scene:
    """An intake on a directory, with what came out of it."""

    def __init__(self, path: Path, selectors: Selectors | None = None) -> None:
        self.directory = path
        self.used: list[CompiledTable] = []
        self.pools: list[Pool] = []
        self.retired: list[Pool] = []
        self.selectors = selectors or Selectors(path)
        self.compiler = Compiler(
            make_pool=self._pool,
            resolve_secret=lambda name: None,
            retire=self.retired.append,
            unit_secret=b"s" * 32,
            board=Board(clock=time.perf_counter, uniform=random.Random(1).random),
            selectors=self.selectors,
        )
        self.intake = TableIntake(
            TableReader(path / "table.json"),
            self.selectors,
            self.compiler,
            use=self.used.append,
            loop=asyncio.get_running_loop(),
        )

    def _pool(self, origin: Origin) -> Pool:
        self.pools.append(Pool(origin))
        return self.pools[-1]

    def publish(self, table: RoutingTable) -> None:
        write_table(self.directory / "table.json", table)

    async def until(self, version: int) -> CompiledTable:
        deadline = time.monotonic() + 5
        while not self.used or self.used[-1].version != version:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        return self.used[-1]


async def test_a_large_table_is_compiled_between_other_work(tmp_path: Path) -> None:
    """The loop turns many times before a table of many routes is in use, and it is whole then."""
    scene = Scene(tmp_path)
    scene.publish(_table(1, routes=2000))
    scene.intake.poll()

    turns = 0
    while not scene.used:
        turns += 1
        await asyncio.sleep(0)

    assert turns > 5
    assert len(scene.used[0].routes) == 2000


async def test_a_newer_table_replaces_one_on_its_way(tmp_path: Path) -> None:
    """Only the newer one is used, and a pool that was made for the older one alone is given back."""
    scene = Scene(tmp_path)
    scene.publish(_table(1))
    scene.intake.take_new()
    scene.publish(_table(2, routes=3000, url="http://127.0.0.1:2"))
    scene.intake.poll()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    scene.publish(_table(3))
    scene.intake.poll()

    await scene.until(3)

    assert [table.version for table in scene.used] == [1, 3]
    assert len(scene.pools) == 2
    assert scene.retired == [scene.pools[1]]


async def test_a_table_does_not_wait_for_a_slow_file(tmp_path: Path) -> None:
    """At the next poll it is used without it, its arms drawn as before; the file counts when it comes."""
    selectors = SlowSelectors(tmp_path)
    scene = Scene(tmp_path, selectors)
    first = selector_file.write(tmp_path, _index(1))
    selectors.answer.set()
    scene.publish(_table(1, index=first))
    scene.intake.take_new()
    selectors.answer.clear()
    second = selector_file.write(tmp_path, _index(2))
    scene.publish(_table(2, index=second))

    scene.intake.poll()
    await asyncio.sleep(0.01)
    waiting = [table.version for table in scene.used]
    scene.intake.poll()
    early = (await scene.until(2)).routes["r0"].control
    selectors.answer.set()
    deadline = time.monotonic() + 5
    while len(scene.used) < 3:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
    late = scene.used[-1].routes["r0"].control
    scene.intake.close()

    assert waiting == [1]
    assert early.selector.selector_id == "s1"
    assert early.contextual is not None
    assert early.contextual.selector_id == "s1"
    assert late.contextual is not None
    assert (late.selector.selector_id, late.contextual.selector_id) == ("s2", "s2")


async def test_what_was_drawn_by_is_not_asked_about_other_features(tmp_path: Path) -> None:
    """A route whose features change with its file still on the way draws by mean probabilities until it is there."""
    selectors = SlowSelectors(tmp_path)
    selectors.answer.set()
    scene = Scene(tmp_path, selectors)
    scene.publish(_table(1, index=selector_file.write(tmp_path, _index(1))))
    scene.intake.take_new()
    selectors.answer.clear()
    plan = ClientFeature("tier", "header", "x-tier", values=("gold", "free"))
    wider = features_of(ContextSettings(client=(plan,)))
    second = _table(2, index="sel-that-is-slow")
    scene.publish(replace(second, routes=(replace(second.routes[0], features=wider),)))

    scene.intake.poll()
    scene.intake.poll()
    table = await scene.until(2)
    envelope = parse("chat", b'{"model":"r0","messages":[{"role":"user","content":"hi"}]}')
    decision = decide(table, envelope, {b"x-tier": b"gold"}, uniform=lambda: 0.5, guarded=True)
    selectors.answer.set()
    scene.intake.close()

    assert decision.sight is not None
    assert len(decision.sight.context.x) == wider.size == FEATURES.size + 2
    assert decision.sight.vector is None
    assert decision.propensity == table.source.routes[0].control.selector.probabilities[decision.arm.index]


async def test_tables_that_come_faster_than_their_files_are_used(tmp_path: Path) -> None:
    """Taking traffic away does not wait for a disk, also when every poll finds another table with another file."""
    selectors = SlowSelectors(tmp_path)
    selectors.answer.set()
    scene = Scene(tmp_path, selectors)
    scene.publish(_table(1, index=selector_file.write(tmp_path, _index(1))))
    scene.intake.take_new()
    selectors.answer.clear()

    for version in (2, 3, 4):
        scene.publish(_table(version, index=f"sel-{version}"))
        scene.intake.poll()
        await asyncio.sleep(0.01)
    scene.intake.poll()
    await asyncio.sleep(0.01)
    used = [table.version for table in scene.used]
    selectors.answer.set()
    scene.intake.close()

    assert used == [1, 3, 4]


async def test_an_unusable_table_leaves_the_old_one(tmp_path: Path) -> None:
    """It is counted, and what depends on the table later still finds the one in use."""
    scene = Scene(tmp_path)
    scene.publish(_table(1))
    scene.intake.take_new()
    broken = _table(2)
    scene.publish(replace(broken, models=()))

    scene.intake.poll()
    await asyncio.sleep(0.01)

    assert scene.intake.unusable == 1
    assert scene.intake.again()
    assert [table.version for table in scene.used] == [1, 1]


async def test_what_did_not_change_is_carried_over(tmp_path: Path) -> None:
    """Arms and their health are the same objects when only probabilities moved, whole sides when nothing did."""
    scene = Scene(tmp_path)
    for version in (1, 1, 2):
        scene.publish(replace(_table(version), published_at=float(len(scene.used))))
        scene.intake.take_new()
    one, same, moved = (table.routes["r0"].control for table in scene.used)
    plain = [table.plain["a"] for table in scene.used]

    assert same is one
    assert moved is not one
    assert all(new is old for new, old in zip(moved.arms, one.arms, strict=True))
    assert moved.health is one.health
    assert moved.probabilities != one.probabilities
    assert moved.fixed_facts is not one.fixed_facts
    assert plain[2] is plain[0]


async def test_a_breaker_reaches_the_newest_table(tmp_path: Path) -> None:
    """Also when the sides were carried over with other probabilities, or rebuilt around a changed model."""
    scene = Scene(tmp_path)
    for version in (1, 2):
        scene.publish(_table(version))
        scene.intake.take_new()
    changed = _table(3)
    scene.publish(
        replace(changed, models=(replace(changed.models[0], context_tokens=100), changed.models[1]))
    )
    scene.intake.take_new()

    side = scene.used[-1].routes["r0"].control
    breaker = side.arms[0].breaker
    while not breaker.down:
        breaker.failed(0.0, breaker.started())

    assert side.arms[0].model.context_tokens == 100
    assert side.health.down == 0b01


@pytest.mark.parametrize("index", [None, "sel-000000000000000000000000"])
async def test_nothing_imports_numpy_for_plain_tables(tmp_path: Path, index: str | None) -> None:
    """Only a table with a route that looks at requests asks for anything."""
    missing = Selectors(tmp_path).missing(_table(1, index=index))

    assert missing == ([] if index is None else [index])
