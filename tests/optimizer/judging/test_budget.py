"""The budget of judging: never more than a day's limit, whatever is killed, and something left for the evening."""

from hypothesis import given
from hypothesis import strategies as st

from optimizer.judging.budget import AHEAD, DAY_S, BudgetBook

NOON = 20_000 * DAY_S + DAY_S / 2
LATE = 20_000 * DAY_S + DAY_S - 1.0


@given(st.lists(st.tuples(st.floats(0.0, 0.5), st.floats(0.0, 1.0), st.booleans()), max_size=40))
def test_no_day_costs_more_than_its_limit(calls: list[tuple[float, float, bool]]) -> None:
    """Whatever is asked for, as long as no call costs more than was set aside; a restart in between included."""
    book, spent = BudgetBook(), 0.0
    for reserved, share, restart in calls:
        if book.reserve("judge", reserved, limit_usd=1.0, now=LATE):
            book.settle("judge", reserved, reserved * share, now=LATE)
            spent += reserved * share
        if restart:
            again = BudgetBook()
            again.restore(book.snapshot())
            book = again

    assert spent <= 1.0 + 1e-9
    assert book.spent_usd("judge", now=LATE) <= 1.0 + 1e-9


def test_what_a_killed_process_had_set_aside_counts_as_spent() -> None:
    """Nobody can tell whether the call was made."""
    book = BudgetBook()
    assert book.reserve("judge", 0.9, limit_usd=1.0, now=LATE)
    again = BudgetBook()
    again.restore(book.snapshot())

    assert not again.reserve("judge", 0.2, limit_usd=1.0, now=LATE)


def test_the_morning_leaves_something_for_the_evening() -> None:
    """The available part grows with the day."""
    book = BudgetBook()
    midnight = 20_000 * DAY_S

    assert not book.reserve("judge", AHEAD + 0.01, limit_usd=1.0, now=midnight)
    assert book.reserve("judge", AHEAD, limit_usd=1.0, now=midnight)
    assert not book.reserve("judge", 0.51, limit_usd=1.0, now=NOON)
    assert book.reserve("judge", 0.5, limit_usd=1.0, now=NOON)


def test_each_day_and_each_judge_has_its_own() -> None:
    """At midnight UTC a new limit begins; a clock set back brings no old one again."""
    book = BudgetBook()
    assert book.reserve("judge", 1.0, limit_usd=1.0, now=LATE)
    book.settle("judge", 1.0, 1.0, now=LATE)

    assert book.reserve("other", 1.0, limit_usd=1.0, now=LATE)
    assert not book.reserve("judge", 0.01, limit_usd=1.0, now=LATE)
    assert book.reserve("judge", 0.2, limit_usd=1.0, now=LATE + 2.0)
    assert book.spent_usd("judge", now=LATE) == 0.0
