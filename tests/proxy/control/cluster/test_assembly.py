"""The node's table out of the owners': configurations that differ, versions that workers use, files, a bad disk."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from optimizer import guard
from optimizer.cluster.types import Version
from optimizer.evidence import NoEvidence
from optimizer.log.node import StateDirectory
from optimizer.publisher import Publisher
from optimizer.routing import RoutingTable
from optimizer.settings import Settings
from optimizer.table_file import TableReader, write_table
from proxy.config.load import load
from proxy.control.cluster import assembly as assembling
from proxy.control.cluster.assembly import UNUSED_S, Assembly, Piece
from proxy.control.cluster.workers import Workers
from proxy.control.journal import Journal

CONFIG = """
upstreams:
  sim: {base_url: "http://127.0.0.1:9/v1"}
models:
  small: {upstream: sim, model: small, price: {input: 1, output: 4}}
  large: {upstream: sim, model: large, price: {input: 10, output: 40}}
routes:
  ask: {arms: [small, large], baseline: large}
  chat: {arms: [small, large], baseline: large}
"""
SHARDS = {"ask": 0, "chat": 1}


class Scene:
    """A node's assembly, its clock and what its owners would publish."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1_000_000.0
        self.state = StateDirectory(path / "state")
        self.journal = Journal(self.state, segment_bytes=1 << 20, now=lambda: self.now)
        self.settings = self.read(CONFIG)
        self.assembly = self.made()

    def made(self, shard_of: Callable[[str], int | None] = SHARDS.get) -> Assembly:
        return Assembly(self.state, shard_of=shard_of, journal=self.journal, now=lambda: self.now)

    def read(self, text: str) -> Settings:
        file = self.path / "config.yaml"
        file.write_text(text)
        return load(file, {}).settings

    def table(self, *routes: str, split: str = "", settings: Settings | None = None) -> RoutingTable:
        """What an owner publishes; ``split`` divides the traffic of a route."""
        built = Publisher(seed=1).build(settings or self.settings, NoEvidence(), version=1, now=0.0)
        chosen = tuple(
            replace(route, candidate=route.control, candidate_fraction=0.5, rollout="ro")
            if route.name == split
            else route
            for route in built.routes
            if route.name in routes
        )
        overlays = tuple({"id": f"opt-{route}", "route": route} for route in routes if route == split)
        return replace(built, routes=chosen, overlays=overlays)

    def offer(self, route: str, generation: int = 1, number: int = 1, **options: Any) -> bool:
        version = Version(generation, number)
        return self.assembly.offer(Piece(SHARDS[route], version, self.table(route, **options)))

    def split(self) -> set[str]:
        """Routes of the table that workers have whose traffic is divided."""
        table = TableReader(self.state.table_file).poll()
        assert table is not None
        return {route.name for route in table.routes if route.candidate is not None}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_route_that_is_configured_otherwise_is_said_once(scene, caplog):
    """While the file is changed node by node, an owner that learns publishes every second."""
    other = scene.read(CONFIG.replace("model: small,", "model: tiny,"))
    for number in range(1, 6):
        scene.offer("ask", number=number, settings=other, split="ask")
        scene.assembly.write(scene.settings)
    assert scene.split() == set()
    assert len([record for record in caplog.records if "another one" in record.message]) == 1
    scene.assembly.write(other)
    assert scene.split() == {"ask"}
    scene.assembly.write(scene.settings)
    assert len([record for record in caplog.records if "another one" in record.message]) == 2


def test_nobody_has_said_that_a_candidate_is_guarded_before_its_shard_is_known(scene):
    write_table(scene.state.table_file, scene.table("ask", "chat", split="chat"))
    unknown = scene.made(lambda route: None)
    unknown.write(scene.settings)
    assert unknown.candidates() == {None}
    known = scene.made()
    known.write(scene.settings)
    assert known.candidates() == {1}


def test_what_only_the_last_table_says_stays_until_an_owner_says_otherwise(scene):
    """The routes of it stay too, and nobody could tell why they are as they are."""
    before = scene.table("ask", "chat", split="chat")
    write_table(scene.state.table_file, before)
    scene.assembly = scene.made()
    scene.offer("ask")
    scene.assembly.write(scene.settings)
    assert scene.split() == {"chat"}
    assert scene.assembly.table.overlays == before.overlays
    scene.offer("chat")
    scene.assembly.write(scene.settings)
    assert scene.split() == set()
    assert scene.assembly.table.overlays == ()


