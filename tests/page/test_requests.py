"""Requests on the page: the newest as they come, and why one of them went where it went."""

import re
from functools import partial
from typing import Any

import httpx
import pytest

from loadtests.page.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MARKUP = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
IDS = "rows => rows.map((row) => row.getAttribute('href'))"


def links(page: Any) -> Any:
    return page.get_by_test_id("requests").get_by_role("link", name=re.compile(r"\d\d:\d\d:\d\d"))


def logged(world: World, id_: str) -> bool:
    reply = httpx.get(f"{world.url}/api/v1/decisions/{id_}", trust_env=False)
    return reply.status_code == 200


def ask(world: World, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return httpx.post(f"{world.url}/v1/chat/completions", json=body, trust_env=False, timeout=20.0)


def test_new_requests_appear_until_the_list_is_held_still(see: Any, world: World) -> None:
    # More than one page of them, or there is nothing older to ask for.
    world.until(lambda: world.api("GET", "/api/v1/requests?limit=60")["next"] is not None, seconds=60)
    page = see("requests")
    links(page).first.wait_for()
    first = links(page).evaluate_all(IDS)
    page.wait_for_function(
        "first => document.querySelector('[data-testid=requests] td.title a')?.getAttribute('href') !== first",
        arg=first[0],
    )
    page.get_by_role("button", name="Hold still").click()
    page.get_by_text("held still").wait_for()
    held = links(page).evaluate_all(IDS)
    with page.expect_response(
        lambda answer: "/api/v1/routes" in answer.url or "/health/detailed" in answer.url
    ):
        ask(world, "support")
    assert links(page).evaluate_all(IDS) == held
    page.get_by_role("button", name="Older").click()
    page.wait_for_function(
        "count => document.querySelectorAll('[data-testid=requests] tbody tr').length > count", arg=len(held)
    )
    grown = links(page).evaluate_all(IDS)
    assert grown[: len(held)] == held
    assert len(set(grown)) == len(grown)


@pytest.mark.long
def test_the_list_is_filtered_by_its_address(see: Any) -> None:
    page = see("requests")
    page.get_by_label("Route").select_option("support")
    page.wait_for_url("**/ui#/requests?route=support")
    links(page).first.wait_for()
    routes = page.get_by_test_id("requests").locator("td[data-label=Route]").all_inner_texts()
    assert set(routes) == {"support"}
    page.get_by_label("Outcome").select_option("censored")
    page.get_by_text("No request is like this").wait_for()


def test_a_request_is_explained_with_every_arms_probability(see: Any, world: World) -> None:
    reply = ask(world, "assistant")
    id_ = reply.headers["x-llm-optimizer-request-id"]
    world.until(partial(logged, world, id_))
    page = see("requests")
    page.get_by_label("Request id").fill(id_)
    page.get_by_role("button", name="Look up").click()
    page.get_by_test_id("decision").wait_for()

    told = world.api("GET", f"/api/v1/decisions/{id_}")
    assert page.get_by_test_id("explanation").locator("li").all_inner_texts() == told["explanation"]
    bars = page.get_by_test_id("chances").locator("li")
    assert bars.count() == len(told["data"]["arms"]) == 6
    assert told["data"]["arm"] in page.locator(".chances .chosen .arm").inner_text()
    assert page.get_by_text("served it 200").is_visible()
    event = page.locator("details pre")
    assert not event.is_visible()
    page.get_by_text("The logged event as JSON").click()
    assert id_ in event.inner_text()


@pytest.mark.long
def test_retries_are_shown_with_their_errors(see: Any, world: World) -> None:
    world.upstream.failing.add("medium")
    try:
        reply = ask(world, "support")
        # The other arm of the route answered instead.
        reply = reply if reply.headers.get("x-llm-optimizer-attempts", "1") != "1" else ask(world, "support")
    finally:
        world.upstream.failing.discard("medium")
    id_ = reply.headers["x-llm-optimizer-request-id"]
    world.until(partial(logged, world, id_))
    page = see(f"requests/{id_}")
    page.get_by_test_id("decision").wait_for()
    attempts = world.api("GET", f"/api/v1/decisions/{id_}")["data"]["attempts"]
    rows = page.get_by_role("table", name="Attempts in their order").get_by_role("row")
    assert rows.count() == len(attempts) + 1
    for place, attempt in enumerate(attempts):
        text = rows.nth(place + 1).inner_text()
        assert attempt["arm"] in text
        assert (attempt["error"] or "served it").replace("_", " ") in text


def test_what_models_and_callers_write_is_text(see: Any, world: World) -> None:
    """A model that calls itself markup, and a caller who asks for it by such a name."""
    world.upstream.names["large"] = MARKUP
    try:
        asked = ask(world, "large")
    finally:
        world.upstream.names.clear()
    refused = ask(world, MARKUP)
    for reply in (asked, refused):
        id_ = reply.headers["x-llm-optimizer-request-id"]
        world.until(partial(logged, world, id_))
        page = see(f"requests/{id_}")
        page.get_by_test_id("decision").wait_for()
        assert MARKUP in page.locator("main").inner_text()
        assert page.locator("main img, main script").count() == 0
        assert page.title().startswith("Requests")


@pytest.mark.long
def test_a_providers_id_leads_to_the_request_and_an_unknown_one_says_so(see: Any, world: World) -> None:
    world.until(
        lambda: httpx.get(f"{world.url}/api/v1/responses/chatcmpl-1", trust_env=False).status_code == 200
    )
    page = see("requests")
    page.get_by_label("Request id").fill("chatcmpl-1")
    page.get_by_role("button", name="Look up").click()
    page.wait_for_url("**/ui#/requests/req_*")
    page.get_by_test_id("decision").wait_for()
    page = see("requests/req_" + "0" * 60)
    page.get_by_text("This request is not in the log").wait_for()
