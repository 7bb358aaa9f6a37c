"""The overview says what the API says: totals, savings with their interval, each route, what asks for attention."""

import re
from typing import Any

import pytest

from loadtests.page.world import ROUTES, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ENOUGH = 80


def number(text: str) -> float:
    """The first number of a text as the page writes them, thousands and all."""
    found = re.search(r"-?\$?[\d,]*\.?\d+", text.replace("\N{MINUS SIGN}", "-"))
    assert found, text
    return float(re.sub(r"[$,]", "", found[0]))


def near(value: float, unit: float = 0.01) -> Any:
    """What a page may write for ``value``: three digits that count, and at least two after the point."""
    return pytest.approx(value, rel=0.006, abs=unit * 0.51)


@pytest.fixture(scope="module")
def still(world: World) -> World:
    """The product after its traffic: what it says does not change any more."""

    def known() -> bool:
        total = world.api("GET", "/api/v1/savings")["total"]
        return world.statuses[200] > ENOUGH and total["low_usd"] is not None

    world.until(known)
    world.end()
    sent = sum(world.statuses.values())
    world.until(lambda: world.api("GET", "/api/v1/metrics/summary")["total"]["requests"] >= sent)
    return world


def figure(page: Any, name: str) -> tuple[str, str]:
    """Value and note of a figure of the view."""
    box = page.locator("dl.figure").filter(has=page.locator("dt", has_text=re.compile(f"^{re.escape(name)}")))
    value, note = box.locator("dd").all_inner_texts()
    return value, note


def test_the_totals_are_those_of_the_api(see: Any, still: World) -> None:
    page = see()
    page.get_by_test_id("saved").wait_for()

    summary = still.api("GET", "/api/v1/metrics/summary")
    total = summary["total"]
    assert number(figure(page, "Requests")[1]) == total["requests"]
    assert number(figure(page, "Cost")[0]) == near(total["cost_usd"], 0.0)
    assert number(figure(page, "Error rate")[0]) == near(100 * total["error_rate_5m"])
    assert number(figure(page, "Latency, p95")[0]) in (
        near(1000 * total["latency_p95_s"], 1.0),
        near(total["latency_p95_s"]),
    )
    assert number(figure(page, "Quality served")[0]) == pytest.approx(summary["quality"]["score"], abs=0.0006)


def test_the_saving_is_said_with_its_interval_and_its_baseline(see: Any, still: World) -> None:
    page = see()
    words = page.get_by_test_id("saved").inner_text()

    saving = still.api("GET", "/api/v1/savings")["total"]
    assert number(words.split("\n\n")[1]) == near(abs(saving["saved_usd"]), 0.0)
    assert f"{saving['requests'] + saving['unknown']} completed requests are compared" in words
    low, high = re.findall(r"interval (\S+) to (\S+?)[ :.]?(?: |$)", words)[0]
    assert number(low) == near(saving["low_usd"], 0.0)
    assert number(high) == near(saving["high_usd"], 0.0)
    assert "sending everything to each route's baseline arm" in words


def test_every_route_has_its_row(see: Any, still: World) -> None:
    page = see()
    rows = page.locator("table tbody tr")
    rows.first.wait_for()

    routes = still.api("GET", "/api/v1/metrics/summary")["routes"]
    savings = still.api("GET", "/api/v1/savings")["routes"]
    assert rows.count() == len(ROUTES)
    for name in ROUTES:
        row = rows.filter(has=page.get_by_role("link", name=name, exact=True))
        cells = dict(
            row.locator("td").evaluate_all("all => all.map((td) => [td.dataset.label, td.innerText])")
        )
        assert number(cells["Requests"]) == routes[name]["requests"]
        assert number(cells["Cost"]) == near(routes[name]["cost_usd"], 0.0)
        assert number(cells["Quality"]) == pytest.approx(routes[name]["quality_score"], abs=0.0006)
        if savings[name]["saved_usd"] is None:
            assert cells["Saved"] == "\N{EN DASH}"
        else:
            assert number(cells["Saved"]) == near(savings[name]["saved_usd"], 0.0)
    bar = page.get_by_role("img", name="Traffic of support").get_attribute("aria-label")
    assert bar == "Traffic of support: medium 100%"


def test_routes_are_found_by_what_is_typed(see: Any, still: World) -> None:
    page = see()
    rows = page.locator("table tbody tr")
    rows.first.wait_for()
    box = page.get_by_label("Filter by route, model or arm")
    box.fill("EXTRA")
    assert [row.split()[0] for row in rows.all_inner_texts()] == ["extraction"]
    assert "filter=EXTRA" in page.url
    box.fill("medium-next")
    assert [row.split()[0] for row in rows.all_inner_texts()] == ["support"]
    box.fill("<img src=x>")
    page.get_by_text("No route, pattern or arm contains “<img src=x>”.").wait_for()
    box.fill("")
    page.get_by_label("Order").select_option("name")
    assert [row.split()[0] for row in rows.all_inner_texts()] == sorted(ROUTES)


def test_a_rollout_that_waits_asks_for_attention(see: Any, still: World) -> None:
    page = see()
    attention = page.get_by_test_id("attention")
    attention.wait_for()
    made = still.rollout(
        stages=[{"percentage": 10, "duration_sec": 900}, {"percentage": 100}], name="Try small"
    )
    row = page.locator("table tbody tr").filter(has=page.get_by_role("link", name="support", exact=True))
    row.get_by_text("stage 1 of 2, 10% of traffic").wait_for()

    still.api("POST", f"/api/v1/optimize/{made}/pause")

    attention.get_by_text("Try small is paused on support").wait_for()
    row.get_by_text("paused", exact=True).wait_for()
    bar = page.get_by_role("img", name="Traffic of support").get_attribute("aria-label")
    assert bar == "Traffic of support: medium 90%, small 10%"
    still.api("POST", f"/api/v1/optimize/{made}/abort")
    attention.get_by_text("Try small is paused").wait_for(state="detached")