@pytest.mark.parametrize("taking", [True, False])
def test_a_disk_that_refuses_to_take_traffic_away_does_not_keep_it(scene, monkeypatch, taking):
    scene.offer("chat", split="chat")
    scene.assembly.write(scene.settings)
    guard.renew(scene.state.guard_file)

    def refuse(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(assembling, "write_table", refuse)
    scene.offer("chat", number=2)
    with pytest.raises(OSError, match="No space"):
        scene.assembly.write(scene.settings, taking=taking)
    assert scene.assembly.is_uncertain
    assert scene.state.guard_file.exists() is not taking


def selected(table: RoutingTable, route: str, index: str) -> RoutingTable:
    """``table`` with a route whose selector has an index."""
    routes = []
    for each in table.routes:
        selector = replace(each.control.selector, index=index)
        changed = replace(each, control=replace(each.control, selector=selector))
        routes.append(changed if each.name == route else each)
    return replace(table, routes=tuple(routes))


def test_files_of_a_route_that_does_not_fit_yet_are_kept(scene):
    """They are used as soon as this node's configuration has followed."""
    other = scene.read(CONFIG.replace("model: small,", "model: tiny,"))
    scene.assembly.keep("ix-1", b"index")
    scene.assembly.keep("ix-0", b"index")
    table = selected(scene.table("ask", settings=other), "ask", "ix-1")
    scene.assembly.offer(Piece(0, Version(1, 1), table))
    scene.assembly.write(scene.settings)
    assert scene.assembly.routes()[0].control.selector.index is None
    for name in ("ix-0", "ix-1"):
        os.utime(scene.state.selector_directory / name, (1.0, 1.0))
    scene.assembly.sweep()
    assert scene.assembly.has("ix-1")
    assert not scene.assembly.has("ix-0")


@pytest.mark.parametrize("way", ["adopt", "has"])
def test_an_old_file_that_is_about_to_be_named_again_is_not_swept(scene, tmp_path, way):
    """A sweep looks in a thread, at the table as it was before."""
    scene.assembly = scene.made()
    scene.now = os.stat(tmp_path).st_mtime
    old = scene.now - 2 * UNUSED_S
    own = tmp_path / "own"
    own.mkdir()
    (own / "ix-1").write_bytes(b"index")
    scene.assembly.adopt("ix-1", own)
    os.utime(own / "ix-1", (old, old))
    os.utime(scene.state.selector_directory / "ix-1", (old, old))
    if way == "adopt":
        scene.assembly.adopt("ix-1", own)
    else:
        assert scene.assembly.has("ix-1")
    scene.assembly.sweep()
    assert scene.assembly.read("ix-1") == b"index"


def test_versions_that_workers_use_are_told_by_their_reports(scene):
    scene.offer("ask")
    scene.assembly.write(scene.settings)
    first = scene.assembly.version
    scene.offer("chat", number=7, split="chat")
    scene.assembly.write(scene.settings)
    assert scene.assembly.running(first) == {0: Version(1, 1)}
    assert scene.assembly.running(scene.assembly.version) == {0: Version(1, 1), 1: Version(1, 7)}
    # The same routes under a newer version are in use at once.
    scene.offer("ask", generation=2)
    assert not scene.assembly.write(scene.settings)
    assert scene.assembly.running(scene.assembly.version)[0] == Version(2, 1)
    assert scene.assembly.running(first) == {0: Version(1, 1)}


def report(worker: int, at: str, version: int) -> dict[str, Any]:
    return {
        "type": "llm_optimizer.worker.stats.v1",
        "time": at,
        "data": {"worker": worker, "table_version": version},
    }


def test_workers_that_are_silent_or_of_another_time_are_not_counted():
    """A clock that was set back leaves reports of the future, of workers that may be dead."""
    workers, at = Workers(), 1_000.0
    workers.observe(report(1, "1970-01-01T00:16:40.000Z", 3), None)  # type: ignore[arg-type]
    workers.observe(report(2, "1970-01-01T00:16:38.000Z", 4), None)  # type: ignore[arg-type]
    assert sorted(workers.tables(at)) == [3, 4]
    assert workers.tables(at + 4.0) == [3]
    assert workers.tables(at - 3600.0) == []
