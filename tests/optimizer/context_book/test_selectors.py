"""Selectors of steered routes: when they are frozen at once, taken over, shared out, and what the disk may do."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from optimizer import selector_file
from optimizer.events import INLINE_VECTOR_ARMS
from optimizer.indexing import is_steered
from optimizer.publisher import Publisher
from optimizer.routing import CANDIDATE, CONTROL, ClientFeature
from optimizer.settings import (
    Constraints,
    ContextSettings,
    PolicySettings,
)
from tests.optimizer.context_book.conftest import NOON, Bench, favoured, route, settings

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
    bench.teach("large")

    built = bench.table(plain).routes[0]

    assert (built.features, built.control.selector.index, bench.files()) == (None, None, set())
    assert 0.05 < built.control.selector.probabilities[1] < 0.2
    assert [kept.name for kept in bench.book.steering("auto").kept] == ["cost"]


def test_changed_settings_are_followed_at_once(bench: Bench) -> None:
    """Not at the next refresh: the table that says them must keep them."""
    free = route(context=None, constraints=Constraints(cost_per_request_usd=1.0))
    tight = replace(free, constraints=Constraints(cost_per_request_usd=0.0012))
    bench.configure(free)
    bench.teach("large")
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
    again.teach("small")
    again.book.inherit(old.routes)

    first = again.table(route())
    await again.book.refresh()

    assert first.routes[0].control.selector == old.routes[0].control.selector
    assert again.book.take_moved() == {"auto"}
    assert favoured(again.table(route(), dirty={"auto"}).routes[0].control.selector) == 0


async def test_other_arms_or_features_are_not_inherited(
    bench: Bench, make_bench: Callable[[], Bench]
) -> None:
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


# --- sides and sizes -----------------------------------------------------------------------------------


def test_both_sides_have_their_own_index(bench: Bench) -> None:
    """Under the same features; a candidate that ends is dropped."""
    tight = route(constraints=Constraints(cost_per_request_usd=0.0012))
    bench.configure(route())
    bench.teach("large")

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
    bench.teach("large")
    for _ in range(300):
        bench.ledger._account("auto").pay(0.05, NOON)

    control, candidate = bench.book.selector(held, CONTROL), bench.book.selector(held, CANDIDATE)

    assert control.probabilities[1] < 0.7 * candidate.probabilities[1]


def test_too_many_arms_are_not_looked_at(bench: Bench) -> None:
    """A vector of more arms is not logged with each request, so context is left out and nothing else changes."""
    names = [f"m{number}" for number in range(INLINE_VECTOR_ARMS + 1)]
    many = route("auto", *names)
    bench.configure(many)
    plain = Publisher(seed=1).build(
        settings(replace(many, context=None)), bench.statistics, version=1, now=NOON
    )

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
    bench.teach("small")
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
    bench.directory.rmdir()
    bench.directory.write_bytes(b"no directory")

    with pytest.raises(NotADirectoryError):
        bench.table(route())


async def test_old_files_go_and_needed_ones_stay(bench: Bench) -> None:
    """After a day, unless a table or the book needs them."""
    bench.configure(route())
    first = bench.table(route()).routes[0].control.selector.index
    bench.teach("small")
    bench.now += 2.0
    await bench.book.refresh()
    second = bench.table(route(), dirty={"auto"}).routes[0].control.selector.index
    bench.now += 40 * 365 * 86400.0

    await bench.book.sweep([str(first)])
    assert bench.files() == {first, second}
    await bench.book.sweep([])
    assert bench.files() == {second}


def test_a_policy_that_does_not_look_has_its_requests_recorded(bench: Bench) -> None:
    """So that a change to one that does begins with knowledge."""
    plain = route(policy=PolicySettings(name="fixed"))
    assert not is_steered(plain)
    assert bench.table(plain).routes[0].features is not None


def test_an_unsteered_route_is_none_of_its_business(bench: Bench) -> None:
    """Not learning, one arm, or nothing to look at."""
    for plain in (
        route(optimize=False),
        route("auto", "small", baseline="small/default"),
        route(context=None),
    ):
        assert not is_steered(plain)
        assert bench.table(plain).routes[0].features is None
