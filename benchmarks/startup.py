"""Measure what this app in INSTALLED_APPS adds to the start of a process: ``python -m benchmarks.startup``.

Each figure is a process of its own: ``django.setup()`` of a project like ``startproject`` makes, on SQLite, timed
with ``django_tracing`` and without it. The baseline has imported ``opentelemetry.sdk.trace`` too, and where libraries
are said to be imported, so have all of its processes, before the clock starts. Processes of all variants take turns,
the first turn is thrown away (it writes the byte code), and what is added is the difference to the same turn's
baseline: time that passes on a clock, in ms. ``AppConfig.ready`` is timed within the same process. The collector's
runs are counted apart: a full one takes longer than all of this app, and it runs after so many new objects, in
whoever's code that happens to be.

Only the packages of the current interpreter are used; a library that is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Final

__all__ = ["measure"]

ROOT: Final = Path(__file__).resolve().parent.parent
LIBRARIES: Final = ("pybreaker", "requests", "httpx", "redis", "psycopg")
OURS: Final = ["request", "layers", "database", "cache", "circuit_breaker"]

#: Runs in each process. Its argument is a JSON object: imports, tracing (TRACING, or null for the baseline).
CHILD: Final = """
import gc, importlib, json, sys
from time import perf_counter

asked = json.loads(sys.argv[1])
for name in asked["imports"]:
    importlib.import_module(name)
import opentelemetry.sdk.trace
from django.apps import AppConfig
from django.conf import settings

options = {
    "SECRET_KEY": "benchmark",
    "INSTALLED_APPS": ["django.contrib." + name for name in (
        "admin", "auth", "contenttypes", "sessions", "messages", "staticfiles"
    )],
    "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    "USE_TZ": True,
}
collected = 0.0
def collector(phase, info):
    global collected, began
    if phase == "start":
        began = perf_counter()
    else:
        collected += perf_counter() - began
gc.callbacks.append(collector)

ready = {"ms": 0.0, "modules": []}
if asked["tracing"] is not None:
    options["INSTALLED_APPS"].append("django_tracing")
    options["TRACING"] = asked["tracing"]
    from django_tracing.apps import DjangoTracingConfig
    its_own = DjangoTracingConfig.ready
    def timed(self):
        before, spent, start = set(sys.modules), collected, perf_counter()
        its_own(self)
        ready["ms"] = (perf_counter() - start - (collected - spent)) * 1e3
        ready["modules"] = sorted(set(sys.modules) - before)
    DjangoTracingConfig.ready = timed
settings.configure(**options)
collected = 0.0
start = perf_counter()
import django
django.setup()
total = perf_counter() - start
print(json.dumps({"setup": (total - collected) * 1e3, "collector": collected * 1e3, "ready": ready}))
"""


def measure(imports: list[str], tracing: Mapping[str, Any] | None) -> dict[str, Any]:
    """Run one process; ``tracing`` is its TRACING, None for a project without this app.

    Return ``setup`` and ``collector`` (ms), and ``ready`` with its own ``ms`` and the ``modules`` that it imported.
    """
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps({"imports": imports, "tracing": tracing})],
        cwd=ROOT,
        env={
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("OTEL_", "JAEGER_", "SERVICE_", "ENVIRONMENT", "PYTHON", "DJANGO_"))
            },
            "PYTHONPATH": str(ROOT),
        },
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def variants(store: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return name -> the imports (a key of the baselines) and TRACING."""
    otlp = {"EXPORTER": "otlp", "ENDPOINT": "http://127.0.0.1:9"}
    local = {"EXPORTER": "local", "LOCAL_STORE": store}
    none = {"EXPORTER": "none"}
    return {
        "otlp": ("installed", otlp),
        "local": ("installed", local),
        "none": ("installed", none),
        "otlp, libraries imported": ("imported", otlp),
        "local, libraries imported": ("imported", local),
        "none, libraries imported": ("imported", none),
        "otlp, libraries imported, ours only": ("imported", {**otlp, "INSTRUMENTATIONS": OURS}),
    }


def _row(name: str, values: list[float], base: list[float], ready: list[float], collector: float) -> str:
    added = [value - other for value, other in zip(values, base, strict=True)]
    figures = [f"{median(values):7.1f}", f"{min(values):7.1f}", f"{max(values):7.1f}"]
    if ready:
        figures += [f"{median(added):+7.1f}", f"{median(values) / median(base):7.2f}", f"{median(ready):7.1f}"]
    else:
        figures += [" " * 7] * 3
    return f"{name:38}" + " ".join([*figures, f"{collector:9.1f}"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="turns that count (default 21)")
    rounds = parser.parse_args().rounds
    libraries = [name for name in LIBRARIES if find_spec(name) is not None]
    imports = {"installed": [], "imported": libraries}
    with tempfile.TemporaryDirectory() as folder:
        asked = variants(str(Path(folder) / "traces.sqlite3"))
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in (*imports, *asked)}
        for number in range(rounds + 1):
            if sys.stderr.isatty():
                print(f"\rturn {number} of {rounds}", end="", file=sys.stderr, flush=True)
            for name in results:
                kind, tracing = asked.get(name, (name, None))
                result = measure(imports[kind], tracing)
                if number:
                    results[name].append(result)
    if sys.stderr.isatty():
        print(file=sys.stderr)

    print(f"Libraries: {', '.join(libraries)}. Times in ms, {rounds} processes each, without the collector's runs.")
    print(f"{'django.setup()':38} median     min     max   added   ratio ready() collector")
    for baseline in imports:
        base = [result["setup"] for result in results[baseline]]
        labels = {"installed": "without this app", "imported": "without this app, libraries imported"}
        for name, found in results.items():
            if name == baseline or asked.get(name, ("",))[0] == baseline:
                ready = [] if name == baseline else [result["ready"]["ms"] for result in found]
                collector = median(result["collector"] for result in found)
                print(_row(labels.get(name, name), [result["setup"] for result in found], base, ready, collector))
    print("\nWhat ready() imported, the most imported packages first:")
    for name in asked:
        modules = results[name][-1]["ready"]["modules"]
        packages = Counter(module.partition(".")[0] for module in modules)
        print(f"  {name}: " + ", ".join(f"{package} {count}" for package, count in packages.most_common()))
    print("\nWhat is not of this app or of OpenTelemetry's API and SDK, with the libraries not imported:")
    for name, (kind, _) in asked.items():
        if kind == "installed":
            modules = results[name][-1]["ready"]["modules"]
            foreign = [module for module in modules if not module.startswith(("django_tracing", "opentelemetry"))]
            print(f"  {name}: {', '.join(foreign) or 'nothing'}")


if __name__ == "__main__":
    main()
