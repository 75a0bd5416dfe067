"""Test that installation instructions name only this project and packages that it depends on."""

from __future__ import annotations

import re
import shlex
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
NAME = "django-tracing-otel"
#: All text for users: the package's messages and the documentation.
READ_BY_USERS = [
    *(path for kind in ("*.py", "*.html") for path in (ROOT / "django_tracing").rglob(kind)),
    ROOT / "README.md",
    ROOT / "setup.cfg",
    ROOT / "docker-compose.yml",
    ROOT / "tests" / "wheel.sh",
    *(ROOT / "docs").rglob("*.md"),
]
PIP = re.compile(
    r"pip install ((?:-\w+ |--[\w-]+ )*(?:\"[^\"\n]+\"|[\w.\[\],~=<>-]+)(?: [\w.\[\],-]+\b(?! (?:the|and|or)\b))*)"
)
#: OpenTelemetry's instrumentations that the documentation takes as examples, and its launcher.
EXAMPLES = {"opentelemetry-instrumentation-kafka-python", "opentelemetry-exporter-otlp-proto-http"}


def _setup() -> ConfigParser:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup


def _required() -> set[str]:
    """Return the distributions that setup.cfg names, as the package index spells them."""
    lines = _setup()["options"]["install_requires"].splitlines()
    for extra in _setup()["options.extras_require"].values():
        lines += extra.splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if line.strip()}


def _instructions() -> list[tuple[str, str]]:
    """Return each requirement after a "pip install" in text for users, and its place."""
    found = []
    for path in READ_BY_USERS:
        for match in PIP.finditer(path.read_text()):
            words = [word for word in shlex.split(match[1]) if not word.startswith(("-", ".")) and "{" not in word]
            found += [(word.rstrip(".,:;)"), str(path.relative_to(ROOT))) for word in words]
    return found


def test_the_distribution_has_a_unique_name() -> None:
    assert _setup()["metadata"]["name"] == NAME


def test_every_hint_installs_this_project_or_what_it_depends_on() -> None:
    found = _instructions()
    assert len([word for word, _ in found if word.startswith(NAME)]) >= 8
    extras = set(_setup()["options.extras_require"])
    known = _required() | EXAMPLES | {NAME}
    for word, where in found:
        requirement = Requirement(word)
        assert canonicalize_name(requirement.name) in known, f"{where} has: pip install {word}"
        if canonicalize_name(requirement.name) == NAME:
            assert requirement.extras <= extras, f"{where} has: pip install {word}"


@pytest.mark.parametrize("path", READ_BY_USERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_name_of_another_project_is_not_used(path: Path) -> None:
    # "django-tracing" on the index is another project, which traces changes of models.
    assert not re.findall(r"django-tracing(?!-otel)", path.read_text())
