"""The operator's page in real Chromium, served by the running product under real traffic.

``world`` is the product of one test file, with three routes and callers that rate what they get; ``see`` opens a view
of its page. Whatever a page does that it should not (an exception, something its policy refuses, a request to another
host) fails the test that opened it.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtests.page.browser import WIDTHS, NoBrowser, Noted, chromium
from loadtests.page.world import World
from loadtests.page.world import world as running
from proxy.control.page.files import BUNDLE, INDEX


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for a file; it must not outlive it, because its loop would be in the way of other tests."""
    if not (BUNDLE / INDEX).is_file():
        pytest.skip("the page is not built: make page")
    try:
        with chromium() as started:
            yield started
    except NoBrowser as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def world(browser: Any) -> Iterator[World]:
    """The product under traffic; the directory is short, because a unix socket's path may have 100 characters."""
    del browser
    with (
        tempfile.TemporaryDirectory(prefix="page-") as directory,
        running(Path(directory), speed=8.0) as started,
    ):
        started.begin(callers=2, pause_s=0.1)
        yield started


class Eyes:
    """Opens views. ``noted`` is what went wrong in any of them."""

    def __init__(self, browser: Any, world: World) -> None:
        self.noted = Noted()
        self._browser = browser
        self._world = world
        self._contexts: list[Any] = []

    def __call__(
        self, view: str = "", *, width: int = 1440, theme: str = "light", outside: bool = False
    ) -> Any:
        """The view in a browser of its own; ``outside`` comes through a proxy, for which the product asks for a key."""
        context = self._browser.new_context(
            viewport={"width": width, "height": WIDTHS.get(width, 900)},
            color_scheme=theme,
            extra_http_headers={"x-forwarded-for": "192.0.2.7"} if outside else {},
        )
        self._contexts.append(context)
        context.set_default_timeout(15_000)
        page = context.new_page()
        self.noted.watch(page, self._world.url)
        page.goto(f"{self._world.page}#/{view}")
        return page

    def close(self) -> None:
        """Close every browser."""
        for context in self._contexts:
            context.close()


@pytest.fixture
def see(browser: Any, world: World) -> Iterator[Eyes]:
    """``see("rollouts")``: the open view; at the end nothing may have gone wrong in it."""
    eyes = Eyes(browser, world)
    try:
        yield eyes
    finally:
        eyes.close()
    assert eyes.noted.nothing(), eyes.noted
