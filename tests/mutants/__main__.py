"""Change the code that keeps the promises, one place at a time, and list the changes that no test notices."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tests.mutants import coverage_map
from tests.mutants.coverage_map import CoverageMap
from tests.mutants.equivalent import equivalents
from tests.mutants.generation import Mutant, mutant, sites
from tests.mutants.modules import FOLDER, PARTS, ROOT, file_of, files
from tests.mutants.results import KILLED, RESULTS, SURVIVED, results_so_far, table
from tests.mutants.running import Copy

#: Tests of more than so many seconds together are not run for one mutant: it counts as survived.
BUDGET = 60.0


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    if options.table:
        print(table(results_so_far()))
        return
    if options.measure is not None or not (FOLDER / "times.json").exists():
        print("Measuring which test runs which line. This takes as long as the tests.", flush=True)
        coverage_map.measure(options.measure or ["tests"], options.processes)
        if options.measure is not None:
            return
    known = {} if options.again else results_so_far()
    if options.survivors:
        chosen = [list(_again(known.values(), options.names))]
    else:
        chosen = [_sample(name, options) for name in options.names]
    todo = [each for group in chosen for each in group if options.survivors or each.name not in known]
    print(f"{sum(map(len, chosen)):,} mutants, {len(todo):,} of them to be tested", flush=True)
    run(todo, options.processes)
    names = {each.name for group in chosen for each in group}
    results = {name: result for name, result in results_so_far().items() if name in names}
    for result in results.values():
        if result["status"] == SURVIVED:
            where, change = result["name"].split("\n", 1)
            print(f"\n{where}, line {result['line']}, {result['tests']} tests\n{change}")
    print(f"\n{table(results)}")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"parts ({', '.join(PARTS)}), or modules such as export.spool")
    parser.add_argument("--sample", type=int, metavar="N", help="test only N mutants of each name, chosen by chance")
    parser.add_argument("--seed", type=int, default=1, help="chooses another sample")
    parser.add_argument("--processes", type=int, default=1, help="how many mutants are tested at a time")
    parser.add_argument(
        "--measure",
        nargs="*",
        metavar="TESTS",
        help="only measure which test (of these files and folders) runs which line",
    )
    parser.add_argument("--survivors", action="store_true", help="test those again that survived before")
    parser.add_argument("--again", action="store_true", help="do not use results of earlier runs")
    parser.add_argument("--table", action="store_true", help="only print the table of all results so far")
    options = parser.parse_args(arguments)
    options.names = options.names or list(PARTS)
    return options


def _sample(name: str, options: argparse.Namespace) -> list[Mutant]:
    found = [site for file in files(name) for site in sites(file)]
    if options.sample is not None:
        # The order of a run over the whole stays that of the lines.
        random.Random(f"{options.seed}:{name}").shuffle(found)
    made: dict[str, Mutant] = {}
    for site in found:
        if options.sample is not None and len(made) == options.sample:
            break
        each = mutant(site)
        if each is not None:
            made.setdefault(each.name, each)
    return list(made.values())


def _again(results: Iterable[dict[str, Any]], names: list[str]) -> Iterable[Mutant]:
    """Yield the survivors of earlier runs, as far as their lines are still there."""
    listed = {each.name for each in equivalents()}
    survivors: dict[str, dict[str, str]] = defaultdict(dict)
    for result in results:
        if result["status"] == SURVIVED and result["name"] not in listed:
            survivors[file_of(result["name"])][result["name"]] = result["operator"]
    for file in sorted({file for name in names for file in files(name)} & survivors.keys()):
        lines = (ROOT / file).read_text().splitlines()
        wanted = survivors[file]
        for site in sites(file):
            line = lines[site.line - 1].strip()
            # To make a mutant takes much longer than to see that it is another one.
            if any(operator == site.operator and line in name for name, operator in wanted.items()):
                each = mutant(site)
                if each is not None and wanted.pop(each.name, None):
                    yield each


def run(mutants: list[Mutant], processes: int) -> None:
    """Test the mutants, and store the results one by one: a run can be interrupted, and goes on where it was."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    workers = [_worker(mutants[number::processes]) for number in range(min(processes, len(mutants)))]
    try:
        while workers:
            ended, _ = os.wait()
            workers.remove(ended)
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGTERM)


