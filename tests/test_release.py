"""Tests of what a release needs, and of the absolute links that it has."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.release import ROOT, absolute, copy_commit, main, version

SOURCE = "https://forge.example/owner/name"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with what a release reads, as it is here today: no address is set."""
    root = tmp_path / "project"
    (root / "django_tracing").mkdir(parents=True)
    for name in ("setup.cfg", "README.md", "CHANGELOG.md", "django_tracing/version.py"):
        shutil.copy(ROOT / name, root / name)
    return root


def set_addresses(root: Path, *lines: str) -> None:
    text = (root / "setup.cfg").read_text()
    assert text.count("\nproject_urls =") == 1
    replaced = re.sub(
        r"\nproject_urls =(\n    .+)*", "\nproject_urls =" + "".join(f"\n    {line}" for line in lines), text
    )
    (root / "setup.cfg").write_text(replaced)


def set_date(root: Path) -> None:
    text = (root / "CHANGELOG.md").read_text()
    (root / "CHANGELOG.md").write_text(f"{text}\n## {version(root)} (2026-12-01)\n")


def test_the_check_names_an_address_that_is_not_set(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_addresses(project)
    set_date(project)
    assert main(["check"], project) == 1
    assert capsys.readouterr().err.splitlines() == [
        'missing: The address of the repository is not set. Add a line such as "Source = https://HOST/OWNER/NAME" to '
        "project_urls in setup.cfg: the links and pictures of README.md need it on a package index."
    ]


@pytest.mark.parametrize("url", ["http://forge.example/x", "https://forge.example/x/", "forge.example/x", "https://"])
def test_the_check_names_a_wrong_address(url: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_addresses(project, f"Source = {url}")
    set_date(project)
    assert main(["check"], project) == 1
    assert f"The address Source in project_urls of setup.cfg is {url!r}." in capsys.readouterr().err


def test_the_check_names_a_missing_section_of_the_changelog(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_addresses(project, f"Source = {SOURCE}")
    (project / "CHANGELOG.md").write_text(f"# Changes\n\n## {version(project)} (unreleased)\n")
    assert main(["check"], project) == 1
    assert f"CHANGELOG.md has no section for version {version(project)} with a date." in capsys.readouterr().err


def test_the_check_compares_the_tag(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_addresses(project, f"Source = {SOURCE}")
    set_date(project)
    assert main(["check", "--tag", f"v{version(project)}"], project) == 0
    assert main(["check", "--tag", "v99"], project) == 1
    assert "The tag is v99, but the version" in capsys.readouterr().err


def test_the_check_passes_and_lists_the_addresses(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_addresses(project, f"Source = {SOURCE}", "Documentation = https://docs.example")
    set_date(project)
    assert main(["check"], project) == 0
    assert capsys.readouterr().out == f"Source: {SOURCE}\nDocumentation: https://docs.example\n"


def test_nothing_is_built_while_something_is_missing(project: Path) -> None:
    set_addresses(project)
    assert main(["build"], project) == 1
    assert not (project / "dist").exists()


def test_links_and_pictures_become_absolute() -> None:
    text = "[a](docs/a.md#b) ![p](docs/p.png) [c](https://c.example/) [d](#d) [m](mailto:m@example.com)\n"
    fence = "```\n[a](docs/a.md)\n```\n"
    assert absolute(text + fence + "[e](docs/e.md)", SOURCE, "v1") == (
        f"[a]({SOURCE}/blob/v1/docs/a.md#b) ![p]({SOURCE}/raw/v1/docs/p.png) [c](https://c.example/) [d](#d) "
        f"[m](mailto:m@example.com)\n{fence}[e]({SOURCE}/blob/v1/docs/e.md)"
    )


def test_the_copy_of_a_release_has_absolute_links_and_the_working_tree_none(project: Path) -> None:
    set_addresses(project, f"Source = {SOURCE}")
    before = (project / "README.md").read_text()
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *command], cwd=project, check=True)
    copy = project.parent / "copy"
    copy_commit(project, copy)
    assert (project / "README.md").read_text() == before
    targets = re.findall(r"\]\(([^)\s]+)\)", (copy / "README.md").read_text())
    assert len([target for target in targets if target.startswith(f"{SOURCE}/raw/v{version(copy)}/docs/")]) >= 5
    assert all(target.startswith("https://") for target in targets)
    assert f"{SOURCE}/blob/v{version(copy)}/CHANGELOG.md" in targets
