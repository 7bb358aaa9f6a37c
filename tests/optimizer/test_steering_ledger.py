"""What a route's constraints come to: relative targets, the money of a day, bounded corrections, an honest status."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer import events
from optimizer.log.segment import Position
from optimizer.settings import Constraints
from optimizer.steering import LATE_SHARE, MEMORY, Account, Ledger, status_of, targets_of
from policies.beliefs import Beliefs, form
from policies.steering import COST, LATE, QUALITY, Given, steer
from policies.types import ArmEvidence, Goal, Moments, PolicyParams

NOON = 1_795_000_000.0 // 86400.0 * 86400.0 + 43200.0
DAY = 86400.0
ALONE = np.eye(1)
HERE = Position("worker", 1, 0)


def arm(name: str, quality: float, cost: float, pulls: float = 400.0) -> ArmEvidence:
    signals = {
        "quality": Moments(pulls, quality, 0.01),
        "cost": Moments(pulls, float(np.log(cost)), 0.0),
        "cost_usd": Moments(pulls, cost, 0.0),
        "latency": Moments(pulls, 0.0, 0.04),
    }
    return ArmEvidence(name, pulls, Moments(pulls, 1.0, 0.0), signals)


def believed(*arms: ArmEvidence) -> Beliefs:
    arms = arms or (arm("small", 0.6, 0.001), arm("large", 0.9, 0.01))
    return form(arms, [Goal("quality", 1.0, True)], PolicyParams(), size=1, linear={})


def targets(constraints: Constraints, account: Account, *, now: float = NOON, beliefs: Beliefs | None = None):
    return targets_of(constraints, beliefs or believed(), ALONE, 1, account, now=now)


def of_the_day(usd: float, account: Account, now: float) -> float | None:
    return targets(Constraints(cost_per_day_usd=usd), account, now=now).asked.cost_usd


def spend(account: Account, cost_usd: float, *, begin: float, seconds: float, every: float) -> float:
    """Book requests at a steady pace; the time of the last one."""
    at = begin
    for number in range(int(seconds / every)):
        at = begin + number * every
        account.pay(cost_usd, at)
    return at


# --- relative and absolute targets ---------------------------------------------------------------------


def test_relative_targets_follow_the_baseline() -> None:
    """A share of what the baseline costs, and of how good it is, by what is believed now."""
    beliefs = believed()
    asked = targets(Constraints(cost_ratio=0.4, quality_ratio=0.95), Account(), beliefs=beliefs).asked

    assert asked.cost_usd == pytest.approx(0.4 * beliefs.cost_usd(ALONE)[0, 1])
    assert asked.cost_usd == pytest.approx(0.004, rel=0.02)
    assert asked.quality == pytest.approx(0.95 * 0.9, abs=0.01)
    assert asked.late is None


def test_a_share_of_an_unknown_price_is_no_target() -> None:
    """Until the baseline has been used once."""
    fresh = believed(arm("small", 0.6, 0.001), ArmEvidence("large"))

    assert targets(Constraints(cost_ratio=0.4), Account(), beliefs=fresh).asked.cost_usd is None


def test_the_strictest_counts() -> None:
    """Of several bounds on the same thing."""
    asked = targets(
        Constraints(cost_per_request_usd=0.003, cost_ratio=0.4, quality_floor=0.7, quality_ratio=0.95),
        Account(),
    ).asked

    assert asked.cost_usd == 0.003
    assert asked.quality == pytest.approx(0.855, abs=0.01)
    late = targets(Constraints(latency_p95_ms=800.0), Account())
    assert (late.asked.late, late.aims.late) == (LATE_SHARE, LATE_SHARE)


# --- corrections ---------------------------------------------------------------------------------------


@given(
    costs=st.lists(st.floats(0.0, 100.0), max_size=60),
    ratings=st.lists(st.floats(0.0, 1.0), max_size=60),
    target=st.floats(1e-6, 1.0),
    floor=st.floats(0.0, 1.0),
)
def test_corrections_are_bounded(costs, ratings, target, floor) -> None:
    """Whatever happened: half to one and a half times the money, two points of quality; never beyond 1."""
    account = Account()
    for cost in costs:
        account.pay(cost, NOON)
    for rating in ratings:
        account.rate_quality(rating)

    aims = targets(Constraints(cost_per_request_usd=target, quality_floor=floor), account).aims

    assert 0.5 * target <= aims.cost_usd * (1 + 1e-9)
    assert aims.cost_usd <= 1.5 * target * (1 + 1e-9)
    assert abs(aims.quality - floor) <= 0.02 + 1e-9
    assert aims.quality <= 1.0


def test_overspending_is_paid_back_and_saving_is_spent() -> None:
    """The aim lies on the other side of the target; with what was asked for it is the target itself."""
    for paid, expected in ((0.012, "below"), (0.008, "above"), (0.010, "at")):
        account = Account()
        spend(account, paid, begin=NOON, seconds=100, every=1)
        aim = targets(Constraints(cost_per_request_usd=0.010), account).aims.cost_usd
        assert {"below": aim < 0.0099, "above": aim > 0.0101, "at": aim == pytest.approx(0.01)}[expected]


def test_an_old_excess_is_forgotten() -> None:
    """After several times the memory at the right price nothing is left to be paid back."""
    account = Account()
    spend(account, 0.1, begin=NOON, seconds=200, every=1)
    spend(account, 0.01, begin=NOON + 200, seconds=8 * MEMORY, every=1)

    assert targets(Constraints(cost_per_request_usd=0.01), account).aims.cost_usd == pytest.approx(
        0.01, rel=0.05
    )
    assert account.actual(COST) == pytest.approx(0.01, rel=0.05)


def test_the_day_corrects_itself() -> None:
    """What is left is divided by what is to come, so an excess is already taken out of the rest of the day."""
    account = Account()
    last = spend(account, 1.0, begin=NOON - 3600, seconds=3600, every=10)

    found = targets(Constraints(cost_per_day_usd=1000.0), account, now=last)

    assert found.aims.cost_usd == found.asked.cost_usd == pytest.approx((1000 - 360) / (0.1 * 43200), rel=0.1)


# --- the money of a day --------------------------------------------------------------------------------


def test_a_new_route_knows_its_pace_at_once() -> None:
    """An average that starts at 0 and takes an hour to rise would spend a third of a day's money in that hour."""
    account = Account()
    last = spend(account, 0.0, begin=NOON, seconds=60, every=0.1)

    assert of_the_day(100.0, account, last) == pytest.approx(100.0 / (10.0 * 43140.0), rel=0.1)


