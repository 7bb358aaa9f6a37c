"""What follows a failed attempt, and how many repetitions an upstream gets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from optimizer.routing import Resilience
from proxy.resilience.failure import Failure, Kind
from proxy.resilience.follow_up import LEAST_WAIT_S, PLANS, Move, RetryBudget, Step, next_step

RULES = Resilience(attempts=5, same_arm=1, backoff_s=0.25, max_backoff_s=1.0, retry_after_s=5.0)
QUICK = (Kind.CONNECT, Kind.RESET, Kind.TRANSIENT)


def step(failure, *, attempts=1, on_this_arm=1, repeated=0, others=True, larger=False, u=0.0, rules=RULES):
    kind = Failure(failure) if isinstance(failure, Kind) else failure
    return next_step(
        kind,
        rules,
        attempts=attempts,
        on_this_arm=on_this_arm,
        repeated=repeated,
        others=others,
        larger=larger,
        uniform=lambda: u,
    )


def test_every_kind_has_a_plan():
    """A new kind can not be forgotten."""
    assert set(PLANS) == set(Kind)


@pytest.mark.parametrize("kind", QUICK)
def test_a_quick_failure_is_repeated_then_taken_elsewhere_then_repeated_again(kind):
    """Once more here, then another arm; with no other arm left, here again."""
    assert step(kind, on_this_arm=1).move is Move.SAME
    assert step(kind, on_this_arm=2, attempts=2, repeated=1) == Step(Move.OTHER)
    assert step(kind, on_this_arm=2, attempts=2, repeated=1, others=False).move is Move.SAME


@pytest.mark.parametrize("kind", QUICK)
def test_repetitions_are_of_the_whole_request(kind):
    """Those on the arm before count, so that many arms do not make many waits."""
    assert step(kind, attempts=3, on_this_arm=1, repeated=1) == Step(Move.OTHER)


@pytest.mark.parametrize("kind", QUICK)
def test_without_repetitions_another_arm_is_first(kind):
    """``same_arm: 0``."""
    rules = Resilience(same_arm=0)

    assert step(kind, rules=rules) == Step(Move.OTHER)
    assert step(kind, rules=rules, others=False).move is Move.SAME


@pytest.mark.parametrize("kind", list(Kind))
def test_the_last_attempt_is_the_last(kind):
    """Whatever is left to try."""
    assert step(kind, attempts=5, larger=True) == Step(Move.STOP)
    assert step(kind, rules=Resilience(attempts=1), larger=True) == Step(Move.STOP)


@pytest.mark.parametrize(
    ("on_this_arm", "u", "wait"), [(1, 0.0, 0.125), (1, 1.0, 0.25), (2, 0.0, 0.25), (9, 1.0, 1.0)]
)
def test_waits_double_with_jitter_up_to_their_bound(on_this_arm, u, wait):
    """Between a half and a whole of 0.25, 0.5, 1, 1..."""
    found = step(Kind.RESET, on_this_arm=on_this_arm, others=False, u=u)

    assert found == Step(Move.SAME, pytest.approx(wait))


def test_a_silent_upstream_is_asked_again_only_when_there_is_nobody_else():
    """And only once."""
    assert step(Kind.SILENT) == Step(Move.OTHER)
    assert step(Kind.SILENT, others=False).move is Move.SAME
    assert step(Kind.SILENT, others=False, on_this_arm=2, attempts=2, repeated=1) == Step(Move.STOP)
    assert step(Kind.SILENT, others=False, on_this_arm=1, attempts=2) == Step(Move.STOP)


def test_a_broken_answer_is_taken_elsewhere_or_tried_once_more():
    """Another arm is preferred."""
    assert step(Kind.BROKEN) == Step(Move.OTHER)
    assert step(Kind.BROKEN, others=False).move is Move.SAME
    assert step(Kind.BROKEN, others=False, on_this_arm=2, attempts=2, repeated=1) == Step(Move.STOP)


@pytest.mark.parametrize("kind", [Kind.BUSY, Kind.CREDENTIALS, Kind.MODEL_MISSING])
def test_what_would_fail_again_is_only_taken_elsewhere(kind):
    """Our own full pool, a refused key, a model that is not there."""
    assert step(kind) == Step(Move.OTHER)
    assert step(kind, others=False) == Step(Move.STOP)


def test_a_request_that_does_not_fit_goes_to_a_larger_context_or_nowhere():
    """Any other arm would refuse it too."""
    assert step(Kind.CONTEXT, larger=True) == Step(Move.LARGER)
    assert step(Kind.CONTEXT) == Step(Move.STOP)


@pytest.mark.parametrize("kind", [Kind.POLICY, Kind.CALLER])
def test_what_the_caller_has_to_change_is_not_repeated(kind):
    """Nowhere."""
    assert step(kind, larger=True) == Step(Move.STOP)


@pytest.mark.parametrize("kind", [*QUICK, Kind.RATE_LIMITED])
def test_a_short_retry_after_is_waited_for(kind):
    """At least as long as was asked, and not all at the same moment."""
    assert step(Failure(kind, retry_after_s=2.0)) == Step(Move.SAME, pytest.approx(2.0))
    assert step(Failure(kind, retry_after_s=2.0), u=1.0) == Step(Move.SAME, pytest.approx(2.2))
    assert step(Failure(kind, retry_after_s=2.0), on_this_arm=2, attempts=2, repeated=1) == Step(Move.OTHER)


@pytest.mark.parametrize("kind", [*QUICK, Kind.RATE_LIMITED])
def test_a_long_retry_after_is_not_waited_for(kind):
    """Elsewhere at once, or not at all."""
    assert step(Failure(kind, retry_after_s=5.1)) == Step(Move.OTHER)
    assert step(Failure(kind, retry_after_s=5.1), others=False) == Step(Move.STOP)


def test_a_rate_limit_without_a_time_is_backed_off_from():
    """Within the repetitions that the arm has; afterwards elsewhere or not at all."""
    assert step(Kind.RATE_LIMITED) == Step(Move.SAME, pytest.approx(0.125))
    assert step(Kind.RATE_LIMITED, on_this_arm=2, attempts=2, repeated=1) == Step(Move.OTHER)
    assert step(Kind.RATE_LIMITED, on_this_arm=2, attempts=2, repeated=1, others=False) == Step(Move.STOP)


@pytest.mark.parametrize("kind", [*QUICK, Kind.RATE_LIMITED, Kind.SILENT, Kind.BROKEN])
def test_who_asks_not_to_be_asked_again_is_not(kind):
    """``x-should-retry: false``."""
    refused = Failure(kind, retry_same=False)

    assert step(refused) == Step(Move.OTHER)
    assert step(refused, others=False) == Step(Move.STOP)


failures = st.builds(
    Failure,
    kind=st.sampled_from(list(Kind)),
    retry_after_s=st.one_of(st.none(), st.floats(min_value=0.0, max_value=1e6)),
    retry_same=st.sampled_from([None, True, False]),
)
rules = st.builds(
    Resilience,
    attempts=st.integers(min_value=1, max_value=6),
    same_arm=st.integers(min_value=0, max_value=4),
    backoff_s=st.floats(min_value=0.0, max_value=10.0),
    max_backoff_s=st.floats(min_value=0.0, max_value=30.0),
    retry_after_s=st.floats(min_value=0.0, max_value=60.0),
)


@given(st.lists(failures, min_size=10, max_size=10), rules, st.integers(1, 5), st.floats(0.0, 0.999999))
def test_following_the_steps_ends_and_never_hurries(sequence, rules, arms, u):
    """Over whole requests: at most ``attempts``, every repetition after a bounded wait, silence at most twice."""
    attempts, on_this_arm, repeated, untried, silent_here = 1, 1, 0, arms - 1, 0
    for failure in sequence:
        silent_here = silent_here + 1 if failure.kind is Kind.SILENT else silent_here
        found = next_step(
            failure,
            rules,
            attempts=attempts,
            on_this_arm=on_this_arm,
            repeated=repeated,
            others=untried > 0,
            larger=untried > 1,
            uniform=lambda: u,
        )
        if found.move is Move.STOP:
            break
        attempts += 1
        assert attempts <= rules.attempts
        if found.move is Move.SAME:
            assert failure.retry_same is not False
            assert not (failure.kind is Kind.SILENT and untried > 0)
            longest = max(rules.max_backoff_s, 1.1 * rules.retry_after_s, LEAST_WAIT_S)
            assert LEAST_WAIT_S <= found.wait_s <= longest
            if failure.retry_after_s is not None:
                assert failure.retry_after_s <= min(found.wait_s + 1e-9, rules.retry_after_s)
            on_this_arm += 1
            repeated += 1
        else:
            assert found.wait_s == 0.0
            assert untried > (found.move is Move.LARGER)
            untried -= 1
            on_this_arm, silent_here = 1, 0
        assert silent_here <= 2
    assert attempts <= rules.attempts


class BudgetMachine(RuleBasedStateMachine):
    """Repetitions come and go while the number of active requests changes at will."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = RetryBudget(0.2, 3)
        self.out = 0

    @rule(active=st.integers(min_value=0, max_value=200))
    def take(self, active: int) -> None:
        allowed = self.budget.take(active)
        assert allowed == (self.out < max(3, 0.2 * active))
        self.out += allowed

    @precondition(lambda self: self.out)
    @rule()
    def give_back(self) -> None:
        self.budget.give_back()
        self.out -= 1

    @invariant()
    def counts(self) -> None:
        assert self.budget.retrying == self.out >= 0


BudgetMachine.TestCase.settings = settings(max_examples=40, deadline=None)
TestBudget = BudgetMachine.TestCase


@pytest.mark.parametrize(
    ("share", "floor", "active", "allowed"), [(0.2, 3, 0, 3), (0.2, 3, 100, 20), (0.0, 0, 100, 0)]
)
def test_the_budget_is_a_share_and_never_less_than_its_floor(share, floor, active, allowed):
    """20 % of 100 active requests are 20; of none, three still."""
    budget = RetryBudget(share, floor)

    taken = sum(budget.take(active) for _ in range(100))

    assert taken == budget.retrying == allowed
