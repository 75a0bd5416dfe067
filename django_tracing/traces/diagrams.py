"""Write dependencies as text, Mermaid and Graphviz's DOT."""

from __future__ import annotations

from typing import Any, Final

from django_tracing.traces.model import Dependencies, Dependency
from django_tracing.traces.text import plain
from django_tracing.traces.times import iso_time

__all__ = ["as_dot", "as_mermaid", "as_text", "errors_of"]

_WORDS: Final[dict[str, str]] = {
    "service": "service",
    "database": "database",
    "cache": "cache",
    "breaker": "circuit breaker",
    "external": "not traced",
}


def errors_of(link: Dependency) -> str:
    """Return the share of failed calls, if it is known."""
    if not link.examined:
        return "?"
    share = 100 * link.errors / link.examined
    return f"{share:.0f} %" if share >= 1 or not link.errors else "<1 %"


def as_text(dependencies: Dependencies) -> str:
    """Return a table for a terminal."""
    titles = ("caller", "calls", "what", "how often", "failed")
    rows = [
        (
            plain(link.caller),
            plain(link.callee) + (f" ({plain(link.state)})" if link.state else ""),
            _WORDS[link.kind],
            str(link.calls),
            errors_of(link),
        )
        for link in dependencies.links
    ]
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    lines = [
        "  ".join(
            cell.rjust(width) if column > 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (titles, *rows)
    ]
    if dependencies.sampled is not None:
        times = ""
        if dependencies.sample is not None:
            first, last = iso_time(dependencies.sample.first), iso_time(dependencies.sample.last)
            times = f", which started from {first} to {last}"
        sampled = f"from the newest {dependencies.sampled} traces{times}"
        lines += ["", f"Failures, databases, caches and breakers: {sampled}."]
    return "\n".join(lines)


def as_mermaid(dependencies: Dependencies) -> str:
    """Return a flowchart for https://mermaid.js.org, which GitHub renders in Markdown."""
    # Shapes: https://mermaid.js.org/syntax/flowchart.html
    shapes = {
        "service": '["{}"]',
        "database": '[("{}")]',
        "cache": '[/"{}"/]',
        "breaker": '{{{{"{}"}}}}',
        "external": '(["{}"])',
    }
    numbers, lines = _numbered(dependencies), ["flowchart LR"]
    for (kind, name), (number, label) in numbers.items():
        lines.append(f"    n{number}{shapes[kind].format(_mermaid(label or name))}")
    for link in dependencies.links:
        caller, callee = numbers["service", link.caller][0], numbers[link.kind, link.callee][0]
        lines.append(f'    n{caller} -->|"{_mermaid(_label(link))}"| n{callee}')
    return "\n".join(lines)


def as_dot(dependencies: Dependencies) -> str:
    """Return a graph for Graphviz (https://graphviz.org/doc/info/lang.html)."""
    shapes = {
        "service": "box",
        "database": "cylinder",
        "cache": "component",
        "breaker": "hexagon",
        "external": "ellipse",
    }
    numbers, lines = _numbered(dependencies), ["digraph dependencies {", "    rankdir=LR;"]
    for (kind, name), (number, label) in numbers.items():
        lines.append(f"    n{number} [label={_dot(label or name)}, shape={shapes[kind]}];")
    for link in dependencies.links:
        caller, callee = numbers["service", link.caller][0], numbers[link.kind, link.callee][0]
        lines.append(f"    n{caller} -> n{callee} [label={_dot(_label(link))}];")
    return "\n".join([*lines, "}"])


def _numbered(dependencies: Dependencies) -> dict[tuple[str, str], tuple[int, str]]:
    """Return the number and label of each node. The numbers are used as ids, because names may contain anything."""
    found: dict[tuple[str, str], tuple[int, str]] = {}
    for link in dependencies.links:
        found.setdefault(("service", link.caller), (len(found), ""))
        label = f"{link.callee} ({link.state})" if link.state else ""
        found.setdefault((link.kind, link.callee), (len(found), label))
    return found


def _label(link: Dependency) -> str:
    calls = f"{link.calls} call" if link.calls == 1 else f"{link.calls} calls"
    return f"{calls}, {errors_of(link)} failed" if link.errors else calls


def _mermaid(text: Any) -> str:
    # Mermaid's own escapes: a number sign, the code point, a semicolon.
    return "".join(
        character if character.isalnum() or character in " -_./:(),%" else f"#{ord(character)};"
        for character in str(text)
    )


def _dot(text: Any) -> str:
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain(escaped)}"'
