"""Health and audit on the page: every part in words, what strangers see, and who did what over several pages."""

from typing import Any

import pytest

from loadtests.page.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ROWS = "document.querySelectorAll('main tbody tr').length"


def test_every_part_says_how_it_is(see: Any, world: World) -> None:
    page = see("health")
    page.get_by_test_id("whole").get_by_text("all is well").wait_for()
    told = world.api("GET", "/health/detailed")["components"]
    parts = page.get_by_test_id("parts").locator("> li")
    shown = dict(parts.evaluate_all("parts => parts.map((part) => [part.dataset.part, part.dataset.state])"))
    assert shown == told
    assert all(len(text.split("\n")) >= 3 for text in parts.all_inner_texts())
    worker = page.get_by_role("table", name="Workers of this node").get_by_role("row").nth(1)
    assert "MiB" in worker.inner_text()
    assert page.get_by_text("No limit is in use").is_visible()


def test_a_stranger_sees_states_and_no_figures(see: Any) -> None:
    page = see("health", outside=True)
    page.get_by_text("Figures are shown with the admin key only").wait_for()
    assert page.locator("[data-part=workers]").inner_text().startswith("Workers")
    assert "MiB" not in page.locator("main").inner_text()
    page.get_by_role("button", name="Use an admin key").click()
    page.get_by_role("dialog", name="Admin key").wait_for()


@pytest.mark.long
def test_the_audit_is_read_page_by_page_and_by_words(see: Any, world: World) -> None:
    for _ in range(55):
        world.api("POST", "/api/v1/config/reload")
    page = see("audit")
    page.wait_for_function(f"() => {ROWS} === 50")
    page.get_by_role("button", name="Older").click()
    page.wait_for_function(f"() => {ROWS} >= 55")
    page.get_by_label("Action").fill("config.reload")
    page.get_by_label("Who").fill("local")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**/ui#/audit?actor=local&action=config.reload")
    page.wait_for_function(f"() => {ROWS} === 50")
    assert set(page.locator("main td.title").all_inner_texts()) == {"config.reload"}
    page.locator("main summary").first.click()
    assert '"result"' in page.locator("main details pre").first.inner_text()
    page.get_by_label("Who").fill("nobody")
    page.get_by_role("button", name="Filter").click()
    page.get_by_text("No row is like this").wait_for()
