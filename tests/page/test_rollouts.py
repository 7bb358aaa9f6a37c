"""Rollouts on the page: a canary that fails is seen failing, every button does what it says, and markup stays text."""

from typing import Any

import pytest

from loadtests.page.world import ADMIN_KEY, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LONG = [{"percentage": 30, "duration_sec": 600}, {"percentage": 60, "duration_sec": 600}, {"percentage": 100}]
MARKUP = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"><b>bold</b>"


def stands(page: Any, status: str) -> Any:
    """Wait until the page says that the optimization has this status, without anybody loading it again."""
    shown = page.locator(f"[data-testid=optimization][data-status={status}]")
    shown.wait_for()
    return shown


def order(page: Any, button: str, *, reason: str = "") -> Any:
    """Press a button and confirm; the dialog's text is returned."""
    page.get_by_role("group", name="Commands").get_by_role("button", name=button, exact=True).click()
    dialog = page.get_by_role("dialog")
    said = dialog.inner_text()
    if reason:
        dialog.get_by_label("Reason").fill(reason)
    dialog.get_by_role("button", name=button, exact=True).click()
    return said


def test_a_canary_that_fails_is_seen_being_rolled_back(see: Any, world: World) -> None:
    """From the first percent to the verdict the page is opened once; only the model begins to fail."""
    half = [{"percentage": 50, "duration_sec": 600}, {"percentage": 100}]
    id_ = world.rollout(stages=half, name="Cheaper support")
    page = see("rollouts")
    row = page.get_by_role("row", name="Cheaper support")
    row.get_by_text("running", exact=True).wait_for()
    assert "50%" in row.inner_text()
    row.get_by_role("link", name="Cheaper support").click()
    stands(page, "running")
    assert page.get_by_test_id("share").inner_text() == "50%"
    page.wait_for_function("() => Number(document.querySelector('[data-testid=samples]')?.textContent) >= 1")
    world.upstream.failing.add("small")
    try:
        stands(page, "rolled_back")
    finally:
        world.upstream.failing.discard("small")

    assert page.get_by_test_id("share").inner_text() == "0%"
    told = world.api("GET", f"/api/v1/optimize/{id_}")
    assert page.get_by_test_id("why").inner_text().lower().startswith(told["explanation"].lower())
    history = page.get_by_test_id("history")
    history.locator("[data-verb=rollback]").wait_for()
    assert history.locator("> li").evaluate_all("rows => rows.map((row) => row.dataset.verb)") == [
        "rollback",
        "deploy",
        "propose",
        "create",
    ]
    assert "by optimizer" in history.locator("[data-verb=rollback]").inner_text()
    assert page.locator(".stage.failed").get_by_text("ended here").is_visible()
    # On a wide screen as on a narrow one: it is what the decision was made on.
    assert page.get_by_role("table", name="Expected effects against the baseline").is_visible()
    errors = page.get_by_role("row", name="Errors")
    failed = 100.0 * told["measured"]["guards"]["error"]["candidate"]
    assert f"{float(f'{failed:.3g}'):g}%" in errors.inner_text()
    commands = page.get_by_role("group", name="Commands").get_by_role("button")
    assert commands.all_inner_texts() == ["Retry", "Delete"]


def test_every_button_says_what_happens_and_does_it(see: Any, world: World) -> None:
    id_ = world.rollout(stages=LONG, route="extraction", name="By hand")
    page = see(f"rollouts/{id_}")
    revision = stands(page, "running").get_attribute("data-revision")
    assert page.get_by_role("button", name="Resume").is_disabled()

    with page.expect_request(lambda request: request.url.endswith("/pause")) as sent:
        said = order(page, "Pause", reason="lunch")
    assert "keeps 30% of the traffic of extraction" in said
    stands(page, "paused")
    assert sent.value.headers["if-match"] == f'"{revision}"'
    assert len(sent.value.headers["idempotency-key"]) == 32
    page.get_by_test_id("history").locator("[data-verb=pause]").get_by_text("by local").wait_for()
    assert page.get_by_role("button", name="Pause").is_disabled()

    order(page, "Resume")
    stands(page, "running")
    assert "60% of the traffic of extraction gets the candidate instead of 30%" in order(
        page, "Promote one stage"
    )
    page.get_by_test_id("share").get_by_text("60%").wait_for()
    assert world.api("GET", f"/api/v1/optimize/{id_}")["candidate_percentage"] == 60.0
    order(page, "Promote to 100%")
    stands(page, "deployed")
    assert "loses its 100% of the traffic" in order(page, "Roll back", reason="too short")
    stands(page, "rolled_back")
    order(page, "Retry")
    stands(page, "running")
    order(page, "Abort")
    stands(page, "aborted")
    order(page, "Delete")
    page.wait_for_url("**/ui#/rollouts")
    assert page.get_by_role("link", name="By hand").count() == 0

    rows = world.api("GET", f"/api/v1/audit?target={id_}")["audit"]
    reasons = [row["detail"].get("explanation") for row in rows if row["action"] == "optimization.rollback"]
    assert reasons == ["too short"]


