"""Test ``manage.py traces``, for people and for scripts."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_tracing.traces.readers.sqlite.store import LocalStore
from example_project.servers import free_port
from tests.traces.builders import blueprint_trace, row
from tests.traces.readers.jaeger.helpers import Server, endless, v3

BLUEPRINT = "0" * 31 + "1"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def traces(*arguments: Any, out: io.StringIO | None = None, **options: Any) -> str:
    out = out or io.StringIO()
    call_command("traces", *arguments, stdout=out, **options)
    return out.getvalue()


@pytest.fixture(autouse=True)
def path(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("NO_COLOR", raising=False)
    path = tmp_path / ".tracing" / "traces.sqlite3"
    settings.TRACING = {"EXPORTER": "local", "LOCAL_STORE": str(path)}
    return path


@pytest.fixture
def stored(path: Path) -> Iterator[LocalStore]:
    store = LocalStore(path)
    store.write(blueprint_trace())
    store.write([row(0xBEEF, name="GET /slow", start=1000, took=1500, service="shop")])
    yield store
    store.close()


def test_a_list_of_the_newest(stored: LocalStore) -> None:
    header, newest, oldest = traces().splitlines()
    assert header.split() == ["trace", "started", "took", "spans", "errors", "service", "request"]
    assert newest.startswith("0" * 28 + "beef")
    assert newest.endswith("1500 ms      1       -  shop         GET /slow")
    assert oldest.endswith("8       2  api-gateway  GET /api/blueprints/<int:pk>")


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["--limit", "1"], 1),
        (["--errors"], 1),
        (["--service", "blueprint-service"], 1),
        (["--min-duration", "1.5"], 2),
        (["--min-duration", "1.51"], 1),
    ],
)
def test_a_filtered_list(stored: LocalStore, arguments: list[str], count: int) -> None:
    assert len(traces(*arguments).splitlines()) == 1 + count


def test_an_empty_filtered_list(stored: LocalStore, path: Path) -> None:
    assert traces("--service", "nobody") == f"No trace in {path} matches.\n"


def test_a_trace_as_a_tree(stored: LocalStore) -> None:
    text = traces(BLUEPRINT)
    assert text.startswith(f"Trace {BLUEPRINT}\n")
    assert "├─ middleware.auth" in text
    assert "✗ circuit_breaker.blueprint-service" in text
    assert traces(BLUEPRINT[:31].upper()).startswith("Trace")  # the only one with this prefix


def test_json_of_the_list(stored: LocalStore) -> None:
    newest, oldest = json.loads(traces("--json"))
    assert newest["trace_id"] == "0" * 28 + "beef"
    assert newest["duration_ms"] == 1500.0
    assert (oldest["error_count"], oldest["services"]) == (2, ["api-gateway", "blueprint-service"])
    assert json.loads(traces("--json", "--service", "nobody")) == []


def test_json_of_a_trace(stored: LocalStore) -> None:
    trace = json.loads(traces(BLUEPRINT, "--json"))
    assert trace["trace_id"] == BLUEPRINT
    assert [span["name"] for span in trace["spans"]][:2] == ["GET /api/blueprints/<int:pk>", "middleware.auth"]
    assert trace["spans"][0]["attributes"] == {"http.status_code": 200, "http.method": "GET"}


def test_json_is_ascii(stored: LocalStore) -> None:
    stored.write([row(2, name="\x1b[31m\u202eü")])
    assert traces("--json").isascii()
    assert "\x1b" not in traces("--json")


def test_color_is_for_terminals(stored: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\033[" not in traces()
    assert "\033[" in traces(out=Terminal())
    assert "\033[" in traces(BLUEPRINT, out=Terminal())
    assert "\033[" not in traces("--no-color", out=Terminal())
    assert "\033[" in traces("--force-color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033[" not in traces(out=Terminal())


def test_lines_fit_the_terminal(stored: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert max(len(re.sub(r"\033\[\d+m", "", line)) for line in traces(BLUEPRINT, out=Terminal()).splitlines()) <= 60
    # Output to a pipe is not cut.
    assert "circuit_breaker.outcome=failure" in traces(BLUEPRINT)


def test_a_terminal_without_box_characters(stored: LocalStore) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    call_command("traces", BLUEPRINT, stdout=out)
    out.seek(0)
    assert "?? middleware.auth" in out.read()


def test_an_empty_store(path: Path) -> None:
    text = traces()
    assert f"No traces in {path} yet." in text
    assert "Send a request" in text
    assert "python manage.py check_tracing" in text
    assert not path.exists()
    assert json.loads(traces("--json")) == []


def test_an_unknown_trace(stored: LocalStore) -> None:
    with pytest.raises(CommandError, match=r"There is no trace f{32} .* python manage.py traces"):
        traces("f" * 32)


def test_an_invalid_id(stored: LocalStore) -> None:
    with pytest.raises(CommandError, match="'hello' is not a trace id"):
        traces("hello")


def test_an_ambiguous_prefix(stored: LocalStore) -> None:
    with pytest.raises(CommandError, match="Several traces start with 000000"):
        traces("000000")


def test_jaeger_is_down(settings: Any) -> None:
    port = free_port()
    settings.TRACING = {"ENDPOINT": "http://127.0.0.1:4318", "QUERY_URL": f"http://127.0.0.1:{port}"}
    with pytest.raises(CommandError, match=f"Nothing listens on 127.0.0.1:{port}"):
        traces()


def test_jaeger_with_a_link_to_the_page(settings: Any) -> None:
    with Server(v3) as server:
        settings.TRACING = {"ENDPOINT": "http://127.0.0.1:4318", "QUERY_URL": f"{server.url}/jaeger"}
        assert len(traces().splitlines()) == 2
        trace_id = "ab" * 16
        assert traces(trace_id[:6]).endswith(f"\n\n{server.url}/jaeger/trace/{trace_id}\n")
        assert json.loads(traces(trace_id, "--json"))["trace_id"] == trace_id


def test_a_jaeger_without_traces(settings: Any) -> None:
    def empty(path: str) -> tuple[int, Any]:
        return (400, {"error": {}}) if path.endswith("trace-summaries") else (200, {"services": []})

    with Server(empty) as server:
        settings.TRACING = {"ENDPOINT": "http://127.0.0.1:4318", "QUERY_URL": server.url}
        assert f"No traces of the last 24 hours in {server.url} yet." in traces()


def test_an_exporter_whose_traces_cannot_be_read(settings: Any) -> None:
    settings.TRACING = {"EXPORTER": "console"}
    with pytest.raises(CommandError, match="can't be read:"):
        traces()


def test_another_programs_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\0" + bytes(9000))
    with pytest.raises(CommandError, match="another program's database"):
        traces()


@pytest.mark.parametrize("arguments", [["--limit", "0"], ["--limit", "many"], ["--min-duration", "-1"]])
def test_wrong_arguments_are_explained(arguments: list[str]) -> None:
    with pytest.raises(CommandError, match="must be a"):
        traces(*arguments)


# ----- Searching, as in the admin


@pytest.fixture
def shop(path: Path) -> Iterator[LocalStore]:
    store = LocalStore(path)
    now = time.time_ns()
    store.write(
        [
            row(1, base=now - 7200 * 10**9, name="GET /old"),
            row(2, base=now - 60 * 10**9, name="GET /a", took=300,
                attributes={"user.id": "7", "http.status_code": 404, "correlation.id": "c-1"}),
            row(3, base=now - 30 * 10**9, name="POST /b", took=20, attributes={"http.method": "POST", "note": "a b"}),
        ]
    )  # fmt: skip
    yield store
    store.close()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--since", "1h"], [3, 2]),
        (["--until", "1h"], [1]),
        (["--since", "2000-01-01T00:00:00Z"], [3, 2, 1]),
        (["--min-duration", "250ms"], [2]),
        (["--max-duration", "50ms"], [3, 1]),
        (["--operation", "POST /b"], [3]),
        (["--user", "7"], [2]),
        (["--status-code", "404"], [2]),
        (["--correlation-id", "c-1"], [2]),
        (["--attribute", "http.method=POST", "--attribute", "note=a b"], [3]),
        (["--attribute", "http.method=POST", "--user", "7"], []),
    ],
)
def test_searching(shop: LocalStore, arguments: list[str], expected: list[int]) -> None:
    assert [int(found["trace_id"], 16) for found in json.loads(traces("--json", *arguments))] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--since", "yesterday"], "must be a time span (15m, 2h, 1d) or a date and time (2026-01-31T13:45)"),
        (["--min-duration", "long"], "must be a duration, for example 250ms or 1.5s"),
        (["--attribute", "urgent"], "must be KEY=VALUE, for example http.method=POST"),
        (["--status-code", "ok"], "invalid int value"),
    ],
)
def test_an_invalid_search(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=re.escape(message)):
        traces(*arguments)


def test_following(shop: LocalStore, path: Path) -> None:
    """Each trace is printed once, when it is complete, until Ctrl-C."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "example_project.settings", "DEMO_LOCAL_STORE": str(path)}
    command = [sys.executable, "manage.py", "traces", "--follow", "--json", "--since", "1h"]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                # A background job of a shell, as these tests may be, ignores Ctrl-C, and its processes inherit this.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
            )
        )
        stack.callback(process.kill)
        assert process.stdout is not None

        def next_one() -> int:
            return int(json.loads(process.stdout.readline())["trace_id"], 16)  # type: ignore[union-attr]

        # The existing traces, with the newest last.
        assert [next_one(), next_one()] == [2, 3]
        shop.write([row(4, 2, 1, base=time.time_ns(), name="db.select.x")])
        shop.write(
            [row(4, 1, 0, base=time.time_ns(), name="GET /new"), row(5, base=time.time_ns(), name="GET /more")]
        )
        assert {next_one(), next_one()} == {4, 5}
        shop.write([row(6, base=time.time_ns())])
        assert next_one() == 6
        # A request that is running is printed when it has ended.
        began = time.time_ns()
        shop.write([row(7, 2, 1, base=began, name="db.select.x", kind="client"), row(8, base=began)])
        assert next_one() == 8
        shop.write([row(9, base=time.time_ns())])
        assert next_one() == 9
        shop.write([row(7, 1, 0, base=began, name="GET /slow")])
        assert next_one() == 7
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (out, err, process.returncode) == ("", "", 0)


