"""What the demo counts and what it calls a saving."""

import pytest

from proxy.demo.tally import ENOUGH, RECENT, Seen, Tally


def filled(*plan: tuple[str, float, float, int]) -> Tally:
    """A tally of (model, cost, quality, count) blocks, in order."""
    tally = Tally()
    for model, cost, quality, count in plan:
        for _ in range(count):
            tally.add(Seen(f"{model}+careful", model, cost, 0.1, quality, streamed=False))
    return tally


def test_the_saving_is_against_the_model_that_was_graded_best() -> None:
    """Cost per request here beside that of the best model's own replies."""
    saving = filled(("dear", 4.0, 1.0, ENOUGH), ("cheap", 1.0, 0.5, 2 * ENOUGH)).saving()

    assert saving is not None
    assert saving.model == "dear"
    assert saving.there_usd == 4.0
    assert saving.here_usd == pytest.approx(2.0)
    assert saving.fraction == pytest.approx(0.5)
    assert saving.here_quality == pytest.approx(2 / 3)


def test_a_loss_is_shown_as_a_negative_saving() -> None:
    """When the best model is the cheap one, spending more elsewhere is a loss."""
    saving = filled(("cheap", 1.0, 1.0, ENOUGH), ("dear", 4.0, 0.5, ENOUGH)).saving()

    assert saving is not None
    assert saving.fraction == pytest.approx(-1.5)


def test_there_is_no_saving_before_every_model_had_enough_answers() -> None:
    """A best model is not named on a handful of replies."""
    assert Tally().saving() is None
    assert filled(("dear", 4.0, 1.0, ENOUGH), ("cheap", 1.0, 0.5, ENOUGH - 1)).saving() is None


def test_the_late_saving_and_shares_look_at_the_newest_replies_only() -> None:
    """What the bandit does now is not blurred by how it began."""
    tally = filled(("dear", 4.0, 1.0, RECENT), ("cheap", 1.0, 0.9, RECENT))

    late = tally.saving(lately=True)
    assert late is not None
    assert late.here_usd == pytest.approx(1.0)
    assert tally.shares() == {"cheap+careful": 1.0}
    assert tally.total.count == 2 * RECENT
