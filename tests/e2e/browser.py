"""Debian's chromium, driven by Playwright, and a page of it that may not complain."""

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
    """The browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@contextlib.contextmanager
def watched_page(browser: Any, **context: Any) -> Iterator[Any]:
    """A page; at its end nothing may be missing, no script have failed, and nothing have been stopped by a policy."""
    options = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", **context}
    with browser.new_context(**options) as opened:
        page = opened.new_page()
        failures: list[str] = []

        def missing(answer: Any) -> None:
            # Every browser asks for it; no site has to have one.
            if answer.status >= 400 and not answer.url.endswith("/favicon.ico"):
                failures.append(f"{answer.status} {answer.url}")

        def complained(message: Any) -> None:
            if message.type == "error" and "Failed to load resource" not in message.text:
                failures.append(message.text)

        def asked(dialog: Any) -> None:
            failures.append(f"a script ran: {dialog.message}")
            dialog.dismiss()

        page.on("response", missing)
        page.on("console", complained)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("dialog", asked)
        yield page
        assert failures == [], "neither an error of a script nor anything that the policy stopped"


def sign_in(page: Any, address: str, user: str, password: str) -> None:
    """Through the admin's login at ``address``."""
    page.goto(address)
    page.fill("#id_username", user)
    page.fill("#id_password", password)
    page.click("[type=submit]")
    page.wait_for_load_state()
