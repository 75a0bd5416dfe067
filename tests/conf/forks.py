"""Run code in forks of a process that has imported Django, but no part of OpenTelemetry.

A fork reads its environment like a new process, but doesn't need to import Django again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tests.e2e.processes import ROOT, environment

__all__ = ["APP", "Done", "Forks", "plant_package"]

#: Code that sets up a project with the TRACING of the variable of that name.
APP = """
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="tests-only",
    INSTALLED_APPS=["django.contrib.contenttypes", "django_tracing"],
    ROOT_URLCONF="tests.urls",
    ALLOWED_HOSTS=["testserver"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    TRACING=TRACING,
    USE_TZ=True,
)
django.setup()
"""

_SERVER = """
import atexit, json, os, signal, sys, tempfile, traceback
import django.contrib.contenttypes.apps, django.core.management.base, django.core.management.commands.check
import django.test, django.db.backends.sqlite3.base
assert not any(name.startswith("opentelemetry") for name in sys.modules)
for line in sys.stdin:
    asked = json.loads(line)
    output = [tempfile.TemporaryFile("w+", errors="backslashreplace") for _ in range(2)]
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(60)
            os.dup2(output[0].fileno(), 1)
            os.dup2(output[1].fileno(), 2)
            os.environ.update(asked["variables"])
            sys.path[:0] = asked["path"]
            exec(compile(asked["code"], "<fork>", "exec"), {"__name__": "fork"})
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    status = os.waitpid(pid, 0)[1]
    texts = []
    for file in output:
        file.seek(0)
        texts.append(file.read())
    print(json.dumps([os.waitstatus_to_exitcode(status), *texts]), flush=True)
"""


class Done(NamedTuple):
    """The exit code and output of a fork."""

    code: int
    out: str
    err: str


class Forks:
    """``with Forks() as forks: forks.run(code, {"OTEL_...": "..."})``."""

    def __enter__(self) -> Forks:
        known = {name: value for name, value in environment(DJANGO_SETTINGS_MODULE="").items() if name != "TRACING"}
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], env=known, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def run(self, code: str, variables: dict[str, str] | None = None, path: tuple[str | Path, ...] = ()) -> Done:
        """Run ``code`` with ``variables`` added to the environment and ``path`` to ``sys.path``."""
        server = self._server
        assert server.stdin is not None and server.stdout is not None
        asked = {"code": code, "variables": variables or {}, "path": [str(entry) for entry in path]}
        server.stdin.write(json.dumps(asked).encode() + b"\n")
        server.stdin.flush()
        return Done(*json.loads(server.stdout.readline()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()


def plant_package(folder: Path, code: str, **entry_points: str) -> Path:
    """Install a package called ``planted`` in ``folder``: ``group="name = planted:Class"``."""
    (folder / "planted.py").write_text(code)
    info = folder / "planted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "".join(f"[{group}]\n{points}\n" for group, points in entry_points.items())
    )
    return folder
