"""What is shown of limits: routes by name, keys as numbers only."""

from optimizer.leases import MeterReport
from optimizer.routing import Arm, Quota
from optimizer.settings import RouteSettings
from proxy.control.metrics.limits import Standing, limit_facts


def route(name: str, quota: Quota | None) -> RouteSettings:
    return RouteSettings(name, (Arm("a", "m", "default", "k", "v"),), "a", (), quota=quota)


def meter(subject: str, measure: str, window: str, limit: float, used: float) -> MeterReport:
    return MeterReport(subject, measure, window, 0, 60, limit, used + 1, used)


ROUTES = (
    route("chat", Quota(requests_per_minute=10, usd_per_day=2.5, usd_per_month=40.0)),
    route("free", None),
)


def test_a_limit_that_nobody_asked_for_is_shown_unused() -> None:
    """In dollars and counts, as it was configured."""
    found = limit_facts([], ROUTES, unstored=3)

    assert found.routes == {
        ("chat", "requests", "minute"): Standing(10, 0, 0),
        ("chat", "usd", "day"): Standing(2.5, 0, 0),
        ("chat", "usd", "month"): Standing(40.0, 0, 0),
    }
    assert set(found.keys.values()) == {0}
    assert found.unstored == 3


def test_a_limit_in_use_shows_what_is_granted_and_used() -> None:
    """Routes that are no longer configured have no series."""
    meters = [
        meter("route:chat", "usd", "day", 2.5, 1.0),
        meter("route:gone", "usd", "day", 9.0, 1.0),
        meter("route:free", "requests", "minute", 9, 1),
    ]

    found = limit_facts(meters, ROUTES, unstored=0)

    assert found.routes["chat", "usd", "day"] == Standing(2.5, 2.0, 1.0)
    assert {name for name, _, _ in found.routes} == {"chat"}


def test_keys_are_counted_and_never_named() -> None:
    """However many there are, the series are the same; a key may be called like a route."""
    meters = [meter(f"key:{n}", "requests", "minute", 10, float(n)) for n in range(8, 13)]
    meters.append(meter("key:chat", "usd", "day", 1.0, 0.0))

    found = limit_facts(meters, ROUTES, unstored=0)

    assert found.keys == {
        ("requests", "minute"): 5,
        ("tokens", "minute"): 0,
        ("usd", "day"): 1,
        ("usd", "month"): 0,
    }
    assert found.exhausted_keys["requests", "minute"] == 3
    assert found.routes["chat", "usd", "day"] == Standing(2.5, 0, 0)
