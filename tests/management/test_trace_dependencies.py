"""Test ``manage.py trace_dependencies``, for people and for scripts."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_tracing.traces.readers.sqlite.store import LocalStore
from example_project.servers import free_port
from tests.traces.builders import row


def dependencies(*arguments: str) -> str:
    out = io.StringIO()
    call_command("trace_dependencies", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture(autouse=True)
def path(settings: Any, tmp_path: Path) -> Path:
    path = tmp_path / "traces.sqlite3"
    settings.TRACING = {"EXPORTER": "local", "LOCAL_STORE": str(path)}
    return path


@pytest.fixture
def stored(path: Path) -> Iterator[LocalStore]:
    store = LocalStore(path)
    breaker = {"operation.type": "circuit_breaker", "circuit_breaker.name": "mail", "circuit_breaker.state": "open"}
    now = time.time_ns()
    store.write(
        [
            row(1, 1, 0, base=now, kind="server", service="gateway"),
            row(1, 2, 1, base=now, kind="client", service="gateway", attributes={"http.method": "GET"}),
            row(1, 3, 2, base=now, kind="server", service="shop", status="error"),
            row(1, 4, 3, base=now, kind="client", service="shop", attributes={"db.system": "postgresql"}),
            row(1, 5, 1, base=now, service="gateway", attributes=breaker, status="error"),
            row(2, 1, 0, base=now - 7200 * 10**9, kind="server", service="old"),
            row(2, 2, 1, base=now - 7200 * 10**9, kind="server", service="gateway"),
        ]
    )
    yield store
    store.close()


def test_text(stored: LocalStore) -> None:
    assert dependencies().splitlines() == [
        "caller   calls        what             how often  failed",
        "gateway  mail (open)  circuit breaker          1   100 %",
        "gateway  shop         service                  1   100 %",
        "old      gateway      service                  1     0 %",
        "shop     postgresql   database                 1     0 %",
    ]
    assert "old" not in dependencies("--since", "1h")


def test_mermaid(stored: LocalStore) -> None:
    assert dependencies("--format", "mermaid", "--since", "1h").splitlines() == [
        "flowchart LR",
        '    n0["gateway"]',
        '    n1{{"mail (open)"}}',
        '    n2["shop"]',
        '    n3[("postgresql")]',
        '    n0 -->|"1 call, 100 % failed"| n1',
        '    n0 -->|"1 call, 100 % failed"| n2',
        '    n2 -->|"1 call"| n3',
    ]


def test_dot(stored: LocalStore) -> None:
    text = dependencies("--format", "dot", "--since", "1h")
    assert text.startswith("digraph dependencies {\n")
    assert '    n0 -> n2 [label="1 call, 100 % failed"];' in text
    assert '    n1 [label="mail (open)", shape=hexagon];' in text


def test_json(stored: LocalStore) -> None:
    found = json.loads(dependencies("--format", "json", "--since", "1h"))
    assert found["sampled_traces"] is None
    assert found["links"][0] == {
        **{"caller": "gateway", "callee": "mail", "kind": "breaker", "calls": 1, "errors": 1, "examined": 1},
        "state": "open",
    }


def test_nothing_yet(path: Path) -> None:
    assert f"The traces in {path} contain no calls between services yet." in dependencies()
    assert json.loads(dependencies("--format", "json")) == {"links": [], "sampled_traces": None}


def test_errors(settings: Any) -> None:
    port = free_port()
    settings.TRACING = {"EXPORTER": "none", "QUERY_URL": f"http://127.0.0.1:{port}"}
    with pytest.raises(CommandError, match=f"Nothing listens on 127.0.0.1:{port}"):
        dependencies()
    with pytest.raises(CommandError, match="must be a time span, for example 15m, 2h or 1d"):
        dependencies("--since", "2026")
