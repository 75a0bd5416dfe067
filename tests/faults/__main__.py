"""Run the faults, print one table, and exit with 1 if a request failed or a span is missing: ``make faults``.

``python -m tests.faults WORD ...`` runs only the rows whose name has one of the words.
"""

from __future__ import annotations

import argparse
import sys

from tests.faults.process_rows import PROCESS_ROWS
from tests.faults.receiver_rows import RECEIVER_ROWS
from tests.faults.rows import Result, Row, Runner
from tests.faults.services import Databases
from tests.faults.storage_rows import STORAGE_ROWS
from tests.faults.table import table

SECTIONS: dict[str, list[Row]] = {
    "The receiver and the network": RECEIVER_ROWS,
    "The process": PROCESS_ROWS,
    "Storage, PostgreSQL and Redis": STORAGE_ROWS,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("words", nargs="*", help="run only the rows whose name has one of these words")
    options = parser.parse_args()
    sections: dict[str, list[Result]] = {}
    with Databases() as databases:
        runner = Runner(databases)
        for section, rows in SECTIONS.items():
            for row in rows:
                if options.words and not any(word in row.name for word in options.words):
                    continue
                result = runner.run(row)
                sections.setdefault(section, []).append(result)
                print(f"{'ok' if result.is_good else 'BAD':4}{row.name}", file=sys.stderr, flush=True)
                if not result.is_good:
                    print(result.details, file=sys.stderr, flush=True)
    print(table(sections))
    return int(any(not result.is_good for results in sections.values() for result in results))


if __name__ == "__main__":
    sys.exit(main())
