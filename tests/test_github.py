"""Tests of the workflows, the issue templates and the pre-commit hooks."""

from __future__ import annotations

import itertools
import re
import shlex
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]


def load(path: Path) -> dict[str, Any]:
    # "on" is true in YAML 1.1, so a workflow's triggers are found under True.
    return dict(yaml.safe_load(path.read_text()))


def config(name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / name)
    return parser


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def tox_matrix() -> set[tuple[str, str]]:
    """Return the pairs of Python and Django in tox.ini's env_list, such as ("3.10", "5.2")."""
    pairs = set()
    for line in config("tox.ini")["tox"]["env_list"].split("\n"):
        # py{310,311}-django{52,60} is each of its combinations.
        parts = [part.split(",") for part in re.split(r"[{}]", line.strip())]
        for name in map("".join, itertools.product(*parts)):
            if match := re.fullmatch(r"py3(\d+)-django(\d)(\d)", name):
                pairs.add((f"3.{match[1]}", f"{match[2]}.{match[3]}"))
    return pairs


def test_there_are_workflows_for_tests_documentation_and_releases() -> None:
    assert [path.name for path in WORKFLOWS] == ["docs.yml", "release.yml", "test.yml"]


def test_the_matrix_is_that_of_tox() -> None:
    matrix = load(ROOT / ".github" / "workflows" / "test.yml")["jobs"]["test"]["strategy"]["matrix"]
    excluded = {(entry["python"], entry["django"]) for entry in matrix["exclude"]}
    pairs = set(itertools.product(matrix["python"], matrix["django"]))
    assert excluded <= pairs
    assert pairs - excluded == tox_matrix()


def test_the_classifiers_are_those_of_the_matrix() -> None:
    classifiers = config("setup.cfg")["metadata"]["classifiers"]
    assert set(re.findall(r"Python :: (3\.\d+)$", classifiers, re.MULTILINE)) == {pair[0] for pair in tox_matrix()}
    assert set(re.findall(r"Django :: (\d\.\d)$", classifiers, re.MULTILINE)) == {pair[1] for pair in tox_matrix()}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_command_is_a_target_of_the_makefile(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert targets == set(phony[1].split())
    commands = [step["run"] for step in steps(path) if "run" in step]
    assert commands
    for command in commands:
        # An expression of GitHub's has spaces in it.
        make, target, *variables = shlex.split(re.sub(r"\$\{\{.*?\}\}", "x", command))
        assert make == "make"
        assert target in targets
        for variable in variables:
            name = variable.partition("=")[0]
            assert f"$({name})" in makefile, f"{command}: {name} is not a variable of the Makefile"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_action_is_pinned_to_a_commit_with_its_version(path: Path) -> None:
    lines = [line.split("uses:")[1].strip() for line in path.read_text().splitlines() if "uses:" in line]
    assert len(lines) == len([step for step in steps(path) if "uses" in step]) > 0
    for line in lines:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_an_action_has_the_same_version_everywhere() -> None:
    used = {step["uses"] for path in WORKFLOWS for step in steps(path) if "uses" in step}
    assert len({uses.partition("@")[0] for uses in used}) == len(used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_job_may_only_do_what_it_needs(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    assert "pull_request_target" not in workflow[True]
    for name, job in workflow["jobs"].items():
        allowed = {"id-token": "write"} if name == "publish" else {"contents": "read"}
        assert job.get("permissions", {}).items() <= allowed.items()
        assert job["timeout-minutes"] <= 60
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_a_release_is_checked_built_and_published_without_a_password() -> None:
    path = ROOT / ".github" / "workflows" / "release.yml"
    workflow = load(path)
    assert workflow[True] == {"push": {"tags": ["v*"]}}
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    commands = [step["run"].split()[1] for step in build["steps"] if "run" in step]
    assert commands == ["release-check", "lint", "unit", "wheel", "release"]
    assert publish["needs"] == "build"
    assert publish["environment"] == "pypi"
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert "with" not in publish["steps"][-1]
    assert "secrets." not in path.read_text()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_template_is_a_form_of_github(path: Path) -> None:
    form = load(path)
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["type"] in {"input", "textarea"} and field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_hooks_are_the_linters_of_make_lint_at_a_fixed_version() -> None:
    repositories = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", repository["rev"]) for repository in repositories)
    hooks = {hook["id"] for repository in repositories for hook in repository["hooks"]}
    assert hooks == {"ruff-check", "ruff-format", "codespell", "djlint-django"}
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    for hook in hooks:
        assert re.search(rf"\$\(BIN\)/{hook.partition('-')[0]}\b", lint[1])
