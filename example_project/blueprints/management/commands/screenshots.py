"""Take the screenshots of README.md and docs/ with the demo's traces: ``python manage.py screenshots``."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_tracing.traces.readers.sqlite.store import LocalStore
from example_project.demo import FLOWS, ROOT, Demo
from example_project.servers import free_port

__all__ = ["Command"]

WIDTH, HEIGHT = 1280, 800


class Command(BaseCommand):
    help = "Run the demo and take screenshots of the admin's pages of its traces, light and dark, into a folder."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs" / "images")
        parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser (default: %(default)s)")

    def handle(self, *, folder: Path, chromium: str, **options: Any) -> None:
        try:
            from playwright.sync_api import sync_playwright
        except ImportError:
            raise CommandError("Screenshots need Playwright: pip install '.[test]'.") from None
        if not Path(chromium).exists():
            raise CommandError(
                f"There is no browser at {chromium}: apt-get install chromium, or give its path with --chromium."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            store = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "traces.sqlite3"
            demo = Demo(
                stack,
                server="gunicorn",
                port=free_port(),
                environment={"DEMO_LOCAL_STORE": str(store)},
                write=self.stdout.write,
            )
            demo.start()
            demo.load(60)
            for flow in FLOWS:
                demo.send(flow)
            reader = LocalStore(store)
            deadline = time.monotonic() + 20
            while len(reader.search(limit=200)) < 60 + len(FLOWS):
                if time.monotonic() > deadline:
                    raise CommandError("The demo's traces did not arrive.")
                time.sleep(0.1)
            # Some spans of the last traces may not have arrived yet.
            time.sleep(2)
            playwright = stack.enter_context(sync_playwright())
            admin = demo.start_admin()
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for scheme in ("light", "dark"):
                self._take(browser, admin, folder, scheme)
            browser.close()

    def _take(self, browser: Any, admin: str, folder: Path, scheme: str) -> None:
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
        page.goto(admin.replace("django_tracing/trace/", "login/?next=/admin/django_tracing/trace/"))
        page.fill("#id_username", "demo")
        page.fill("#id_password", "demo")
        page.click("[type=submit]")
        page.click("#toggle-nav-sidebar")
        search = f"{admin}?service=api-gateway&operation="
        for name, address, opened in (
            ("list", admin, ()),
            ("trace", f"{search}GET /api/reports", (".tracing-list th a",)),
            ("n-plus-one", f"{search}GET /api/blueprints/owners", (".tracing-list th a",)),
            ("sql", f"{search}GET /api/blueprints/owners", (".tracing-list th a", ".tracing-views a >> nth=1")),
            ("routes", f"{admin}routes/?o=-p95", ()),
            ("map", f"{admin}map/", ()),
        ):
            page.goto(address)
            for link in opened:
                with page.expect_navigation():
                    page.locator(link).first.click()
            path = folder / f"{name}-{scheme}.png"
            page.screenshot(path=path)
            self.stdout.write(f"{path} {path.stat().st_size // 1024} KiB")
        page.close()