def test_nobody_knows_the_pace_of_one_request() -> None:
    """So there is no target yet."""
    account = Account()
    account.pay(0.01, NOON)

    assert of_the_day(1.0, account, NOON) is None
    assert of_the_day(1.0, Account(), NOON) is None


def test_the_money_of_a_day_is_kept_over_the_day() -> None:
    """Requests that cost exactly what they may leave nothing at the end, from a cold start, at changing paces."""
    account, budget, spent = Account(), 10.0, 0.0
    midnight = NOON - 43200.0
    at, rng = midnight + 5.0, np.random.default_rng(1)
    while at < midnight + DAY - 1.0:
        cost = of_the_day(budget, account, at) or 0.0
        account.pay(cost, at)
        spent += cost
        busy = 8 * 3600 < at - midnight < 20 * 3600
        at += float(rng.exponential(5.0 if busy else 30.0))

    assert spent == pytest.approx(budget, rel=0.02)


def test_a_cold_start_does_not_spend_the_day_in_its_first_hour() -> None:
    """An hour's share of what is left, give or take the first seconds."""
    account, spent, at = Account(), 0.0, NOON
    while at < NOON + 3600.0:
        cost = of_the_day(10.0, account, at) or 0.0
        account.pay(cost, at)
        spent += cost
        at += 0.5

    assert spent == pytest.approx(10.0 / 12.0, rel=0.15)


def test_after_midnight_there_is_new_money() -> None:
    """And what began before midnight is booked on the day that it began."""
    account, midnight = Account(), NOON + 43200.0
    spend(account, 0.01, begin=midnight - 1000.0, seconds=999.0, every=1.0)
    account.pay(0.01, midnight + 1.0)
    account.pay(5.0, midnight - 0.5)
    after = of_the_day(10.0, account, midnight + 1.0)
    account.pay(0.01, midnight + 2.0)

    assert after == pytest.approx(10.0 / (1.0 * DAY), rel=0.1)
    assert of_the_day(10.0, account, midnight + 2.0) == pytest.approx(10.0 / (1.0 * DAY), rel=0.1)


def test_when_the_money_is_spent_next_to_nothing_is_left() -> None:
    """But a positive amount: requests are answered all the same, as cheaply as they can be."""
    account = Account()
    last = spend(account, 1.0, begin=NOON, seconds=600.0, every=10.0)

    target = of_the_day(20.0, account, last)

    assert target is not None
    assert 0.0 < target < 0.01 * of_the_day(200.0, account, last)


