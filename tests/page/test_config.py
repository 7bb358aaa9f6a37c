"""The configuration on the page: shown without secrets, checked with every problem at its line, read again."""

from typing import Any

import pytest
import yaml

from loadtests.page.world import ADMIN_KEY, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

WRONG = (
    "upstreams:\n  up: {base_url: 'http://127.0.0.1:1/v1', api_kye: x}\nroutes:\n  chat: {arms: [nobody]}\n"
)


def test_both_sources_are_shown_with_their_lines_and_no_secret(see: Any, world: World) -> None:
    page = see("config")
    shown = page.get_by_test_id("yaml")
    for tab, source in (("In effect", "effective"), ("File", "file")):
        page.get_by_role("tab", name=tab).click()
        page.get_by_role("region", name=f"Configuration, {source}").wait_for()
        text = shown.inner_text()
        assert "assistant:" in text
        assert yaml.safe_load(text)["routes"].keys() == {"assistant", "support", "extraction"}
        assert "literal-upstream-key" not in page.content()
        assert ADMIN_KEY not in page.content()
        numbers = page.locator(".numbers").inner_text().split()
        assert numbers == [str(number + 1) for number in range(len(text.rstrip("\n").split("\n")))]


def test_every_problem_is_shown_where_it_is(see: Any, world: World) -> None:
    page = see("config?tab=validate")
    field = page.get_by_role("textbox")
    field.fill(WRONG)
    page.get_by_role("button", name="Validate", exact=True).click()
    problems = page.get_by_test_id("problems").locator("> li")
    problems.first.wait_for()
    told = world.api("POST", "/api/v1/config/validate", {"config": WRONG})["problems"]
    assert problems.count() == len(told) >= 2
    for place, problem in enumerate(told):
        text = problems.nth(place).inner_text()
        assert problem["path"] in text
        assert problem["message"] in text
        assert (problem["suggestion"] or "") in text
    lined = next(problem for problem in told if problem["line"])
    page.get_by_role("button", name=f"line {lined['line']}").first.click()
    chosen = field.evaluate("box => box.value.slice(box.selectionStart, box.selectionEnd)")
    assert chosen == WRONG.split("\n")[lined["line"] - 1]

    page.get_by_role("button", name="Begin with the present file").click()
    page.wait_for_function("() => document.querySelector('textarea').value.includes('assistant')")
    page.get_by_role("button", name="Validate", exact=True).click()
    page.get_by_test_id("valid").wait_for()
    assert "support" in page.get_by_test_id("valid").inner_text()


def test_a_refused_file_changes_nothing_and_a_good_one_is_used(see: Any, world: World) -> None:
    page = see("config")
    config = world.state.parent / "config.yaml"
    before = config.read_text()

    def reload() -> None:
        page.get_by_role("button", name="Reload the file").click()
        page.get_by_role("dialog").get_by_role("button", name="Reload", exact=True).click()

    config.write_text(before + "nonsense: 1\n")
    try:
        reload()
        refused = page.get_by_test_id("reload-refused")
        refused.wait_for()
        assert "nonsense" in refused.inner_text()
        page.get_by_text("the configuration before it is in use").first.wait_for()
        ill = see("health").locator("[data-part=configuration][data-state=degraded]")
        ill.get_by_text("The last reload was refused").wait_for()
        config.write_text(before.replace("min_pulls: 15", "min_pulls: 16"))
        reload()
        page.get_by_test_id("reload-done").wait_for()
    finally:
        config.write_text(before)
    done = page.get_by_test_id("reload-done").inner_text()
    assert "in use" in done or "nothing has changed" in done
    page.get_by_test_id("yaml").get_by_text("min_pulls: 16").wait_for()
