"""Check what a release needs, and build its files with absolute links in README.md.

``python -m tests.release check`` lists what is missing, and exits with 1 if anything is.
``python -m tests.release build`` does the same, and then builds the source distribution and the wheel into dist/.

The project's addresses are in setup.cfg, under ``project_urls``, and nowhere else. The files are built from a copy of
the commit, so the working tree is not changed.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: An image or a link in Markdown. A code block is left out by `absolute`.
LINK = re.compile(r"(!?)(\[[^\]\n]*\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
ADDRESS = re.compile(r"https://[^\s/]+(?:/[^\s/]+)*")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def addresses(root: Path) -> dict[str, str]:
    """Return ``project_urls`` of setup.cfg."""
    setup = ConfigParser()
    setup.read(root / "setup.cfg", encoding="utf-8")
    lines = setup["metadata"].get("project_urls", "").strip().splitlines()
    return {name.strip(): url.strip() for name, _, url in (line.partition("=") for line in lines)}


def version(root: Path) -> str:
    """Return the version that the package has."""
    [found] = re.findall(r'__version__ = "(.+)"', _read(root / "django_tracing" / "version.py"))
    return str(found)


def missing(root: Path, tag: str | None = None) -> list[str]:
    """Return a sentence for each thing that a release still needs."""
    found = []
    urls = addresses(root)
    if "Source" not in urls:
        found.append(
            'The address of the repository is not set. Add a line such as "Source = https://HOST/OWNER/NAME" to '
            "project_urls in setup.cfg: the links and pictures of README.md need it on a package index."
        )
    for name, url in urls.items():
        if not ADDRESS.fullmatch(url):
            found.append(
                f"The address {name} in project_urls of setup.cfg is {url!r}. Write an https:// address without a "
                f"slash at the end."
            )
    if not re.search(
        rf"^## {re.escape(version(root))} \(\d{{4}}-\d\d-\d\d\)$", _read(root / "CHANGELOG.md"), re.MULTILINE
    ):
        found.append(
            f"CHANGELOG.md has no section for version {version(root)} with a date. Its heading is "
            f'"## {version(root)} (YEAR-MONTH-DAY)"; the version is in django_tracing/version.py.'
        )
    if tag is not None and tag != f"v{version(root)}":
        found.append(f"The tag is {tag}, but the version in django_tracing/version.py is {version(root)}.")
    return found


def absolute(text: str, source: str, tag: str) -> str:
    """Return Markdown with absolute links and pictures, which lead to the repository's files at a tag.

    GitHub and Codeberg (Forgejo, Gitea) serve files at these addresses; GitLab redirects to its own.
    """

    def link(match: re.Match[str]) -> str:
        image, label, target, end = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        return f"{image}{label}{source}/{'raw' if image else 'blob'}/{tag}/{target}{end}"

    parts, position = [], 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(link, text[position : fence.start()]), fence[0]]
        position = fence.end()
    return "".join([*parts, LINK.sub(link, text[position:])])


def copy_commit(root: Path, copy: Path) -> None:
    """Extract the current commit into a folder, and make the links of its README.md absolute."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=root, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(copy, filter="data")
    readme = copy / "README.md"
    readme.write_text(absolute(_read(readme), addresses(copy)["Source"], f"v{version(copy)}"), encoding="utf-8")


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.release", description="Check or build a release.")
    parser.add_argument("what", choices=["check", "build"])
    parser.add_argument("--tag", help="the tag that is released; it must be that of the version")
    options = parser.parse_args(arguments)
    found = missing(root, options.tag)
    for sentence in found:
        print(f"missing: {sentence}", file=sys.stderr)
    if found:
        return 1
    for name, url in addresses(root).items():
        print(f"{name}: {url}")
    if options.what == "build":
        with tempfile.TemporaryDirectory() as folder:
            copy_commit(root, Path(folder))
            subprocess.run([sys.executable, "-m", "build", "--outdir", str(root / "dist"), folder], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
