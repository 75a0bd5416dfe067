"""Test that home folders, which are named after people, are not in exported text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_tracing.redaction.homes import without_homes

PATHS = {
    "/home/ada/shop/views.py": "~/shop/views.py",
    "/Users/ada/shop": "~/shop",
    "/home/ada": "~",
    "/export/home/ada/x": "~/x",
    "/System/Volumes/Data/Users/ada/x": "~/x",
    "/var/home/ada.lovelace/x": "~/x",
    "C:\\Users\\ada\\shop\\x.py": "~\\shop\\x.py",
    "C:\\Users\\Ada Lovelace\\x.py": "~\\x.py",
    "C:\\\\Users\\\\ada\\\\x": "~\\\\x",
    "c:/Users/ada/x": "~/x",
    "C:\\Documents and Settings\\ada\\x": "~\\x",
    "file:///home/ada/x": "file://~/x",
    "sqlite:////home/ada/db.sqlite3": "sqlite:///~/db.sqlite3",
    "//server/home/ada/x": "~/x",
    "\\\\server\\Users\\ada\\x": "~\\x",
    # These belong to no user.
    "/home/": "/home/",
    "/homer/ada/x": "/homer/ada/x",
    "https://shop.example/home/ada/x": "https://shop.example/home/ada/x",
    "/srv/shop/views.py": "/srv/shop/views.py",
}
FRAMES = [
    "{}",
    'File "{}", line 3, in view',
    "No such file or directory: '{}'",
    "cwd={}",
    "({})",
    "[Errno 2] {}: not found",
    "PATH=/usr/bin:{}:/bin",
    '{{"path": "{}"}}',
]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("path", PATHS)
def test_a_home_folder_in_any_place(path: str, frame: str) -> None:
    if path.startswith(("file", "sqlite", "//", "\\\\")) and frame.startswith("PATH"):
        pytest.skip("no path")
    assert without_homes(frame.format(path)) == frame.format(PATHS[path])


@settings(max_examples=500)
@given(
    st.sampled_from(["/home/", "/Users/", "C:\\Users\\", "D:/Users/", "/export/home/", "file:///home/"]),
    st.from_regex(r"[a-z][a-z0-9._-]{4,20}", fullmatch=True),
    st.text("ab/\\ '\":,;()[]{}<>=|\n", max_size=20),
    st.sampled_from(["", " ", "'", '"', "(", "=", ": ", "\n", "[", ">"]),
)
def test_the_name_is_removed(base: str, name: str, after: str, before: str) -> None:
    end = after if not after or after[0] in "/\\ '\":,;()[]{}<>|\n" else f"/{after}"
    name = f"qz{name}"
    text = without_homes(f"{before}{base}{name}{end}")
    assert name not in text
    assert without_homes(text) == text