def _worker(mutants: list[Mutant]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        lines = CoverageMap()
        copy = Copy()
        try:
            judge = _Judge(lines, copy)
            for each in mutants:
                started = time.monotonic()
                killer, tests = judge.judge(each)
                result = {
                    "name": each.name,
                    "line": each.line,
                    "operator": each.operator,
                    "status": KILLED if killer else SURVIVED,
                    "killer": killer,
                    "tests": tests,
                    "seconds": round(time.monotonic() - started, 1),
                }
                with RESULTS.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print("." if killer else "S", end="", flush=True)
        finally:
            copy.close()
        status = 0
    finally:
        os._exit(status)


class _Judge:
    """Tell which test kills a mutant. A test that fails without the mutant, too, kills nothing."""

    def __init__(self, lines: CoverageMap, copy: Copy) -> None:
        self._lines = lines
        self._copy = copy
        self._known = set(lines.times)
        self._reliable: dict[str, bool] = {}

    def judge(self, each: Mutant) -> tuple[str, int]:
        """Return the test that fails, or an empty string, and how many were chosen."""
        tests = self._order(each)
        while True:
            killer = self._run(each, tests)
            if not killer or self._is_reliable(killer, each):
                return killer, len(tests)
            tests = [test for test in tests if self._reliable.get(test, True)]
            if killer in self._known or "::" not in killer:
                continue
            # A new test, which runs whether it is chosen or not.
            self._known.add(killer)

    def _run(self, each: Mutant, tests: list[str]) -> str:
        for group in (*_new(each.file, frozenset(map(_file, self._lines.times))), *_groups(each, tests)):
            if failed := self._copy.run(each.file, each.code, group, self._known, self._limit(group)):
                return failed
        return ""

    def _limit(self, tests: list[str]) -> float:
        return 30 + 5 * sum(self._lines.times.get(test, 1) for test in tests)

    def _order(self, each: Mutant) -> list[str]:
        """Return the tests of the line: of files that import the module first, then of its folder, the quickest first.

        A test that is about the module may take long, as those with examples by chance do.
        """
        folder = _folder(each)
        found = [test for test in self._lines.tests(each.file, each.line) if self._reliable.get(test, True)]
        importers = {file for file in {_file(test) for test in found} if _imports(ROOT / file, each.file)}
        found.sort(
            key=lambda test: (
                _file(test) not in importers,
                not test.startswith(folder),
                self._lines.times[test],
                test,
            )
        )
        chosen, seconds = [], 0.0
        for test in found:
            seconds += self._lines.times[test]
            if seconds > BUDGET and chosen:
                break
            chosen.append(test)
        return chosen

    def _is_reliable(self, killer: str, each: Mutant) -> bool:
        if "::" not in killer:
            # An import that fails, or a time-out.
            return True
        if killer not in self._reliable:
            source = (self._copy.folder / each.file).read_text()
            known = self._known | {killer}
            self._reliable[killer] = not self._copy.run(each.file, source, [killer], known, self._limit([killer]))
        return self._reliable[killer]


def _file(test: str) -> str:
    return test.partition("::")[0]


@cache
def _imports(test: Path, file: str) -> bool:
    """Return whether a file of tests imports a module of the app."""
    module = file.removesuffix(".py").replace("/", ".")
    package, _dot, name = module.rpartition(".")
    text = test.read_text() if test.exists() else ""
    return f"from {module} import" in text or re.search(rf"from {package} import .*\b{name}\b", text) is not None


@cache
def _new(file: str, measured: frozenset[str]) -> list[list[str]]:
    """Return the files in the folder of a module's tests that were not there when coverage was measured, in a group."""
    folder = ROOT / file.replace("django_tracing", "tests", 1).rpartition("/")[0]
    found = [str(test.relative_to(ROOT)) for test in sorted(folder.glob("test_*.py")) if _imports(test, file)]
    new = [test for test in found if test not in measured]
    return [new] if new else []


def _folder(each: Mutant) -> str:
    """Return the folder of the tests of a module."""
    return each.file.replace("django_tracing", "tests", 1).rpartition("/")[0] + "/"


def _groups(each: Mutant, tests: list[str]) -> list[list[str]]:
    """Divide ``tests``: those of one file, which is quickly collected and kills most, of its folder, and others."""
    near = [test for test in tests if test.startswith(_folder(each))]
    files = Counter(map(_file, near))
    own = f"{_folder(each)}test_{each.file.rpartition('/')[2]}"
    first = own if own in files else max(files, key=lambda file: files[file], default="")
    if not tests:
        # Of its file, those that were not there when coverage was measured are run.
        return [[own]] if (ROOT / own).exists() else []
    groups = (
        [test for test in near if test.startswith(f"{first}::")],
        [test for test in near if not test.startswith(f"{first}::")],
        [test for test in tests if not test.startswith(_folder(each))],
    )
    return [group for group in groups if group]


if __name__ == "__main__":
    main(sys.argv[1:])
