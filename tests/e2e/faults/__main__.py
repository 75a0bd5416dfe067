"""Run the faults, print one table, and exit with 1 if a request failed or a span is missing: ``make faults``.

``python -m tests.e2e.faults WORD ...`` runs only the rows whose name has one of the words.
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback

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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.faults", description=__doc__)
    parser.add_argument("words", nargs="*", help="run only the rows whose name has one of these words")
    options = parser.parse_args()
    # As Ctrl-C: nothing that was started here stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sections: dict[str, list[Result]] = {}
    broken = False
    with Databases() as databases:
        runner = Runner(databases)
        try:
            for section, row in ((section, row) for section, rows in SECTIONS.items() for row in rows):
                if options.words and not any(word in row.name for word in options.words):
                    continue
                if row.missing:
                    print(
                        f"skipped {row.name}: {', '.join(row.missing)} is not installed", file=sys.stderr, flush=True
                    )
                    continue
                try:
                    result = runner.run(row)
                except Exception:
                    # The other rows can still be run.
                    broken = True
                    print(f"BAD {row.name} was not run: {traceback.format_exc()}", file=sys.stderr, flush=True)
                    continue
                sections.setdefault(section, []).append(result)
                print(f"{'ok' if result.is_good else 'BAD':4}{row.name}", file=sys.stderr, flush=True)
                if not result.is_good:
                    print(result.details, file=sys.stderr, flush=True)
        finally:
            print(table(sections), flush=True)
    return int(broken or any(not result.is_good for results in sections.values() for result in results))


if __name__ == "__main__":
    sys.exit(main())
