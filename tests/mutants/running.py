"""Run tests on a copy of the tree in which one file differs."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from tests.mutants.chosen import Chosen
from tests.mutants.modules import ROOT, SELECTION

#: What most tests import, and what knows nothing of the app. A mutant begins with all of it imported.
LIBRARIES = [
    "asyncio",
    "concurrent.futures",
    "coverage",
    "hypothesis",
    "hypothesis.strategies",
    "multiprocessing",
    "psycopg",
    "pytest",
    "redis",
    "sqlite3",
    "django",
    "django.core.management",
    "django.db.backends.postgresql.base",
    "django.db.models",
    "django.http",
    "django.template",
    "django.test",
    "django.test.utils",
    "django.urls",
    "django.utils.autoreload",
    "django.views",
    "opentelemetry.sdk.resources",
    "opentelemetry.sdk.trace",
    "opentelemetry.sdk.trace.export",
    "opentelemetry.sdk.trace.export.in_memory_span_exporter",
    "opentelemetry.trace",
    "opentelemetry.propagate",
    "_pytest.assertion.rewrite",
    "_pytest.cacheprovider",
    "_pytest.fixtures",
    "_pytest.python",
    "pytest_asyncio.plugin",
    "pytest_django.plugin",
]


class Copy:
    """A copy of the tree, with a PostgreSQL and a Redis of its own."""

    def __init__(self) -> None:
        from example_project import servers

        self.folder = Path(tempfile.mkdtemp(prefix="mutants-")).resolve()
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0"):
            if name and (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        self._servers = {"TEST_POSTGRES_URL": servers.postgres(), "TEST_REDIS_URL": servers.redis()}
        for server in self._servers.values():
            with suppress(servers.CannotStart):
                server.start()
        for name in [name for name in sys.modules if name.split(".")[0] in ("example_project", "django_tracing")]:
            del sys.modules[name]
        for name in LIBRARIES:
            importlib.import_module(name)

    def close(self) -> None:
        for server in self._servers.values():
            server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, file: str, code: str, tests: list[str], known: set[str], timeout: float) -> str:
        """Run ``tests`` while ``file`` has ``code``. Return what failed; an empty string if nothing did."""
        path = self.folder / file
        original, times = path.read_bytes(), path.stat()
        path.write_text(code)
        try:
            return self._run(tests, known, timeout)
        finally:
            path.write_bytes(original)
            # So that Python takes its compiled code again.
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _run(self, tests: list[str], known: set[str], timeout: float) -> str:
        report = self.folder / "report"
        report.write_text("")
        child = os.fork()
        if child == 0:
            status = 70
            try:
                status = self._child(tests, known, report)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = _wait(child, timeout)
        # What the tests have started and not ended.
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if status is None:
            os.waitpid(child, 0)
            return "the time-out"
        failed = report.read_text()
        # 0: all have passed, 5: no test was left. Others: failures, or the app could not be imported.
        return failed if failed or status in (0, 5 << 8) else f"pytest, which ended with status {status >> 8}"

    def _child(self, tests: list[str], known: set[str], report: Path) -> int:
        os.setsid()
        output = os.open(self.folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(self.folder)
        sys.path[:] = [str(self.folder), *(path for path in sys.path if path not in ("", str(ROOT)))]
        for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
            del sys.modules[name]
        os.environ.update({name: server.url for name, server in self._servers.items()})
        os.environ.update(PYTHONPATH=str(self.folder), PYTHONDONTWRITEBYTECODE="1")
        sys.dont_write_bytecode = True
        files = list(dict.fromkeys(test.split("::")[0] for test in tests))
        # Its own random numbers would make a second run differ.
        # The libraries are imported before pytest can rewrite the assertions that some of them have.
        options = ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
        options += [
            "-x",
            "-q",
            "--reuse-db",
            "--hypothesis-seed=0",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            *SELECTION,
        ]
        import pytest

        return int(pytest.main([*options, *files], plugins=[Chosen(tests, known, report)]))


def _wait(child: int, timeout: float) -> int | None:
    deadline = time.monotonic() + timeout
    pause = 0.005
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return None