def test_a_search_that_takes_too_long(settings: Any) -> None:
    """It prints what it has, and from where to go on."""
    with Server(endless) as server:
        settings.TRACING = {"QUERY_URL": server.url, "EXPORTER": "otlp", "ENDPOINT": "http://127.0.0.1:1"}
        errors = io.StringIO()
        printed = traces("--errors", "--json", stderr=errors)
        assert json.loads(printed) == []
        goes_on = re.search(r"--until (\S+)", errors.getvalue())
        assert goes_on is not None
        assert "found all matching traces that started after" in errors.getvalue()
        traces("--errors", "--until", goes_on[1], stderr=(later := io.StringIO()))
        further = re.search(r"--until (\S+)", later.getvalue())
        assert further is not None
        assert further[1] < goes_on[1]


def test_a_request_that_is_running(path: Path) -> None:
    store = LocalStore(path)
    store.write(
        [row(1, 2, 9, "db.select", kind="client", base=time.time_ns(), attributes={"request.name": "GET /slow"})]
    )
    store.write([row(2, 2, 9, "db.select", kind="client")])
    store.close()
    _, running, incomplete = traces().splitlines()
    assert re.search(r"  running +1  +-  shop +GET /slow$", running)
    assert re.search(r"  incomplete +1  +-  shop +db.select$", incomplete)
    assert "· running, so far 1.00 ms ·" in traces(f"{1:032x}")
    assert [each["state"] for each in json.loads(traces("--json"))] == ["running", "incomplete"]