def test_an_order_about_what_has_changed_is_refused_and_explained(see: Any, world: World) -> None:
    id_ = world.rollout(stages=LONG, route="assistant", to="medium", name="Two people")
    page = see(f"rollouts/{id_}")
    stands(page, "running")
    page.get_by_role("button", name="Promote one stage").click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    world.api("POST", f"/api/v1/optimize/{id_}/pause")

    dialog.get_by_role("button", name="Promote one stage").click()
    dialog.get_by_role("alert").get_by_text("it has changed since this page read it").wait_for()
    page.keyboard.press("Escape")
    stands(page, "paused")
    assert world.api("GET", f"/api/v1/optimize/{id_}")["candidate_percentage"] == 30.0
    world.api("POST", f"/api/v1/optimize/{id_}/abort")


def test_an_open_dialog_outlives_failed_polls_and_a_missing_key(see: Any, world: World) -> None:
    id_ = world.rollout(stages=LONG, route="support", name="Held up")
    page = see(f"rollouts/{id_}")
    stands(page, "running")
    page.get_by_role("button", name="Roll back").click()
    dialog = page.get_by_role("dialog", name="Roll back")
    dialog.get_by_label("Reason").fill("it was typed once")
    away = f"**/api/v1/optimize/{id_}*"
    page.route(away, lambda route: route.abort())
    page.get_by_text("Shown is what was known at").wait_for()
    page.unroute(away)
    page.set_extra_http_headers({"x-forwarded-for": "192.0.2.7"})

    dialog.get_by_role("button", name="Roll back").click()
    asked = page.get_by_role("dialog", name="Admin key")
    asked.get_by_label("Key").fill(ADMIN_KEY)
    asked.get_by_role("button", name="Use this key").click()
    asked.wait_for(state="detached")
    assert dialog.get_by_label("Reason").input_value() == "it was typed once"
    dialog.get_by_role("button", name="Roll back").click()
    stands(page, "rolled_back")
    page.get_by_test_id("history").get_by_text("it was typed once").wait_for()


def test_what_was_sent_can_not_be_called_back_and_tells_how_it_ended(see: Any, world: World) -> None:
    id_ = world.rollout(stages=LONG, route="support", name="Sent")
    page = see(f"rollouts/{id_}")
    stands(page, "running")
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/pause", hold)
    page.get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Pause").dblclick()
    dialog.get_by_text("Working").wait_for()
    assert dialog.get_by_role("button", name="Cancel").is_disabled()
    # The second one closes it whatever the page says.
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    world.until(lambda: page.wait_for_timeout(20) or held)
    [only] = held
    only.fulfill(status=409, json={"error": {"code": "CONFLICT", "message": "It is held elsewhere."}})
    page.get_by_text("It is held elsewhere.").wait_for()
    world.api("POST", f"/api/v1/optimize/{id_}/abort")


def test_an_optimization_is_asked_for_by_form(see: Any, world: World) -> None:
    page = see("rollouts/new?strategy=cost_reduction")
    page.get_by_label("Target reduction").fill("a third")
    page.get_by_role("button", name="Ask the strategy").click()
    page.get_by_text("must be a number").wait_for()
    page.get_by_label("Name", exact=True).fill(MARKUP)
    page.get_by_label("Strategy", exact=True).select_option("manual")
    page.get_by_label("Route").select_option("support")
    page.get_by_label("Arms").fill("tiny")
    page.get_by_role("button", name="Ask the strategy").click()
    page.get_by_role("alert").filter(has_text="tiny").wait_for()
    page.get_by_label("Arms").fill("small")
    page.get_by_label("Baseline").fill("small")
    page.get_by_role("button", name="Ask the strategy").click()

    stands(page, "proposed")
    assert MARKUP in page.get_by_role("heading", level=1).inner_text()
    assert page.locator("main img, main h1 b, main script").count() == 0
    assert page.title().startswith("Rollouts")
    assert "100%" not in page.get_by_test_id("share").inner_text()
    page.get_by_role("link", name="in the audit").click()
    page.get_by_role("link", name=MARKUP).first.wait_for()
    assert page.title().startswith("Audit")


@pytest.mark.long
def test_a_missing_optimization_and_an_empty_filter_say_so(see: Any) -> None:
    see("rollouts/opt_none").get_by_text("There is no optimization with this id").wait_for()
    see("rollouts?status=superseded").get_by_text("No optimization is like this").wait_for()
