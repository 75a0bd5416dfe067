"""The modules whose code is changed: those that keep the promises of docs/reliability.md and docs/redaction.md."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
APP = ROOT / "django_tracing"
#: What was measured. Not in the virtual environment: a new one does not make it wrong.
FOLDER = ROOT / ".mutants"
#: Without the tests on real servers and of growth, which take long; others kill the same mutants.
SELECTION = ("--ignore=tests/e2e", "-k", "not growth and not grows")

#: Part -> modules and packages, relative to the app.
PARTS = {
    "redaction": ["redaction"],
    "recording": ["recording"],
    "sampling": ["sampling"],
    "queue": [
        f"export.{name}" for name in ("queue", "sender", "outbox", "attempts", "answers", "batches", "counters")
    ],
    "wire": ["export.wire", "export.otlp"],
    "store": ["traces.readers.sqlite"],
    "spool": ["export.spool", "export.spooling"],
}


def files(name: str) -> list[str]:
    """Return the files of a part, a package or a module (``export.spool``), relative to the root."""
    return [file for module in PARTS.get(name, [name]) for file in _files_of_module(module)]


def _files_of_module(name: str) -> list[str]:
    path = APP / name.replace(".", "/")
    if path.is_dir():
        return sorted(str(file.relative_to(ROOT)) for file in path.rglob("*.py"))
    if not path.with_suffix(".py").is_file():
        raise SystemExit(f"{name} is no part ({', '.join(PARTS)}) and no module of the app, such as export.spool.")
    return [str(path.with_suffix(".py").relative_to(ROOT))]


def part(file: str) -> str:
    """Return the part of a file; the name of its module, if it is in none."""
    for name in PARTS:
        if file in files(name):
            return name
    return file.removeprefix("django_tracing/").removesuffix(".py").replace("/", ".")
