"""Run the faults, print one table, and exit with 1 if a request failed or a span is missing: ``make faults``.

``python -m tests.e2e.faults WORD ...`` runs only the rows whose name has one of the words.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import traceback
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from tests.e2e.faults.celery_rows import CELERY_ROWS
from tests.e2e.faults.grpc_rows import GRPC_ROWS
from tests.e2e.faults.process_rows import PROCESS_ROWS
from tests.e2e.faults.receiver_rows import RECEIVER_ROWS
from tests.e2e.faults.rows import Result, Row, Runner
from tests.e2e.faults.rules_rows import RULES_ROWS
from tests.e2e.faults.server_rows import SERVER_ROWS
from tests.e2e.faults.services import Databases
from tests.e2e.faults.spool_rows import SPOOL_ROWS
from tests.e2e.faults.storage_rows import STORAGE_ROWS
from tests.e2e.faults.table import table

SECTIONS: dict[str, list[Row]] = {
    "The receiver and the network": [*RECEIVER_ROWS, *GRPC_ROWS],
    "The process": [*PROCESS_ROWS, *SERVER_ROWS, *CELERY_ROWS, *SPOOL_ROWS],
    "Storage, PostgreSQL and Redis": [*STORAGE_ROWS, *RULES_ROWS],
}


class _Run:
    """Several rows at the same time, each with databases of its own: a row mostly waits."""

    def __init__(self, rows: list[Row]) -> None:
        self._left = deque(rows)
        self._printing = threading.Lock()
        self.results: dict[str, Result] = {}
        #: Whether a row could not be run.
        self.is_broken = False

    def work(self, databases: Databases) -> None:
        """Run rows until there are none."""
        runner = Runner(databases)
        while self._left:
            try:
                row = self._left.popleft()
            except IndexError:
                return
            try:
                result = runner.run(row)
            except Exception:
                # The other rows can still be run.
                self.is_broken = True
                self._print(f"BAD {row.name} was not run: {traceback.format_exc()}")
                continue
            self.results[row.name] = result
            self._print(f"{'ok' if result.is_good else 'BAD':4}{row.name}", result.details)

    def _print(self, *lines: str) -> None:
        with self._printing:
            print(*filter(None, lines), sep="\n", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Begin no other row."""
        self._left.clear()
        self.is_broken = True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.faults", description=__doc__)
    parser.add_argument("words", nargs="*", help="run only the rows whose name has one of these words")
    parser.add_argument("--jobs", type=int, default=2, help="how many rows run at the same time (2)")
    options = parser.parse_args()
    # As Ctrl-C: nothing that was started here stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wanted = []
    for row in (row for rows in SECTIONS.values() for row in rows):
        if options.words and not any(word in row.name for word in options.words):
            continue
        if obstacles := row.obstacles:
            print(f"skipped {row.name}: {', '.join(obstacles)}", file=sys.stderr, flush=True)
            continue
        wanted.append(row)
    run = _Run(wanted)
    with ExitStack() as stack:
        databases = [stack.enter_context(Databases()) for _ in range(min(options.jobs, len(wanted)))]
        try:
            with ThreadPoolExecutor(max(len(databases), 1)) as pool:
                try:
                    for done in [pool.submit(run.work, each) for each in databases]:
                        done.result()
                except KeyboardInterrupt:
                    # Those that run end in order.
                    run.stop()
        finally:
            sections = {
                section: [run.results[row.name] for row in rows if row.name in run.results]
                for section, rows in SECTIONS.items()
            }
            print(table({section: results for section, results in sections.items() if results}), flush=True)
    return int(run.is_broken or not all(result.is_good for result in run.results.values()))


if __name__ == "__main__":
    sys.exit(main())
