"""Selectors of steered routes: when they are frozen, what they are made of, and what happens when the disk refuses."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer import reward, selector_file
from optimizer.condenser import Condenser
from optimizer.context.features import ProjectionInfo
from optimizer.context.keeper import ProjectionKeeper
from optimizer.context_book import ContextBook
from optimizer.events import INLINE_VECTOR_ARMS
from optimizer.linear_statistics import DONE, RATED, LinearStatistics
from optimizer.publisher import Publisher
from optimizer.routing import CANDIDATE, CONTROL, Arm, ClientFeature, Features, RoutingTable, Selector
from optimizer.settings import Constraints, ContextSettings, Objective, PolicySettings, RouteSettings, Settings
from optimizer.statistics import Statistics
from optimizer.steering import Ledger

NOON = 1_795_000_000.0
CONTEXT = ContextSettings()
WORDS = ContextSettings(lexical=True, lexical_size=4)


def arms(*names: str) -> tuple[Arm, ...]:
    return tuple(Arm(f"{name}/default", name, "default", f"key-{name}", "key-default") for name in names)


def route(name: str = "auto", *names: str, **changes: Any) -> RouteSettings:
    made = arms(*(names or ("small", "large")))
    plain = RouteSettings(name, made, made[-1].id, (Objective("quality", 1.0, True),), context=CONTEXT)
    return replace(plain, **changes)


def settings(*routes: RouteSettings) -> Settings:
    return Settings("hash", (), (), (), routes)


@dataclass
class Bench:
    """A book with everything around it, and a clock that is set by hand."""

    directory: Path
    now: float = NOON
    pending: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.statistics = Statistics()
        self.linear = LinearStatistics(self.statistics)
        self.ledger = Ledger()
        self.keeper = ProjectionKeeper()
        self.condenser = Condenser(self.keeper, self.directory)
        self.book = ContextBook(
            statistics=self.statistics,
            linear=self.linear,
            ledger=self.ledger,
            condenser=self.condenser,
            relearning=lambda: self.pending,
            directory=self.directory,
            now=lambda: self.now,
        )
        self.publisher = Publisher(seed=1, steered=self.book)

    def configure(self, *routes: RouteSettings) -> Settings:
        made = settings(*routes)
        self.condenser.configure(made)
        self.book.configure(made)
        return made

    def table(self, *routes: RouteSettings, dirty: set[str] | None = None) -> RoutingTable:
        return self.publisher.build(
            settings(*routes), self.statistics, version=1, now=self.now, dirty=dirty
        )

    def teach(self, name: str, better: str, *, route_: str = "auto", count: int = 60, steep: float = 0.0) -> None:
        """Ratings that make one arm the better one: by 0.6 everywhere, and by ``steep`` more per unit of feature 1."""
        rng = np.random.default_rng(3)
        features = self.book.features(route(route_))
        for number in range(count):
            for other in ("small", "large"):
                x = np.zeros(features.size if features is not None else 1, np.float32)
                x[0] = 1.0
                if len(x) > 1:
                    x[1] = rng.normal()
                value = (0.9 if other == better else 0.3) + (steep * x[1] if other == better and len(x) > 1 else 0.0)
                value = float(np.clip(value + 0.02 * rng.normal(), 0.0, 1.0))
                key, at = (route_, f"key-{other}", "key-default"), NOON + number
                taught = [*reward.costs(0.001 if other == "small" else 0.01, "")]
                self.statistics.add(key, at, [(reward.SUCCESS, 1.0), (reward.VALID, 1.0), *taught])
                self.statistics.add(key, at, [(reward.QUALITY, value)])
                if features is not None:
                    self.linear.note(route_, features.version, at, x)
                    self.linear.add(key, features.version, DONE, at, x, taught)
                    self.linear.add(key, features.version, RATED, at, x, [(reward.QUALITY, value)])
        self.book.mark([route_])

    def files(self) -> set[str]:
        return {path.name for path in self.directory.iterdir() if path.name.startswith("sel-")}


@pytest.fixture
def make_bench(tmp_path: Path) -> Callable[[], Bench]:
    return lambda: Bench(tmp_path)


@pytest.fixture
def bench(make_bench: Callable[[], Bench]) -> Bench:
    return make_bench()


def favoured(selector: Selector) -> int:
    return int(np.argmax(selector.probabilities))


# --- at once -------------------------------------------------------------------------------------------


def test_a_new_side_is_frozen_at_once(bench: Bench) -> None:
    """The file is there before the table names it, and its mean is what the table says beside it."""
    bench.configure(route())

    side = bench.table(route()).routes[0]

    selector = side.control.selector
    assert selector.index is not None
    assert selector.id == selector.index
    assert sum(selector.probabilities) == pytest.approx(1.0)
    index = selector_file.load(bench.directory / selector.index)
    assert (index.n_arms, index.size) == (2, side.features.size)
    assert selector.index in bench.book.files


def test_without_context_there_is_no_file(bench: Bench) -> None:
    """Constraints alone give plain probabilities."""
    plain = route(context=None, constraints=Constraints(cost_per_request_usd=0.002))
    bench.configure(plain)
    bench.teach("auto", "large")

    built = bench.table(plain).routes[0]

    assert (built.features, built.control.selector.index, bench.files()) == (None, None, set())
    assert 0.05 < built.control.selector.probabilities[1] < 0.2
    assert [kept.name for kept in bench.book.steering("auto").kept] == ["cost"]


def test_changed_settings_are_followed_at_once(bench: Bench) -> None:
    """Not at the next refresh: the table that says them must keep them."""
    free = route(context=None, constraints=Constraints(cost_per_request_usd=1.0))
    tight = replace(free, constraints=Constraints(cost_per_request_usd=0.0012))
    bench.configure(free)
    bench.teach("auto", "large")
    before = bench.table(free).routes[0].control.selector

    after = bench.table(tight).routes[0].control.selector

    assert before.probabilities[1] > 0.9
    assert after.probabilities[1] < 0.1


def test_a_route_that_is_steered_no_longer_has_no_status(bench: Bench) -> None:
    """Nobody shall read of constraints that are gone; nor is the file kept."""
    held = route(constraints=Constraints(cost_per_request_usd=0.002))
    bench.configure(held)
    bench.table(held)
    assert bench.book.steering("auto") is not None
    plain = route(context=None)
    bench.configure(plain)

    bench.table(plain)

    assert bench.book.steering("auto") is None
    assert bench.book.files == frozenset()


async def test_a_removed_route_is_forgotten(bench: Bench) -> None:
    """Also one that was only inherited."""
    bench.configure(route(), route("other"))
    table = bench.table(route(), route("other"))
    again = Bench(bench.directory)
    again.configure(route())
    again.book.inherit(table.routes)
    again.table(route())
    again.configure(route())

    assert again.book.files == {table.routes[0].control.selector.index}
    await again.book.refresh()
    assert again.book.steering("other") is None


# --- beginning with the last table ---------------------------------------------------------------------


async def test_a_start_begins_with_the_last_indices(bench: Bench, make_bench: Callable[[], Bench]) -> None:
    """Nothing is computed for the first table; what was learned in between is frozen in the next round."""
    bench.configure(route())
    old = bench.table(route())
    again = make_bench()
    again.configure(route())
    again.teach("auto", "small")
    again.book.inherit(old.routes)

    first = again.table(route())
    await again.book.refresh()

    assert first.routes[0].control.selector == old.routes[0].control.selector
    assert again.book.take_moved() == {"auto"}
    assert favoured(again.table(route(), dirty={"auto"}).routes[0].control.selector) == 0


async def test_other_arms_or_features_are_not_inherited(bench: Bench, make_bench: Callable[[], Bench]) -> None:
    """An index is of the arms and features that it was frozen for."""
    bench.configure(route())
    old = bench.table(route())
    for changed in (
        route("auto", "large", "small", baseline="large/default"),
        route(context=ContextSettings(client=(ClientFeature("tier", "header", "x-tier"),))),
    ):
        again = make_bench()
        again.configure(changed)
        again.book.inherit(old.routes)

        built = again.table(changed).routes[0]

        index = selector_file.load(bench.directory / str(built.control.selector.index))
        assert index.size == built.features.size
        assert again.book.steering("auto") is not None  # frozen, not taken over


# --- refreshing ----------------------------------------------------------------------------------------


async def test_at_most_once_a_second(bench: Bench) -> None:
    """New evidence waits until the index is a second old."""
    bench.configure(route())
    bench.table(route())
    bench.teach("auto", "small")
    bench.now += 0.9
    await bench.book.refresh()
    assert bench.book.take_moved() == set()

    bench.now += 0.2
    await bench.book.refresh()

    assert bench.book.take_moved() == {"auto"}
    assert bench.book.take_moved() == set()


async def test_only_when_the_shares_moved(bench: Bench) -> None:
    """The same evidence again makes no new file and no new table."""
    bench.configure(route())
    bench.teach("auto", "small")
    bench.table(route())
    before = bench.files()
    bench.book.mark(["auto"])
    bench.now += 5.0

    await bench.book.refresh()

    assert bench.book.take_moved() == set()
    assert bench.files() == before


async def test_nothing_is_done_without_evidence(bench: Bench) -> None:
    """However old an index is."""
    bench.configure(route())
    bench.table(route())
    bench.teach("auto", "small")
    bench.now += 5.0
    await bench.book.refresh()
    bench.book.take_moved()
    bench.statistics.add(("auto", "key-large", "key-default"), NOON, [(reward.QUALITY, 1.0)] * 1)
    bench.now += 500.0

    await bench.book.refresh()

    assert bench.book.take_moved() == set()


async def test_the_last_evidence_of_a_burst_is_not_lost(bench: Bench) -> None:
    """What comes within the second after a freezing waits, though nobody speaks of it again."""
    bench.configure(route())
    bench.table(route())
    bench.teach("auto", "small")
    for _ in range(6):
        bench.now += 0.25
        await bench.book.refresh()

    assert bench.book.take_moved() == {"auto"}


async def test_evidence_during_a_freezing_is_not_lost(bench: Bench) -> None:
    """It was not part of what is being frozen."""
    bench.configure(route())
    bench.table(route())
    bench.book.mark(["auto"])
    bench.now += 2.0
    round_ = asyncio.create_task(bench.book.refresh())
    await asyncio.sleep(0)  # it has gathered and waits for the thread
    bench.teach("auto", "small")
    await round_
    bench.book.take_moved()
    bench.now += 2.0

    await bench.book.refresh()

    assert bench.book.take_moved() == {"auto"}


async def test_a_clock_that_was_set_back_stops_nothing(bench: Bench) -> None:
    """An index from the future is old."""
    bench.configure(route())
    bench.table(route())
    bench.teach("auto", "small")
    bench.now -= 3600.0

    await bench.book.refresh()

    assert bench.book.take_moved() == {"auto"}


async def test_money_is_paced_by_the_clock(bench: Bench) -> None:
    """With a budget of the day an index is looked at every minute even when nobody asks."""
    daily = route(context=None, constraints=Constraints(cost_per_day_usd=24.0))
    bench.configure(daily)
    bench.teach("auto", "large")
    bench.now = NOON // 86400.0 * 86400.0 + 1000.0
    for second in range(600):
        bench.ledger.account("auto")
        bench.ledger._account("auto").pay(0.002, bench.now - 600 + second)
    bench.table(daily)
    early = bench.book.steering("auto").kept[0].target
    bench.now += 20 * 3600.0
    await bench.book.refresh()

    assert bench.book.steering("auto").kept[0].target > 3.0 * early


async def test_a_side_that_is_gone_meanwhile_stays_gone(bench: Bench) -> None:
    """Whatever was being computed for it."""
    bench.configure(route())
    bench.table(route())
    bench.teach("auto", "small")
    bench.now += 2.0
    round_ = asyncio.create_task(bench.book.refresh())
    await asyncio.sleep(0)
    bench.book.drop("auto", CONTROL)
    await round_

    assert bench.book.take_moved() == set()
    assert bench.book.steering("auto") is None


# --- features ------------------------------------------------------------------------------------------


def project(bench: Bench, name: str = "auto") -> Features:
    """A projection is fitted; the features that the route has then."""
    rows = np.random.default_rng(5).normal(size=(4096, 4)).astype(np.float32)
    file = selector_file.write_projection(bench.directory, rows)
    bench.keeper.adopt(name, ProjectionInfo(file, 4))
    found = bench.condenser.features(route(context=WORDS))
    assert found is not None
    return found


async def test_new_features_wait_until_they_are_learned(bench: Bench) -> None:
    """Until then workers look at what they looked at before; then index and features change together."""
    words = route(context=WORDS)
    bench.configure(words)
    old = bench.table(words).routes[0]
    new = project(bench)
    bench.pending["auto"] = new.version

    waiting = bench.table(words, dirty={"auto"}).routes[0]
    bench.pending.clear()
    bench.book.mark(["auto"])
    bench.now += 2.0
    await bench.book.refresh()
    assert bench.book.take_moved() == {"auto"}
    after = bench.table(words, dirty={"auto"}).routes[0]

    assert waiting.features == old.features
    assert waiting.control.selector == old.control.selector
    assert after.features == new
    assert selector_file.load(bench.directory / str(after.control.selector.index)).size == new.size


async def test_new_features_of_the_same_size_are_a_move(bench: Bench) -> None:
    """Though the shares are the same: the vectors mean something else."""
    words = route(context=WORDS)
    bench.configure(words)
    project(bench)
    first = bench.table(words).routes[0]
    rows = np.random.default_rng(6).normal(size=(4096, 4)).astype(np.float32)
    bench.keeper.adopt("auto", ProjectionInfo(selector_file.write_projection(bench.directory, rows), 4))
    bench.book.mark(["auto"])
    bench.now += 2.0

    await bench.book.refresh()

    assert bench.book.take_moved() == {"auto"}
    second = bench.table(words, dirty={"auto"}).routes[0]
    assert second.features.version != first.features.version


def test_words_that_shall_not_count_are_not_looked_at_any_longer(bench: Bench) -> None:
    """An operator who switches them off does not wait for anything to be learned."""
    bench.configure(route(context=WORDS))
    bench.table(route(context=WORDS))
    bench.configure(route())
    plain = bench.condenser.features(route())
    bench.pending["auto"] = plain.version

    assert bench.table(route()).routes[0].features == plain


def test_headers_that_shall_count_are_looked_at_at_once(bench: Bench) -> None:
    """Only those can be learned from that are logged."""
    bench.configure(route())
    bench.table(route())
    tier = route(context=ContextSettings(client=(ClientFeature("tier", "header", "x-tier"),)))
    bench.configure(tier)
    bench.pending["auto"] = bench.condenser.features(tier).version

    assert bench.table(tier).routes[0].features.client == tier.context.client


# --- sides and sizes -----------------------------------------------------------------------------------


def test_both_sides_have_their_own_index(bench: Bench) -> None:
    """Under the same features; a candidate that ends is dropped."""
    tight = route(constraints=Constraints(cost_per_request_usd=0.0012))
    bench.configure(route())
    bench.teach("auto", "large")

    control = bench.book.selector(route(), CONTROL)
    candidate = bench.book.selector(tight, CANDIDATE)

    assert control.probabilities[1] > 0.8
    assert candidate.probabilities[1] < 0.2
    assert {control.index, candidate.index} <= bench.book.files
    assert bench.book.steering("auto").kept == ()
    bench.book.drop("auto", CANDIDATE)
    assert candidate.index not in bench.book.files


def test_a_candidate_does_not_pay_what_the_control_side_overspent(bench: Bench) -> None:
    """Its own requests are not known well enough to be corrected by."""
    held = route(context=None, constraints=Constraints(cost_per_request_usd=0.004))
    bench.configure(held)
    bench.teach("auto", "large")
    for _ in range(300):
        bench.ledger._account("auto").pay(0.05, NOON)

    control, candidate = bench.book.selector(held, CONTROL), bench.book.selector(held, CANDIDATE)

    assert control.probabilities[1] < 0.7 * candidate.probabilities[1]


def test_too_many_arms_are_not_looked_at(bench: Bench) -> None:
    """A vector of more arms is not logged with each request, so context is left out and nothing else changes."""
    names = [f"m{number}" for number in range(INLINE_VECTOR_ARMS + 1)]
    many = route("auto", *names)
    bench.configure(many)
    plain = Publisher(seed=1).build(settings(replace(many, context=None)), bench.statistics, version=1, now=NOON)

    built = bench.table(many).routes[0]

    assert built.features is None
    assert built.control.selector == plain.routes[0].control.selector
    assert bench.files() == set()


def test_too_many_arms_keep_their_constraints(bench: Bench) -> None:
    """With plain probabilities."""
    names = [f"m{number}" for number in range(INLINE_VECTOR_ARMS + 1)]
    many = route("auto", *names, constraints=Constraints(quality_floor=0.5))
    bench.configure(many)

    built = bench.table(many).routes[0]

    assert (built.features, built.control.selector.index) == (None, None)
    assert [kept.name for kept in bench.book.steering("auto").kept] == ["quality"]


# --- the disk ------------------------------------------------------------------------------------------


async def test_when_the_disk_refuses_nothing_is_lost(bench: Bench) -> None:
    """The old index stays, the error is told, and the evidence waits for the next round."""
    bench.configure(route())
    old = bench.table(route()).routes[0].control.selector
    bench.teach("auto", "small")
    bench.now += 2.0
    away = bench.directory.with_name("away")
    bench.directory.rename(away)
    bench.directory.write_bytes(b"no directory")

    with pytest.raises(NotADirectoryError):
        await bench.book.refresh()
    assert bench.book.take_moved() == set()
    assert bench.book.selector(route(), CONTROL) == old
    bench.directory.unlink()
    away.rename(bench.directory)
    await bench.book.refresh()

    assert bench.book.take_moved() == {"auto"}


def test_a_table_is_not_built_without_its_file(bench: Bench) -> None:
    """The publisher says why, as for any other reason that a disk has."""
    bench.configure(route())
    bench.directory.rmdir() if not any(bench.directory.iterdir()) else None
    bench.directory.write_bytes(b"no directory")

    with pytest.raises(NotADirectoryError):
        bench.table(route())


async def test_old_files_go_and_needed_ones_stay(bench: Bench) -> None:
    """After a day, unless a table or the book needs them."""
    bench.configure(route())
    first = bench.table(route()).routes[0].control.selector.index
    bench.teach("auto", "small")
    bench.now += 2.0
    await bench.book.refresh()
    second = bench.table(route(), dirty={"auto"}).routes[0].control.selector.index
    bench.now += 40 * 365 * 86400.0

    await bench.book.sweep([str(first)])
    assert bench.files() == {first, second}
    await bench.book.sweep([])
    assert bench.files() == {second}


def test_an_unsteered_route_is_none_of_its_business(bench: Bench) -> None:
    """Not learning, one arm, or another policy."""
    for plain in (
        route(optimize=False),
        route("auto", "small", baseline="small/default"),
        route(policy=PolicySettings(name="fixed")),
        route(context=None),
    ):
        assert not bench.book.is_steered(plain)
        assert bench.table(plain).routes[0].features is None