# ----- Links to the page in the admin


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("https://localhost/items/7?a=1", "https://localhost/admin/django_tracing/trace/{id}/"),
        ("https://evil.example/items/7", "On your site: /admin/django_tracing/trace/{id}/"),
        ("\x1b[31m", "On your site: /admin/django_tracing/trace/{id}/"),
    ],
)
def test_a_trace_ends_with_a_link_to_its_page(settings: Any, path: Path, url: str, line: str) -> None:
    settings.ROOT_URLCONF = "tests.pages.urls"
    settings.TRACING = {**settings.TRACING, "SERVICE_NAME": "shop"}
    store = LocalStore(path)
    store.write(
        [
            # Another service's host is not this site's.
            row(
                7,
                1,
                0,
                "GET /gateway",
                kind="server",
                service="gateway",
                attributes={"http.url": "http://127.0.0.1/"},
            ),
            row(7, 2, 1, "GET /items/<pk>", kind="server", service="shop", attributes={"http.url": url}),
        ]
    )
    store.close()
    assert traces(f"{7:032x}").splitlines()[-1] == line.format(id=f"{7:032x}")


def test_without_the_admin_there_is_no_link(settings: Any, stored: LocalStore) -> None:
    settings.ROOT_URLCONF = "tests.urls"
    assert "/admin/" not in traces(BLUEPRINT)
