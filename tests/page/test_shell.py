"""The frame of the page: navigation, keyboard, key, theme, and what it says when nobody answers."""

import urllib.request
from typing import Any

import pytest

from loadtests.page.browser import VIEWS
from loadtests.page.world import ADMIN_KEY, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FOCUSED = "document.activeElement.closest('dialog') !== null"


def visit(page: Any, name: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=name, exact=True).click()


def test_every_view_opens_from_the_navigation(see: Any) -> None:
    page = see()
    links = page.get_by_role("navigation").get_by_role("link")
    names = links.all_inner_texts()
    assert names == ["Overview", "Rollouts", "Requests", "Configuration", "Health", "Audit"]
    for name in names:
        visit(page, name)
        page.wait_for_function("name => document.title.startsWith(name)", arg=name)
        assert page.locator("[aria-current=page]").inner_text() == name
    page.go_back()
    page.wait_for_function("() => document.title.startsWith('Health')")


def test_an_address_of_nothing_says_so(see: Any) -> None:
    page = see("nothing")
    nowhere = page.get_by_text("There is no such view")
    nowhere.wait_for()
    for address in ("health/more", "routes", "%E0%A4%A"):
        visit(page, "Audit")
        nowhere.wait_for(state="detached")
        page.evaluate("to => { location.hash = '#/' + to }", address)
        nowhere.wait_for()


@pytest.mark.parametrize("width", [375, 1440])
def test_no_view_is_wider_than_the_window(see: Any, width: int) -> None:
    page = see(width=width)
    for view in VIEWS:
        page.evaluate("view => { location.hash = '#/' + view }", view)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view


def test_the_keyboard_is_enough(see: Any) -> None:
    page = see()
    page.get_by_role("navigation").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_role("link", name="Audit", exact=True).focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.title.startsWith('Audit')")


def test_a_dialog_keeps_the_focus_and_gives_it_back(see: Any) -> None:
    page = see()
    opener = page.get_by_role("button", name="Admin key")
    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Admin key")
    dialog.wait_for()
    seen = set()
    for _ in range(8):
        assert page.evaluate(FOCUSED)
        seen.add(page.evaluate("document.activeElement.outerHTML"))
        page.keyboard.press("Tab")
    assert len(seen) > 1
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(FOCUSED)
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Admin key"


def test_the_theme_follows_the_system_until_somebody_chooses(see: Any) -> None:
    page = see(theme="dark")
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "dark"
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"() => {theme} === 'light'")
    page.get_by_role("button", name="Use the dark theme").click()
    assert page.evaluate(theme) == "dark"
    page.reload()
    page.get_by_role("button", name="Use the light theme").click()
    assert page.evaluate(theme) == "light"


def test_from_outside_a_key_is_asked_for_once_and_kept_in_the_tab(see: Any, world: World) -> None:
    page = see("audit", outside=True)
    dialog = page.get_by_role("dialog", name="Admin key")
    dialog.wait_for()
    page.keyboard.press("Escape")
    visit(page, "Health")
    page.get_by_role("button", name="Use an admin key").click()
    dialog.get_by_role("button", name="Cancel").click()
    visit(page, "Audit")
    page.get_by_role("button", name="Admin key", exact=True).click()
    dialog.get_by_label("Key").fill("not-the-key")
    dialog.get_by_role("button", name="Use this key").click()
    dialog.get_by_role("alert").filter(has_text="not an admin key").wait_for()
    dialog.get_by_label("Key").fill(ADMIN_KEY)
    with page.expect_response(lambda answer: "/api/v1/audit" in answer.url and answer.status == 200):
        dialog.get_by_role("button", name="Use this key").click()
    dialog.wait_for(state="detached")
    with page.expect_response(lambda answer: "/api/v1/audit" in answer.url and answer.status == 200):
        page.reload()
    assert page.evaluate("Object.values(localStorage).join()") == ""
    page.get_by_role("button", name="Admin key: set").click()
    page.get_by_role("button", name="Forget the key").click()
    page.get_by_role("button", name="Admin key", exact=True).wait_for()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_killed_optimizer_is_seen_and_so_is_its_return(see: Any, world: World) -> None:
    page = see("")
    state = page.get_by_test_id("link-state")
    state.get_by_text("healthy").wait_for()
    banner = page.get_by_test_id("disconnected")

    def look() -> bool:
        # The page asks when somebody comes back to it, so that the test need not wait for the next time.
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.wait_for_timeout(100)
        return bool(banner.is_visible())

    def killed() -> bool:
        world.kill_optimizer()
        return look()

    world.until(killed)
    assert "The optimizer process does not answer" in banner.inner_text()
    world.until(lambda: not look())
    state.get_by_text("healthy").wait_for(timeout=30_000)


def test_the_worker_passes_files_on_as_they_are(world: World) -> None:
    def ask(path: str, **headers: str) -> Any:
        request = urllib.request.Request(f"{world.url}{path}", headers=headers)
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10)

    with ask("/ui") as answer:
        text = answer.read().decode()
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    script = text.partition('src="')[2].partition('"')[0]
    with ask(script, **{"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert "immutable" in answer.headers["Cache-Control"]
        etag = answer.headers["ETag"]
        size = len(answer.read())
    with ask(script) as answer:
        assert len(answer.read()) > size
    with pytest.raises(urllib.error.HTTPError) as unchanged:
        ask(script, **{"If-None-Match": etag, "Accept-Encoding": "gzip"})
    assert unchanged.value.code == 304
    unchanged.value.close()
