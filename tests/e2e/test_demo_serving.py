"""Test the demo as a person uses it: its page, its links, pipes and Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from example_project.servers import free_port
from tests.e2e.browser import chromium, needs_chromium
from tests.e2e.test_demo import ROOT, environment
from tests.jaegers import wait_until

SERVING = "Serving until Ctrl-C."


class Serving:
    """``manage.py demo --serve`` in a process."""

    def __init__(self, folder: Path, *options: str, **popen: Any) -> None:
        self.port, self.admin_port = free_port(), free_port()
        self.gateway = f"http://127.0.0.1:{self.port}"
        self.admin = f"http://127.0.0.1:{self.admin_port}"
        self._log = folder / "demo.log"
        ports = ["--port", str(self.port), "--admin-port", str(self.admin_port)]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "demo", "--requests", "2", *ports, *options],
                env=environment(DEMO_LOCAL_STORE=str(folder / "traces.sqlite3")),
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **popen,
            )

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_until_serving(self) -> None:
        def serves() -> bool:
            assert self.process.poll() is None, self.log
            return SERVING in self.log

        wait_until(serves, "the demo to serve", 120)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("demo"), "--serve", stdin=subprocess.DEVNULL) as started:
        started.wait_until_serving()
        yield started


def test_each_flow_has_the_link_to_its_trace_and_no_waterfall(demo: Serving) -> None:
    from example_project.flows import FLOWS

    for flow in FLOWS:
        line = f"{re.escape(f'{flow.method} {flow.path}: {flow.title}')}\n"
        link = f"  {re.escape(demo.admin)}/admin/django_tracing/trace/[0-9a-f]{{32}}/\n"
        assert re.search(line + link, demo.log), demo.log
    assert "├─" not in demo.log
    assert f"Open {demo.gateway}/ " in demo.log


def test_the_page_forbids_everything_that_is_not_its_own(demo: Serving) -> None:
    with urllib.request.urlopen(f"{demo.gateway}/", timeout=60) as response:
        policy, page = response.headers["Content-Security-Policy"], response.read().decode()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]* src=)| style=| on\w+=|<style", page)


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_button_shows_the_answer_and_the_link_to_its_trace(demo: Serving, scheme: str) -> None:
    from example_project.flows import FLOWS

    with chromium() as browser:
        page = browser.new_page(viewport={"width": 360, "height": 800}, color_scheme=scheme)
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        # A violation of the policy is an error of the console. So is the status 500 of the flow with an error.
        page.on(
            "console",
            lambda message: (
                failures.append(message.text)
                if message.type == "error" and "status of 500" not in message.text
                else None
            ),
        )
        page.goto(f"{demo.gateway}/")
        assert page.locator("button.send").count() == len(FLOWS)
        for number, flow in enumerate(FLOWS):
            item = page.locator("li").nth(number)
            item.locator("button").click()
            item.locator(".answer a").wait_for(timeout=120_000)
            assert item.locator(".status").inner_text().startswith(str(flow.status))
            address = item.locator(".answer a").get_attribute("href")
            assert re.fullmatch(f"{re.escape(demo.admin)}/admin/django_tracing/trace/[0-9a-f]{{32}}/", address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, "nothing is wider than a phone"
        assert failures == []

        # The last link opens the trace of the last flow.
        page.goto(f"{demo.admin}/admin/login/?next=/admin/")
        page.fill("#id_username", "demo")
        page.fill("#id_password", "demo")
        page.click("[type=submit]")

        def shown() -> bool:
            page.goto(address)
            return "GET /internal/statistics" in page.content()

        assert wait_until(shown, "the page of the trace", 60)
        page.close()


def test_a_port_that_is_taken_is_named_with_the_one_used_instead(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ("--serve", "--admin-port", str(port))
        with Serving(tmp_path, *options, stdin=subprocess.DEVNULL) as demo:
            demo.wait_until_serving()
            found = re.search(rf"^Port {port} is taken; the admin listens on (\d+)\.$", demo.log, re.MULTILINE)
            assert found
            assert f"The traces: http://127.0.0.1:{found[1]}/admin/django_tracing/trace/" in demo.log
            assert listens(int(found[1]))


def test_with_tee_the_terminal_is_the_input_and_the_demo_serves_until_ctrl_c(tmp_path: Path) -> None:
    main, terminal = os.openpty()
    try:
        with Serving(tmp_path, stdin=terminal) as demo:
            demo.wait_until_serving()
            assert listens(demo.port)
            assert listens(demo.admin_port)
            demo.process.send_signal(signal.SIGINT)
            assert demo.process.wait(60) == 0
            assert demo.log.endswith("Stopped.\n")
            assert not listens(demo.port)
            assert not listens(demo.admin_port)
    finally:
        os.close(main)
        os.close(terminal)


def test_without_a_terminal_it_ends_and_says_how_to_serve(tmp_path: Path) -> None:
    with Serving(tmp_path, stdin=subprocess.DEVNULL) as demo:
        assert demo.process.wait(180) == 0, demo.log
        assert 'make demo DEMO="--serve"' in demo.log
        assert SERVING not in demo.log
        # Nothing serves the admin afterwards.
        assert "/admin/" not in demo.log
        assert re.search(r"manage\.py traces [0-9a-f]{32}\n", demo.log)


def test_all_services_are_asked_to_stop_before_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that does not end must not keep the others running."""
    monkeypatch.setenv("DATABASE_URL", os.environ["TEST_POSTGRES_URL"])
    monkeypatch.setenv("REDIS_URL", os.environ["TEST_REDIS_URL"])
    from example_project import demo as module

    monkeypatch.setattr(module, "STOP_TIMEOUT", 60)
    with contextlib.ExitStack() as stack:
        demo = module.Demo(
            stack,
            server="uvicorn",
            port=free_port(),
            environment={"DJANGO_SETTINGS_MODULE": "example_project.settings", "DEMO_EXPORTER": "none"},
            write=lambda line: None,
        )
        demo.start()
        first, *others = demo._processes.values()
        first.send_signal(signal.SIGSTOP)

        def others_ended() -> bool:
            return all(process.poll() is not None for process in others)

        stopping = threading.Thread(target=stack.close)
        stopping.start()
        assert wait_until(others_ended, "the other services to end", 40)
        assert first.poll() is None
        first.send_signal(signal.SIGCONT)
        stopping.join()
        assert first.poll() is not None
