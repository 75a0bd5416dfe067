"""Draw the comparison for the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

__all__ = ["draw"]

#: A medium color: legible on light and dark pages, because the background is transparent.
_INK: Final = "#7a828e"
_OURS: Final = "#2da44e"
_OTHERS: Final = "#8c959f"


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the CPU that each tracer adds to a request, as SVG, into ``path``."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.hashsalt": "benchmark", "svg.fonttype": "path", "font.size": 10})
    panels = [
        (f"{page}, {rate} sampled", by_variant)
        for page, by_rate in results["compare"].items()
        for rate, by_variant in by_rate.items()
        if rate != "10 %"
    ]
    figure, axes = pyplot.subplots(len(panels) // 2, 2, figsize=(9, 1.2 + 0.33 * sum(len(p[1]) for p in panels)))
    for axis, (title, by_variant) in zip(axes.flat, panels, strict=True):
        bars = sorted(by_variant.items(), key=lambda item: -item[1]["added"])
        values = [max(figures["added"], 0) for _, figures in bars]
        labels = [
            "django_tracing" if name == "ours" else "OpenTelemetry" if name == "upstream" else name
            for name, _ in bars
        ]
        colors = [_OURS if name == "ours" else _OTHERS for name, _ in bars]
        drawn = axis.barh(labels, values, color=colors, height=0.6)
        axis.bar_label(drawn, [f" {value:.0f} \N{MICRO SIGN}s" for value in values], color=_INK)
        axis.set_title(title, loc="left", color=_INK, fontsize=10)
        axis.set_xlim(0, max(values) * 1.25 or 1)
        axis.xaxis.set_visible(False)
        axis.tick_params(length=0, colors=_INK)
        axis.patch.set_alpha(0)
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.suptitle("CPU that tracing adds to a request (less is better)", color=_INK, x=0.02, ha="left")
    figure.tight_layout()
    figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
