"""Configure Sphinx for the documentation site, which ``make docs`` builds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref

ROOT = Path(__file__).parent.parent

project = "django-tracing-otel"
author = copyright = "django-tracing-otel contributors"
release = version = re.findall(r'__version__ = "(.+)"', (ROOT / "django_tracing/version.py").read_text())[0]

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
#: The anchors of GitHub, so that a link works in both places.
myst_heading_anchors = 4
highlight_language = "text"

html_theme = "furo"
html_title = f"{project} {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}


def _add_dark_images(app: Any, doctree: nodes.document) -> None:
    """Show ``NAME-dark.png`` instead of ``NAME-light.png`` in the dark theme, where there is one."""
    for image in list(doctree.findall(nodes.image)):
        dark = image["uri"].replace("-light.png", "-dark.png")
        if dark != image["uri"] and (Path(app.srcdir) / dark).exists():
            twin = image.deepcopy()
            twin["uri"] = dark
            image["classes"].append("only-light")
            twin["classes"].append("only-dark")
            image.parent.insert(image.parent.index(image) + 1, twin)


def _resolve_root_pages(app: Any, doctree: nodes.document) -> None:
    """Resolve links between files at the root, e.g. SECURITY.md, which pages of the site include."""
    for link in doctree.findall(pending_xref):
        # "SECURITY.md", or "../SECURITY.md", which MyST has turned into an absolute path.
        stem = Path(link["reftarget"]).name.removesuffix(".md")
        name = stem.lower()
        if stem == stem.upper() and (ROOT / f"{stem}.md").exists() and name in app.env.found_docs:
            link.attributes.update(refdomain="doc", reftarget=name, reftargetid=None)


def setup(app: Any) -> dict[str, bool]:
    # Before Sphinx collects the images, which it does at 500.
    app.connect("doctree-read", _add_dark_images, priority=100)
    app.connect("doctree-read", _resolve_root_pages)
    return {"parallel_read_safe": True}
