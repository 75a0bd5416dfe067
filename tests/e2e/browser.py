"""Run Debian's chromium with Playwright, and fail on errors of a page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["chromium", "needs_chromium", "sign_in", "watched_page"]

CHROMIUM = "/usr/bin/chromium"
needs_chromium = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs {CHROMIUM}")


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@contextlib.contextmanager
def watched_page(browser: Any, **context: Any) -> Iterator[Any]:
    """Yield a page; at its end, fail on missing files, script errors and violations of the policy."""
    options = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", **context}
    with browser.new_context(**options) as opened:
        page = opened.new_page()
        failures: list[str] = []

        def missing(answer: Any) -> None:
            # Every browser requests it, but a site needn't have one.
            if answer.status >= 400 and not answer.url.endswith("/favicon.ico"):
                failures.append(f"{answer.status} {answer.url}")

        def logged(message: Any) -> None:
            if message.type == "error" and "Failed to load resource" not in message.text:
                failures.append(message.text)

        def dialog_opened(dialog: Any) -> None:
            failures.append(f"a script ran: {dialog.message}")
            dialog.dismiss()

        page.on("response", missing)
        page.on("console", logged)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("dialog", dialog_opened)
        yield page
        assert failures == [], "no script may fail and nothing may violate the policy"


def sign_in(page: Any, address: str, user: str, password: str) -> None:
    """Sign in through the admin's login at ``address``."""
    page.goto(address)
    page.fill("[name=username]", user)
    page.fill("[name=password]", password)
    page.click("[type=submit]")
    page.wait_for_load_state()
