"""Debian's Chromium, driven by Playwright: how it is started, and what is noted of a page while it is looked at."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

# Without the flags about the background it looks for its maker's hosts at every start.
FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
VIEWS: Final = ("", "rollouts", "requests", "config", "health", "audit", "routes/assistant")
WIDTHS: Final = {375: 812, 1440: 900}


class NoBrowser(Exception):
    """Chromium or Playwright is not there; the message says how to get it."""


@dataclass(slots=True)
class Noted:
    """What a page did that it should not: exceptions, refusals by its policy, requests to other hosts."""

    errors: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def watch(self, page: Any, origin: str) -> None:
        """Note what ``page`` does from now on."""
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: self._said(said.type, said.text))
        page.on("request", lambda request: self._asked(request.url, origin))

    def nothing(self) -> bool:
        """Whether it did none of it."""
        return not (self.errors or self.refused or self.elsewhere)

    def _said(self, kind: str, text: str) -> None:
        if "Content Security Policy" in text:
            self.refused.append(text)
        elif kind == "error" and "Failed to load resource" not in text:
            self.errors.append(text)

    def _asked(self, url: str, origin: str) -> None:
        if not url.startswith((origin + "/", "data:")):
            self.elsewhere.append(url)


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser (Playwright's ``Browser``, synchronous).

    Raises:
        NoBrowser: Chromium or Playwright is missing.
    """
    program = shutil.which("chromium")
    if program is None:
        raise NoBrowser("chromium is not installed: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only where pages are looked at
    except ModuleNotFoundError as error:
        raise NoBrowser("playwright is not installed: pip install playwright") from error
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()
