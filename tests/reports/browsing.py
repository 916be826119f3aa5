"""A real headless Chromium for tests, which notes every console message, error and request that leaves the page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Seen:
    """A page, and what went on while it was looked at."""

    page: Any
    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def check(self, *allowed: str) -> None:
        """Nothing on the console, no error, no request but to addresses that begin so, and no script of the data's ran."""
        foreign = [r for r in self.requests if not r.startswith(("data:", *allowed))]
        assert (self.console, self.errors, foreign) == ([], [], [])
        assert self.page.evaluate("window.hacked") is None


@contextlib.contextmanager
def chromium(path: str, **options: Any) -> Iterator[Seen]:
    """A fresh page; `options` are those of Playwright's new_context."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
        )
        page = context.new_page()
        page.set_default_timeout(20_000)
        seen = Seen(page)
        page.on("console", lambda message: seen.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        yield seen
        browser.close()
