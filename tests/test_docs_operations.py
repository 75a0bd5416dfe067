"""Follow the pages about production, other backends and removing the app."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from django.test import override_settings

from django_tracing import checks
from django_tracing.conf.loading import load
from example_project.servers import free_port
from tests.jaegers import wait_until
from tests.receivers import OTLPReceiver

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def blocks(page: str, kind: str) -> list[str]:
    # A block of a list is indented.
    return re.findall(rf"^ *```{kind}\n(.*?)^ *```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def tracing_of(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102 - the page is ours
    tracing: dict[str, Any] = names["TRACING"]
    return tracing


def commands(page: str) -> list[str]:
    lines = "".join(blocks(page, "console")).splitlines()
    return [line.strip().removeprefix("$ ") for line in lines]


SETTINGS_BLOCKS = [*blocks("backends.md", "python"), *blocks("production.md", "python")]
VARIABLES = ("GRAFANA_CLOUD_CREDENTIALS", "SIGNOZ_INGESTION_KEY", "HONEYCOMB_API_KEY", "RELEASE")


@pytest.mark.parametrize("source", SETTINGS_BLOCKS)
def test_each_block_of_settings_has_no_problem_where_its_variables_are_unset(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    # A build machine has no key and no release. It runs collectstatic, migrate and the tests all the same.
    assert load(tracing_of(source), {}).problems == ()


@pytest.mark.parametrize("source", SETTINGS_BLOCKS)
def test_each_block_of_settings_has_no_problem(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        if name in source:
            monkeypatch.setenv(name, "a-key-from-the-environment")
    tracing = tracing_of(source)
    loaded = load(tracing, {})
    assert loaded.problems == ()
    assert loaded.exporter == "otlp"
    assert loaded.endpoint is not None
    assert urlsplit(loaded.endpoint).path.endswith("/v1/traces")
    assert not urlsplit(loaded.endpoint).path.endswith("/v1/traces/v1/traces")
    if loaded.headers:
        assert all(loaded.headers.values())
    with override_settings(TRACING=tracing):
        found = [message.id for message in checks.check_settings()]
        assert found == []
        if "TRUST_PARENT" in tracing:
            assert checks.check_deployment() == []
        # A key is sent over TLS.
        assert checks.CREDENTIALS_IN_THE_CLEAR not in [
            message.id for message in checks.check_deployment() if "X-Scope-OrgID" not in tracing.get("HEADERS", {})
        ]


def test_the_variables_mean_the_same_as_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONEYCOMB_API_KEY", "KEY")
    [block] = [source for source in blocks("backends.md", "python") if "HONEYCOMB_API_KEY" in source]
    exported = [shlex.split(command)[1] for command in commands("backends.md") if command.startswith("export ")]
    variables = dict(variable.split("=", 1) for variable in exported)
    by_variables, by_settings = load({}, variables), load(tracing_of(block), {})
    assert by_variables.problems == ()
    assert by_variables.endpoint == by_settings.endpoint
    assert dict(by_variables.headers) == dict(by_settings.headers)


class Shop:
    """A new project ``shop`` in a folder, with this app."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = ("OTEL_", "DJANGO_", "JAEGER_", "SERVICE_", "TRACING_")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(names)}
        self.environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
        self.environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.run("python -m django startproject shop .")
        self.settings = folder / "shop" / "settings.py"
        self.before = self.settings.read_text()
        self.settings.write_text(
            self.before + 'INSTALLED_APPS = ["django_tracing", *INSTALLED_APPS]\nALLOWED_HOSTS = ["*"]\n'
        )

    def run(self, command: str, **variables: str) -> str:
        words = shlex.split(command)
        if words[0] == "python":
            words[0] = sys.executable
        done = subprocess.run(
            words,
            cwd=self.folder,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=20):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_the_servers_run_with_the_commands_of_the_page_and_lose_no_span(server: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    [command] = [line for line in commands("production.md") if line.startswith(f"{server} ")]
    port = free_port()
    assert "8000" in command
    words = shlex.split(command.replace("0.0.0.0", "127.0.0.1").replace("8000", str(port)))
    with OTLPReceiver() as receiver:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / words[0]), *words[1:]],
            cwd=shop.folder,
            # The interval is longer than the test: what arrives is sent when the server ends.
            env={**shop.environment, "JAEGER_ENDPOINT": receiver.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "600000"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}/admin/login/?next=/admin/"
            assert wait_until(lambda: answers(address), f"{server} to answer", 100)
            sent = 1 + sum(answers(address) for _ in range(8))
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

        def requests(spans: list[Any]) -> int:
            return sum(span.kind == "server" for span in spans)

        receiver.wait_for(lambda spans: requests(spans) >= sent)
        assert requests(receiver.spans) == sent
        assert {span.service for span in receiver.spans} == {"shop"}


def test_the_manifest_configures_what_the_page_promises() -> None:
    [manifest] = blocks("production.md", "yaml")
    pod = yaml.safe_load(manifest)["spec"]["template"]["spec"]
    [container] = pod["containers"]
    variables = {item["name"]: item.get("value", "a-name") for item in container["env"]}
    expanded = re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], json.dumps(variables))
    loaded = load({}, json.loads(expanded))
    assert loaded.problems == ()
    assert loaded.service_name == "shop"
    assert loaded.endpoint == "http://jaeger-collector.observability:4318/v1/traces"
    assert loaded.resource_attributes["k8s.pod.name"] == "a-name"
    assert container["readinessProbe"]["httpGet"]["path"] in loaded.ignore_paths
    assert pod["terminationGracePeriodSeconds"] > 30 + loaded.shutdown_timeout
    assert container["args"][:2] == ["gunicorn", "shop.wsgi"]


def test_the_app_is_removed_by_the_steps_of_the_page(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.run("python manage.py migrate")
    shop.run("python manage.py check_tracing")

    def remains() -> list[str]:
        """Return what the database still has of this app."""
        database = sqlite3.connect(tmp_path / "db.sqlite3")
        found = [
            row[0]
            for query in (
                "SELECT name FROM sqlite_master WHERE name LIKE '%django_tracing%'",
                "SELECT 'migration ' || name FROM django_migrations WHERE app = 'django_tracing'",
                "SELECT 'content type ' || model FROM django_content_type WHERE app_label = 'django_tracing'",
                "SELECT 'permission ' || codename FROM auth_permission JOIN django_content_type c "
                "ON c.id = content_type_id WHERE c.app_label = 'django_tracing'",
            )
            for row in database.execute(query)
        ]
        database.close()
        return found

    assert remains()
    assert (tmp_path / ".tracing" / "traces.sqlite3").exists()
    zero, stale, files, uninstall = commands("removing.md")
    shop.run(zero)
    shop.settings.write_text(shop.before)
    shop.run(stale)
    shop.run(files)
    assert uninstall == "pip uninstall django-tracing-otel"
    assert remains() == []
    assert not (tmp_path / ".tracing").exists()
    shop.run("python manage.py check")
    assert "django_tracing" not in shop.run("python manage.py showmigrations")
    kept = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if "__pycache__" not in path.parts}
    assert kept == {"db.sqlite3", "manage.py", "shop"}