def test_a_clock_that_jumped_ahead_and_back_does_no_lasting_harm() -> None:
    """What is spent afterwards counts on its own day, and the pace is known again at once."""
    account = Account()
    spend(account, 0.001, begin=NOON, seconds=600.0, every=1.0)
    account.pay(0.001, NOON + 10 * DAY)
    last = spend(account, 0.001, begin=NOON + 600.0, seconds=3600.0, every=1.0)

    target = of_the_day(10.0, account, last)

    assert target == pytest.approx((10.0 - 4.2) / (DAY / 2 - 4200.0), rel=0.25)


def test_a_clock_that_was_set_back_does_not_make_the_pace_grow_for_ever() -> None:
    """Requests before the newest one count, but only as long as they can be late ones."""
    account = Account()
    spend(account, 0.0, begin=NOON, seconds=600.0, every=1.0)
    last = spend(account, 0.0, begin=NOON - 2 * DAY, seconds=10000.0, every=1.0)

    assert of_the_day(1.0, account, last) == pytest.approx(1.0 / (DAY / 2 - 10000.0), rel=0.25)


def test_requests_that_end_out_of_order_count_once() -> None:
    """Long ones are logged after short ones that began later."""
    account = Account()
    rng = np.random.default_rng(2)
    begun = np.arange(0.0, 4000.0, 1.0)
    for at in begun[np.argsort(begun + rng.uniform(0.0, 60.0, begun.size))]:
        account.pay(0.0, NOON + float(at))

    assert of_the_day(1.0, account, NOON + 4000.0) == pytest.approx(1.0 / (DAY / 2 - 4000.0), rel=0.1)


def test_after_a_quiet_night_the_pace_is_known_within_minutes() -> None:
    """A pause says that there was a pause, not that there will be one request a night."""
    account = Account()
    spend(account, 0.0, begin=NOON - 20 * 3600, seconds=1800.0, every=1.0)
    last = spend(account, 0.0, begin=NOON, seconds=300.0, every=1.0)

    assert of_the_day(1.0, account, last) == pytest.approx(1.0 / (DAY / 2 - 300.0), rel=0.3)


def test_a_request_every_two_hours_is_a_pace_too() -> None:
    """It is known to a factor or so."""
    account = Account()
    last = spend(account, 0.0, begin=NOON - 10 * 7200.0, seconds=10 * 7200.0, every=7200.0)

    assert of_the_day(1.0, account, last) == pytest.approx(7200.0 / (DAY / 2 + 7200.0), rel=0.1)


# --- what people see -----------------------------------------------------------------------------------

BOTH = Given(np.full(2, 0.01), np.ones(2, dtype=np.bool_))


def told(constraints: Constraints, account: Account, beliefs: Beliefs | None = None):
    beliefs = beliefs or believed()
    found = targets(constraints, account, beliefs=beliefs)
    course = steer(beliefs, ALONE, found.aims, BOTH)
    return {kept.name: kept for kept in status_of(found, course, account, 0.25).kept}


def test_the_status_says_what_was_asked() -> None:
    """Target, what is expected, what was, and the multiplier."""
    account = Account()
    spend(account, 0.003, begin=NOON, seconds=50, every=1)
    account.rate_quality(0.8)

    cost = told(Constraints(cost_per_request_usd=0.004), account)[COST]

    assert (cost.target, cost.actual, cost.feasible) == (0.004, pytest.approx(0.003), True)
    assert cost.multiplier > 0.0


def test_paying_back_is_no_breach() -> None:
    """The aim is below what can be reached, because too much was spent before, but what was asked is kept."""
    account = Account()
    spend(account, 0.1, begin=NOON, seconds=400, every=1)

    cost = told(Constraints(cost_per_request_usd=0.0014), account)[COST]

    assert cost.expected < 0.0014
    assert cost.feasible


def test_spending_what_was_saved_is_no_breach() -> None:
    """More than the target per request for a while, on purpose."""
    account = Account()
    spend(account, 0.001, begin=NOON, seconds=400, every=1)

    cost = told(Constraints(cost_per_request_usd=0.004), account)[COST]

    assert cost.expected > 0.0045
    assert cost.feasible


