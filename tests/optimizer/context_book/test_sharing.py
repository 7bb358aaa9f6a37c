"""The book shares its process with others: it rests, takes turns, and prepares what building a table would wait for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from optimizer import selector_file
from optimizer.context.features import ProjectionInfo
from optimizer.routing import Selector
from optimizer.settings import Constraints, RouteSettings
from tests.optimizer.context_book.conftest import WORDS, Bench, route, settings


async def test_it_rests_three_times_as_long_as_it_froze(bench: Bench) -> None:
    """A quarter of a core at most, however many routes have new evidence."""
    bench.configure(route(), route("other"))
    bench.table(route(), route("other"))
    bench.book.mark(["auto", "other"])
    bench.now += 2.0

    await bench.book.refresh()

    assert bench.rests == pytest.approx([0.3, 0.3])


async def test_a_round_ends_and_the_next_goes_on_where_it_ended(bench: Bench) -> None:
    """With more routes than a round has time for, each has its turn before any has a second one."""
    names = [f"r{number}" for number in range(14)]
    routes = [route(name) for name in names]
    bench.configure(*routes)
    bench.table(*routes)
    for name in names:
        bench.teach("small", name)
    turns = []
    for _ in range(6):
        bench.now += 2.0
        await bench.book.refresh()
        moved = bench.book.take_moved()
        turns.append(len(moved))
        bench.book.mark(names)

    assert 0 < turns[0] < len(names)
    assert sum(turns) == len(names)


async def test_a_route_that_can_not_be_written_starves_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every side has its turn; the error is told at the end."""
    bench.configure(route(), route("other"))
    bench.table(route(), route("other"))
    bench.teach("small")
    bench.teach("large", "other")
    bench.now += 2.0
    refused = bench.book._write

    def write(settings: RouteSettings, frozen: Any) -> Selector:
        if settings.name == "auto":
            raise OSError("this one not")
        return refused(settings, frozen)

    monkeypatch.setattr(bench.book, "_write", write)
    with pytest.raises(OSError, match="this one not"):
        await bench.book.refresh()

    assert bench.book.take_moved() == {"other"}


async def test_settings_that_an_index_does_not_depend_on_freeze_nothing(bench: Bench) -> None:
    """A reload of a hundred routes' timeouts must not hold up the loop for seconds."""
    bench.configure(route())
    before = bench.table(route()).routes[0].control.selector
    bench.teach("small")
    bench.now += 2.0

    after = bench.table(route(match=("gpt-*",), home="m")).routes[0].control.selector

    assert after == before
    await bench.book.refresh()
    assert bench.book.take_moved() == {"auto"}


async def test_what_a_reload_needs_is_prepared_beside(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Building the table afterwards freezes nothing; until it is built, nothing changed."""
    free, tight = route(), route(constraints=Constraints(cost_per_request_usd=0.0012))
    bench.configure(free)
    bench.teach("large")
    before = bench.table(free).routes[0].control.selector
    await bench.book.prepare(settings(tight, route("new")))
    assert bench.table(free).routes[0].control.selector == before
    await bench.book.prepare(settings(tight, route("new")))
    monkeypatch.setattr("optimizer.context_book.freeze", None)  # whoever freezes now, fails
    bench.configure(tight, route("new"))

    built = bench.table(tight, route("new"))

    assert built.routes[0].control.selector.probabilities[1] < 0.2
    assert built.routes[1].control.selector.index is not None
    assert [kept.name for kept in bench.book.steering("auto").kept] == ["cost"]


async def test_no_table_freezes_new_features_by_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learned under them or not: the table keeps the ones before until the round froze an index."""
    words = route(context=WORDS)
    bench.configure(words)
    old = bench.table(words).routes[0]
    rows = np.random.default_rng(5).normal(size=(4096, 4)).astype(np.float32)
    bench.keeper.adopt("auto", ProjectionInfo(selector_file.write_projection(bench.directory, rows), 4))
    with monkeypatch.context() as patch:
        patch.setattr("optimizer.context_book.freeze", None)

        assert bench.table(words, dirty={"auto"}).routes[0] == old

    bench.book.mark(["auto"])
    bench.now += 2.0
    await bench.book.refresh()
    assert bench.table(words, dirty={"auto"}).routes[0].features != old.features


async def test_a_file_that_disappeared_is_written_again(
    bench: Bench, make_bench: Callable[[], Bench]
) -> None:
    """Workers that start later have nothing else to draw by, and nothing else may move for days."""
    bench.configure(route(), route("other"))
    table = bench.table(route(), route("other"))
    names = {side.control.selector.index for side in table.routes}
    for path in bench.directory.iterdir():
        path.unlink()

    await bench.book.sweep([])
    assert bench.files() == names

    for path in bench.directory.iterdir():
        path.write_bytes(b"damaged")
    again = make_bench()
    again.configure(route(), route("other"))
    again.book.inherit(table.routes)
    again.table(route(), route("other"))
    assert {selector_file.load(path).n_arms for path in again.directory.iterdir()} == {2}
