"""A route's view says what the API says, its charts need neither eyes nor a mouse, and it leaves nothing behind."""

import re
from typing import Any

import pytest

from loadtests.page.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NAME = "assistant"
UNKNOWN = "\N{EN DASH}"
ARMS = {"large", "large+careful", "medium", "medium+careful", "small", "small+careful"}


@pytest.fixture(scope="module")
def still(world: World) -> World:
    """The product after its traffic: what it says does not change any more."""

    def known() -> bool:
        savings = world.api("GET", "/api/v1/savings")["routes"]
        arms = world.api("GET", f"/api/v1/arms?route={NAME}")["arms"]
        return (
            NAME in savings
            and savings[NAME]["low_usd"] is not None
            and all(told(arm["latency_s"]) for arm in arms)
            and sum(bool(told(arm["quality"])) for arm in arms) > 2
        )

    world.until(known)
    world.end()
    sent = sum(world.statuses.values())
    world.until(lambda: world.api("GET", "/api/v1/metrics/summary")["total"]["requests"] >= sent)
    return world


def card(page: Any, name: str) -> Any:
    return page.get_by_role("region", name=name, exact=True)


def numbers(page: Any, name: str) -> list[dict[str, str]]:
    """What a chart draws, from the table below it, the newest first."""
    box = card(page, name)
    box.get_by_text("Numbers as a table").click()
    box.locator("details table").wait_for()
    rows: list[list[str]] = box.locator("details tr").evaluate_all(
        "all => all.map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def usd(text: str) -> float:
    (value,) = figures(text)
    return value


def figures(text: str) -> list[float]:
    """Every number in a text, thousands and all."""
    found = re.findall(r"-?\$?[\d,]*\.?\d+", text.replace("\N{MINUS SIGN}", "-"))
    return [float(re.sub(r"[$,]", "", one)) for one in found]


def told(belief: dict[str, float] | None) -> list[float]:
    """What the page writes of a belief: nothing while only the prior speaks."""
    if belief is None or belief["weight"] <= 0.0:
        return []
    return [belief["mean"], belief["low"], belief["high"]]


def test_arms_are_shown_as_the_api_has_them(see: Any, still: World) -> None:
    page = see(f"routes/{NAME}")
    rows = card(page, "Arms").locator("tbody tr")
    rows.first.wait_for()

    arms = {arm["arm"]: arm for arm in still.api("GET", f"/api/v1/arms?route={NAME}")["arms"]}
    assert set(arms) == ARMS
    for row in rows.all():
        name = row.locator("input").get_attribute("aria-label").removeprefix("Draw ")
        cells = dict(
            row.locator("td").evaluate_all("all => all.map((td) => [td.dataset.label, td.innerText])")
        )
        arm = arms.pop(name)
        assert float(cells["Tries"].replace(",", "")) == pytest.approx(arm["pulls"], abs=0.51)
        assert figures(cells["Quality"]) == pytest.approx(told(arm["quality"]), abs=0.0006)
        assert figures(cells["Cost"]) == pytest.approx(told(arm["cost_usd"]), rel=0.006)
    assert not arms


def test_beliefs_are_curves_with_their_numbers_beside(see: Any, still: World) -> None:
    page = see(f"routes/{NAME}")
    box = card(page, "Quality: what is believed")
    box.locator("tbody tr").first.wait_for()

    document = still.api("GET", f"/api/v1/arms/densities?route={NAME}")
    (quality,) = [row["arms"] for row in document["signals"] if row["signal"] == "quality"]
    rows = [row.split("\t") for row in box.locator("tbody tr").all_inner_texts()]
    shown = [(row[0].split()[-1], row[1]) for row in rows]
    assert shown == [(arm["arm"], f"{arm['mean']:.3f}" if arm["weight"] else UNKNOWN) for arm in quality]
    words = box.locator(".chart").get_attribute("aria-label")
    for arm in quality:
        if not arm["weight"]:
            continue
        assert f"{arm['arm']}: 95 % between {arm['low']:.3f} and {arm['high']:.3f}" in words
    assert box.locator("canvas").count() == 1
    assert (
        page.get_by_role("region", name="Arms", exact=True).get_by_text("baseline", exact=True).count() == 1
    )


def test_charts_over_time_draw_the_history(see: Any, still: World) -> None:
    page = see(f"routes/{NAME}?range=15m")
    spent = numbers(page, "Spent against the baseline")
    shares = numbers(page, "Who answers")

    history = still.api("GET", f"/api/v1/history?minutes=15&points=90&route={NAME}")
    (route,) = history["routes"]
    assert usd(spent[0]["Spent"]) == pytest.approx(sum(route["cost_usd"]), rel=0.006)
    instead = sum(route["cost_usd"]) + sum(route["saved_usd"])
    assert usd(spent[0]["Baseline would have"]) == pytest.approx(instead, rel=0.006)
    assert {arm["arm"] for arm in history["arms"]} == ARMS == set(shares[0]) - {"Time"}
    for row in shares:
        told = [float(row[arm].rstrip("%")) for arm in ARMS if row[arm] != UNKNOWN]
        assert not told or sum(told) == pytest.approx(100.0, abs=3.0)


def test_the_range_is_chosen_and_kept_in_the_address(see: Any, still: World) -> None:
    page = see(f"routes/{NAME}")
    page.get_by_text("share of the requests in the last 1 h").wait_for()
    with page.expect_response(lambda answer: "minutes=20160" in answer.url):
        page.get_by_role("button", name="14 d").click()
    page.get_by_text("share of the requests in the last 14 d").wait_for()
    assert page.url.endswith("?range=14d")
    assert page.get_by_role("button", name="14 d").get_attribute("aria-pressed") == "true"


def test_a_chart_is_read_with_the_keyboard(see: Any, still: World) -> None:
    page = see(f"routes/{NAME}")
    chart = card(page, "Who answers").locator(".chart")
    chart.focus()
    page.keyboard.press("Home")
    reading = chart.get_by_role("status")
    reading.get_by_text("nothing known").wait_for()
    page.keyboard.press("ArrowRight")
    reading.get_by_text("%").first.wait_for()
    assert set(reading.inner_text().split()) >= ARMS
    page.keyboard.press("Escape")
    reading.wait_for(state="detached")


def test_an_arm_that_is_not_drawn_keeps_its_numbers(see: Any, still: World) -> None:
    page = see(f"routes/{NAME}")
    key = card(page, "Latency over time").locator(".chart-key")
    key.get_by_text("small+careful", exact=True).wait_for()
    page.get_by_label("Draw small+careful").uncheck()
    key.get_by_text("small+careful", exact=True).wait_for(state="detached")
    assert card(page, "Arms").get_by_text("small+careful", exact=True).count() == 1
    page.get_by_role("button", name="Draw all").click()
    key.get_by_text("small+careful", exact=True).wait_for()


def test_a_route_that_is_not_there_is_said(see: Any, still: World) -> None:
    page = see("routes/<b>none")
    page.get_by_text("There is no route").wait_for()
    assert page.locator("main b").count() == 0


def test_nothing_stays_of_charts_that_were_left(see: Any, still: World) -> None:
    """uPlot listens on the document and keeps canvases; what is left has to let go of both."""
    page = see()
    probe = page.context.new_cdp_session(page)

    def visit() -> dict[str, int]:
        page.evaluate("name => { location.hash = '#/routes/' + name }", NAME)
        page.wait_for_function("() => document.querySelectorAll('canvas').length >= 8")
        page.evaluate("location.hash = '#/health'")
        page.wait_for_function("() => document.querySelectorAll('canvas').length === 0")
        page.wait_for_load_state("networkidle")
        probe.send("HeapProfiler.collectGarbage")
        counters: dict[str, int] = probe.send("Memory.getDOMCounters")
        return counters

    visit()
    early = visit()
    late = [visit() for _ in range(3)][-1]
    assert late["nodes"] <= early["nodes"] * 1.1 + 50
    assert late["jsEventListeners"] <= early["jsEventListeners"] * 1.1 + 20