def test_what_can_not_be_kept_is_said_with_the_nearest() -> None:
    """A budget below the cheapest arm, and a floor above the best one."""
    cost = told(Constraints(cost_per_request_usd=0.0002), Account())[COST]
    quality = told(Constraints(quality_floor=0.99), Account())[QUALITY]

    assert (cost.target, cost.feasible) == (0.0002, False)
    assert cost.expected == pytest.approx(0.001, rel=0.2)
    assert (quality.target, quality.feasible) == (0.99, False)
    assert quality.expected == pytest.approx(0.9, abs=0.02)


# --- following the log ---------------------------------------------------------------------------------


def event(**changes: Any) -> dict[str, Any]:
    data = {
        "route": "auto", "outcome": events.COMPLETED, "started_ms": int(NOON * 1000), "cost_usd": 0.002,
        "duration_ms": 900.0, "stream": False, "side": "control", **changes,
    }  # fmt: skip
    return {"type": events.REQUEST, "data": data}


def test_the_ledger_books_what_was_completed() -> None:
    """Costs and worthless replies; not what failed, belongs to no route or has no price."""
    ledger = Ledger()
    for one in (
        event(), event(cost_usd=None), event(signals={"empty": 1}), event(outcome="failed"), event(route=None),
        {"type": events.FEEDBACK, "data": {"route": "auto"}},
    ):  # fmt: skip
        ledger.observe(one, HERE)
    ledger.rated({"route": "auto"}, "quality", 1.0)
    ledger.rated({"route": "auto"}, "quality_user", 0.0)

    account = ledger.account("auto")
    assert account.actual(COST) == pytest.approx(0.002)
    assert account.actual(QUALITY) == pytest.approx(0.5, abs=0.001)
    assert account.actual(LATE) is None
    assert ledger.account("unknown").actual(COST) is None


def test_streams_are_late_by_their_first_token() -> None:
    """All others by their end, and nobody is while no bound is set."""
    ledger = Ledger()
    ledger.observe(event(), HERE)
    assert ledger.account("auto").actual(LATE) is None
    ledger.bounds_ms["auto"] = 500.0

    for one in (event(), event(stream=True, ttft_ms=100.0), event(duration_ms=400.0), event(stream=True)):
        ledger.observe(one, HERE)

    assert ledger.account("auto").actual(LATE) == pytest.approx(1 / 3, abs=0.001)


def test_a_candidate_is_not_paid_for_by_the_control_side() -> None:
    """What a trial costs and is worth is no error of the control side's model; the day's money it does take."""
    ledger = Ledger()
    for number in range(100):
        ledger.observe(event(started_ms=int((NOON + number) * 1000)), HERE)
        ledger.observe(event(started_ms=int((NOON + number) * 1000), side="candidate", cost_usd=0.1), HERE)

    account = ledger.account("auto")

    assert account.actual(COST) == pytest.approx(0.002)
    left = of_the_day(20.0, account, NOON + 99)
    assert left == pytest.approx((20.0 - 10.2) / (2.0 * (DAY / 2 - 99)), rel=0.1)


def test_a_restart_continues() -> None:
    """The snapshot holds everything; anybody else's is refused."""
    ledger, again = Ledger(), Ledger()
    ledger.bounds_ms["auto"] = 500.0
    for number in range(300):
        ledger.observe(event(started_ms=int((NOON + 500.0 * number) * 1000), cost_usd=0.001 * number), HERE)
        ledger.rated({"route": "auto"}, "quality", 0.7)

    again.restore(ledger.snapshot())

    assert again.account("auto") == ledger.account("auto")
    assert again.snapshot() == ledger.snapshot()
    for broken in (b"nonsense", b"[]", orjson.dumps({"auto": {"unknown": 1}})):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            Ledger().restore(broken)


# --- a loop that is closed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pace", [5, 100, 1000])
def test_corrections_do_not_swing_however_many_requests_come_between_two_of_them(pace: int) -> None:
    """What workers play is a second old, and costs a tenth more than is believed: near the target all the same."""
    account, constraints, at = Account(), Constraints(cost_per_request_usd=0.004), NOON
    played, paid = [0.004, 0.004], []
    rounds = max(150, 4000 // pace)
    for _ in range(rounds):
        # Arms cost from 0.001 to 0.01, and nothing between is out of reach.
        usd = float(np.clip(1.1 * played[-2], 0.001, 0.01))
        for _ in range(pace):
            account.pay(usd, at)
            at += 1.0 / pace
        paid.append(usd)
        aim = targets(constraints, account, now=at).aims.cost_usd
        assert aim is not None
        played.append(aim)

    assert np.ptp(paid[-20:]) < 0.02 * 0.004
    assert np.mean(paid[-20:]) == pytest.approx(0.004, rel=0.02)
