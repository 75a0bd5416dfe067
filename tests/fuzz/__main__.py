"""Run the targets, and print a table: ``python -m tests.fuzz [--cases 100000] [--number 0] [WORDS ...]``."""

from __future__ import annotations

import argparse
import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from tests.fuzz.running import run  # noqa: E402
from tests.fuzz.targets import TARGETS  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("words", nargs="*", help="Only targets whose names contain one of these.")
    parser.add_argument("--cases", type=int, default=100_000, help="Inputs for each target (default: 100000).")
    parser.add_argument("--number", type=int, default=0, help="Which inputs: the same for the same number.")
    given = parser.parse_args()
    words = [word.lower() for word in given.words]
    chosen = [each for each in TARGETS if not words or any(word in each.name.lower() for word in words)]
    width = max(len(target.name) for target in TARGETS)
    print(f"| {'Target':<{width}} | {'Cases':>8} | Crashes | Seconds | Slowest case |")
    print(f"| {'-' * width} | {'-' * 8} | ------- | ------- | ------------ |", flush=True)
    failed = []
    for target in chosen:
        result = run(target, given.cases, number=given.number)
        crashes = sum(crash.count for crash in result.crashes.values())
        print(
            f"| {result.target:<{width}} | {result.cases:>8,} | {crashes:>7,} | {result.seconds:>7.1f} | "
            f"{result.slowest * 1000:>9.1f} ms |",
            flush=True,
        )
        if result.crashes or result.grown:
            failed.append(result)
    for result in failed:
        for name, (before, after) in result.grown.items():
            print(f"\n{result.target}: {name} grew from {before} to {after}")
        for crash in result.crashes.values():
            print(f"\n{'=' * 80}\n{crash.target}: {crash.count} times {crash.kind} in {crash.where}")
            # What hostile inputs contain is not for terminals.
            print(f"input: {ascii(crash.value)}"[:2000])
            print(crash.trace.encode("ascii", "backslashreplace").decode())
    return 1 if failed else 0


sys.exit(main())
