"""Selectors follow evidence and features: not too often, only when they moved, without losing anything."""

import asyncio

import numpy as np

from optimizer import reward, selector_file
from optimizer.context.features import ProjectionInfo
from optimizer.routing import CONTROL, ClientFeature, Features
from optimizer.settings import (
    Constraints,
    ContextSettings,
)
from tests.optimizer.context_book.conftest import NOON, WORDS, Bench, route, settings

# --- refreshing ----------------------------------------------------------------------------------------


async def test_at_most_once_a_second(bench: Bench) -> None:
    """New evidence waits until the index is a second old."""
    bench.configure(route())
    bench.table(route())
    bench.teach("small")
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
    bench.teach("small")
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
    bench.teach("small")
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
    bench.teach("small")
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
    bench.teach("small")
    await round_
    bench.book.take_moved()
    bench.now += 2.0

    await bench.book.refresh()

    assert bench.book.take_moved() == {"auto"}


async def test_a_clock_that_was_set_back_stops_nothing(bench: Bench) -> None:
    """An index from the future is old."""
    bench.configure(route())
    bench.table(route())
    bench.teach("small")
    bench.now -= 3600.0

    await bench.book.refresh()

    assert bench.book.take_moved() == {"auto"}


async def test_money_is_paced_by_the_clock(bench: Bench) -> None:
    """With a budget of the day an index is looked at every minute even when nobody asks."""
    daily = route(context=None, constraints=Constraints(cost_per_day_usd=24.0))
    bench.configure(daily)
    bench.teach("large")
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
    bench.teach("small")
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


# --- turns ---------------------------------------------------------------------------------------------


def with_clock(bench: Bench, *, costs_s: float) -> list[float]:
    """Every look at the clock takes ``costs_s``; the rests that were taken."""
    ticks, rests = iter(range(10**6)), []

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    bench.book._clock, bench.book._rest = lambda: next(ticks) * costs_s, rest
    return rests


async def test_others_get_their_turn(bench: Bench) -> None:
    """A round that takes long ends, and the next one goes on with those that waited longest."""
    names = ["auto", "b", "c", "d"]
    routes = [route(name) for name in names]
    bench.configure(*routes)
    rests = with_clock(bench, costs_s=0.3)
    bench.table(*routes)
    done: list[set[str]] = []
    for _ in range(3):
        bench.now += 2.0
        bench.book.mark(names)
        await bench.book.refresh()
        done.append({key[0] for key, found in bench.book._prepared.items() if found.at == bench.now})

    assert all(0 < len(one) < 4 for one in done)
    assert set.union(*done) == set(names)
    assert min(rests) > 0.0


async def test_a_file_that_is_gone_is_made_again(bench: Bench) -> None:
    """Somebody cleaned up."""
    bench.configure(route())
    name = bench.table(route()).routes[0].control.selector.index
    (bench.directory / str(name)).unlink()

    await bench.book.sweep([])

    assert bench.files() == {name}


# --- ahead of a configuration ---------------------------------------------------------------------------


async def test_what_is_prepared_is_used(bench: Bench) -> None:
    """Nothing changes before; then the table has what was made, and what nobody wanted is let go."""
    tight = route(constraints=Constraints(cost_per_request_usd=0.0012))
    bench.configure(route())
    bench.teach("large")
    before = bench.table(route()).routes[0].control.selector

    await bench.book.prepare(settings(tight))

    assert bench.book.selector(route(), CONTROL) == before
    assert bench.book.take_moved() == set()
    assert len(bench.book.files) == 2
    [made] = bench.files() - {before.index}
    bench.configure(tight)
    after = bench.table(tight).routes[0].control.selector
    assert after.index == made
    assert bench.files() == {before.index, made}
    await bench.book.prepare(settings(tight))
    assert bench.book.files == {made}


async def test_what_an_index_does_not_depend_on_needs_no_new_one(bench: Bench) -> None:
    """Nor is anything prepared for it."""
    bench.configure(route())
    before = bench.table(route()).routes[0].control.selector
    renamed = route(match=("gpt-*",))

    await bench.book.prepare(settings(renamed))

    assert bench.files() == {before.index}
    assert bench.table(renamed).routes[0].control.selector == before


async def test_a_configuration_that_was_refused_leaves_no_trace(bench: Bench) -> None:
    """Prepared, even built, and taken back: the old settings' index is in force and followed."""
    tight = route(constraints=Constraints(cost_per_request_usd=0.0012))
    bench.configure(route())
    bench.teach("large")
    bench.table(route())
    await bench.book.prepare(settings(tight))
    bench.configure(tight)
    bench.book.selector(tight, CONTROL)

    bench.configure(route())
    back = bench.table(route(), dirty={"auto"}).routes[0].control.selector
    bench.now += 2.0
    bench.book.mark(["auto"])
    await bench.book.refresh()

    assert back.probabilities[1] > 0.9
    assert bench.book.steering("auto").kept == ()
    assert bench.book.selector(route(), CONTROL).probabilities[1] > 0.9
