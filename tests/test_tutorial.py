"""Follow the tutorial step by step in a new project."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from example_project.servers import free_port
from tests.jaegers import wait_until

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as response:
        return str(response.read().decode())


class Reader:
    """A reader who follows the tutorial in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OTEL_", "DJANGO_", "JAEGER_")) and name not in ("SERVICE_NAME", "DATABASE_URL")
        }
        self.environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]), "NO_COLOR": "1"}

    def run(self, *command: str, stdin: str = "") -> str:
        result = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    @contextmanager
    def server(self) -> Iterator[str]:
        port = free_port()
        command = [sys.executable, "manage.py", "runserver", "--noreload", str(port)]
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

        try:
            assert wait_until(lambda: is_listening(port), "the server", 60)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()

    def traces(self) -> list[dict[str, Any]]:
        found = json.loads(self.run("manage.py", "traces", "--operation", "GET /books/", "--json"))
        return list(found)

    def queries(self, trace: dict[str, Any]) -> int:
        return self.run("manage.py", "traces", trace["trace_id"], "--json").count('"name": "db.select.')


def python_of(name: str) -> list[str]:
    """Return the blocks of Python that follow a line with the file's name."""
    return re.findall(rf"`{re.escape(name)}`:\n\n```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_tutorial_shows_what_it_describes(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    consoles = [text.splitlines() for kind, text in BLOCK.findall(PAGE) if kind == "console"]
    commands = [line.removeprefix("$ ") for lines in consoles for line in lines if line.startswith("$ ")]
    assert "pip install django-tracing-otel" in commands

    assert "django-admin startproject bookshop ." in commands
    reader.run("-m", "django", "startproject", "bookshop", ".")
    for command in ("startapp books", "makemigrations books", "migrate"):
        if command == "makemigrations books":
            [models], [urls] = python_of("books/models.py"), python_of("bookshop/urls.py")
            slow, fast = python_of("books/views.py")
            (tmp_path / "books/models.py").write_text(models)
            (tmp_path / "books/views.py").write_text(slow)
            (tmp_path / "bookshop/urls.py").write_text(urls)
            [settings] = re.findall(r"`bookshop/settings\.py`:\n\n```python\n(.*?)```", PAGE, re.DOTALL)
            with (tmp_path / "bookshop/settings.py").open("a") as file:
                file.write(settings)
        assert f"python manage.py {command}" in commands
        reader.run("manage.py", *command.split())
    [data] = [text for kind, text in BLOCK.findall(PAGE) if kind == "python" and "Author.objects.create" in text]
    reader.run("manage.py", "shell", stdin=data)

    with reader.server() as address:
        body = get(f"{address}/books/")
        assert body.splitlines()[0] == "Book 1 by Author 1"
        assert len(body.splitlines()) == 20
        assert wait_until(lambda: len(reader.traces()) == 1, "the first trace", 60)
    [trace] = reader.traces()
    assert reader.queries(trace) == 21
    assert re.search(r"^trace +started +took  spans  errors  service   request$", PAGE, re.MULTILINE)
    assert "GET /books/" in reader.run("manage.py", "traces")

    drawn = reader.run("manage.py", "traces", trace["trace_id"][:8])
    shown = re.search(r"20 × db\.select\.books_author  N\+1  .*$", PAGE, re.MULTILINE)
    assert shown is not None
    line = next(line for line in drawn.splitlines() if "N+1" in line)
    assert line.endswith(shown[0])
    place = re.search(r"line (\d+) of `(.*?)`, in the function `(.*?)`", PAGE)
    assert place is not None
    assert line.endswith(f"{place[2]}:{place[1]} in {place[3]}")
    assert "http://localhost:8000/admin/django_tracing/trace/" in PAGE
    assert drawn.splitlines()[-1] == f"{address}/admin/django_tracing/trace/{trace['trace_id']}/"

    (tmp_path / "books/views.py").write_text(fast)
    with reader.server() as address:
        assert get(f"{address}/books/") == body
        assert wait_until(lambda: len(reader.traces()) == 2, "the second trace", 60)
    assert [reader.queries(found) for found in reader.traces()] == [1, 21]
    assert (tmp_path / ".tracing" / "traces.sqlite3").exists()
