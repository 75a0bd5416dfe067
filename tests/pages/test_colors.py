"""Test the colors of tracing.css: contrast, and palettes that are distinct with every kind of color vision."""

from __future__ import annotations

import math
import re
from itertools import combinations
from pathlib import Path

import pytest

import django_tracing

CSS = (Path(django_tracing.__file__).parent / "static" / "django_tracing" / "tracing.css").read_text()
#: The rules that set the colors: light, dark, and dark by the system.
THEMES = [block for block in re.findall(r"\{([^{}]*)\}", CSS) if "--tracing-c0:" in block]
#: What is behind the bars: pages and every other row, in the admin of Django and in django-unfold.
BACKGROUNDS = [["#ffffff", "#f8f8f8"], *[["#121212", "#212121", "#111827", "#1f2937"]] * 2]
SERVICES = [f"c{number}" for number in range(8)]
KINDS = ["sql", "cache", "http", "python", "other"]

Color = tuple[float, ...]
#: Machado, Oliveira and Fernandes (2009), severity 1: protanopia, deuteranopia, tritanopia.
VISIONS = (
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
)


def linear(color: str) -> Color:
    parts = (int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return tuple(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2."""
    dark, light = sorted(
        sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(x), strict=True)) for x in (one, other)
    )
    return (light + 0.05) / (dark + 0.05)


def oklab(rgb: Color) -> Color:
    """Björn Ottosson (2020)."""
    cone = ((0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566),
            (0.0883024619, 0.2817188376, 0.6299787005))  # fmt: skip
    lab = ((0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099),
           (0.0259040371, 0.7827717662, -0.8086757660))  # fmt: skip
    roots = tuple(max(each, 0) ** (1 / 3) for each in times(cone, rgb))
    return times(lab, roots)


def times(matrix: tuple[tuple[float, ...], ...], vector: Color) -> Color:
    return tuple(sum(w * c for w, c in zip(row, vector, strict=True)) for row in matrix)


def difference(one: str, other: str) -> float:
    """The distance in OKLab for whoever sees the smallest one."""
    seen = (
        tuple(oklab(tuple(min(max(c, 0), 1) for c in times(vision, linear(x)))) for x in (one, other))
        for vision in VISIONS
    )
    return min(math.dist(first, second) for first, second in seen)


def values(theme: str) -> dict[str, str]:
    return dict(re.findall(r"--tracing-([a-z0-9-]+): (#[0-9a-f]{3,6});", theme))


def test_there_are_three_themes_and_dark_is_dark() -> None:
    light, dark, by_system = map(values, THEMES)
    assert light.keys() == dark.keys()
    assert dark == by_system


@pytest.mark.parametrize(
    ("theme", "backgrounds"), list(zip(THEMES, BACKGROUNDS, strict=True)), ids=["light", "dark", "system"]
)
class TestPalettes:
    def test_bars_stand_out_from_the_page(self, theme: str, backgrounds: list[str]) -> None:
        found = values(theme)
        for name in (*SERVICES, *KINDS, "bar", "error"):
            for background in backgrounds:
                assert contrast(found[name], background) >= 3, (name, background)

    @pytest.mark.parametrize("palette", [SERVICES, KINDS], ids=["services", "kinds"])
    def test_everyone_can_tell_the_colors_of_a_palette_apart(
        self, theme: str, backgrounds: list[str], palette: list[str]
    ) -> None:
        found = values(theme)
        for one, other in combinations(palette, 2):
            assert difference(found[one], found[other]) >= 0.08, (one, other)

    def test_the_palettes_share_no_color(self, theme: str, backgrounds: list[str]) -> None:
        found = values(theme)
        for service in SERVICES:
            for kind in KINDS:
                assert difference(found[service], found[kind]) >= 0.035, (service, kind)

    def test_the_words_on_colors_can_be_read(self, theme: str, backgrounds: list[str]) -> None:
        found = values(theme)
        for name in ("ok", "refused", "failed", "moved"):
            assert contrast(found[name], found[f"{name}-bg"]) >= 4.5, name
        for background in backgrounds:
            assert contrast(found["error"], background) >= 4.5
            assert contrast(found["muted"], background) >= 4.5
