"""Run the example's services for minutes under a mixed load, with faults that come and go: ``make soak``.

Print what they used at the beginning and at the end, with an account of every span, and exit with 1 if memory,
descriptors or threads have grown, or a span is missing.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.e2e.faults.services import Databases
from tests.e2e.soak.receiver import FAULTS
from tests.e2e.soak.report import Result, report
from tests.e2e.soak.samples import Sample
from tests.e2e.soak.sites import SITES, Site

#: Seconds between two measurements.
_INTERVAL = 5.0
#: About how long it takes until each fault has come and gone once, in seconds.
_CYCLE = 100.0
#: With how many requests to each site callers invent names before, until all caches of names are full.
_WARM_UP = 4_500
#: The parts of a cycle.
_PARTS = 80


class Soak:
    """All sites at once, one cycle of faults after another."""

    def __init__(self, databases: Databases, sites: list[Site], samples: Path | None) -> None:
        self._databases = databases
        self._sites = sites
        self._samples = samples
        self._stopped = threading.Event()
        self._next = 0.0
        #: Seconds of a part of the cycle.
        self._part = _CYCLE / _PARTS

    def run(self, cycles: int, seconds: float) -> None:
        """Run ``cycles`` of ``seconds``, after one that is not measured: bounded caches fill, queues reach their size."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            while any(site.load.sent < _WARM_UP for site in self._sites):
                time.sleep(1)
            for site in self._sites:
                site.fail()
                site.load.warming = False
            for number in range(-1, cycles):
                if number == 0:
                    for site in self._sites:
                        site.forget()
                started = time.monotonic()
                self._part = seconds / _PARTS
                self._next = started
                self._cycle()
                print(f"cycle {number + 1} of {cycles}", file=sys.stderr, flush=True)
        finally:
            self._stopped.set()
            watcher.join(60)

    def _watch(self) -> None:
        due = time.monotonic()
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            due += 1
            for site in self._sites:
                try:
                    site.watch()
                except Exception:
                    traceback.print_exc()

    def _hold(self, parts: float) -> None:
        """Wait for so many parts of the cycle, and measure meanwhile."""
        self._next += parts * self._part
        while time.monotonic() < self._next:
            time.sleep(max(0.0, min(_INTERVAL, self._next - time.monotonic())))
            for site in self._sites:
                self._write(site, site.measure())

    def _write(self, site: Site, found: Mapping[str, Sample]) -> None:
        if self._samples is not None:
            with self._samples.open("a") as file:
                for name, each in found.items():
                    numbers = (each.anonymous, each.resident, each.descriptors, each.threads)
                    print(f"{time.time():.0f}", site.name, name, *numbers, sep=";", file=file)

    def _cycle(self) -> None:
        self._hold(8)
        for name in (*FAULTS, "down", "locked"):
            with ExitStack() as stack:
                for site in self._sites:
                    stack.enter_context(site.fault(name))
                self._hold(8 if name == "down" else 3)
            self._hold(2)
        self._databases.redis.stop()
        self._hold(1)
        self._databases.redis.start()
        self._hold(3)
        self._databases.end_postgres()
        self._hold(1)
        self._databases.start_postgres_again()
        self._hold(4)
        for site in self._sites:
            site.end_a_worker()
        self._hold(5)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long it is measured (default: 10)")
    parser.add_argument("--rate", type=float, default=36.0, help="requests a second, to all sites (default: 36)")
    parser.add_argument("--samples", type=Path, help="write each measurement into this file, as CSV")
    options = parser.parse_args()
    # As Ctrl-C: nothing that was started here stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seconds = options.minutes * 60
    # Each third has the same faults.
    cycles = 3 * max(1, round(seconds / 3 / _CYCLE))
    with ExitStack() as stack:
        databases = stack.enter_context(Databases())
        sites = [kind(stack, databases, options.rate / len(SITES)) for kind in SITES]
        soak = Soak(databases, sites, options.samples)
        with ExitStack() as loads:
            for site in sites:
                loads.enter_context(site.load)
            soak.run(cycles, seconds / cycles)
        results = [_result(site) for site in sites]
        logs = "\n".join(site.services.log() for site, result in zip(sites, results, strict=True) if result.missed)
    print(report(results), flush=True)
    missed = any(result.missed for result in results)
    if missed:
        print(logs, file=sys.stderr)
    return int(missed)


def _result(site: Site) -> Result:
    """Wait until nothing waits any more, stop the site, and count."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and site.account().waiting:
        time.sleep(1)
    processes = site.processes()
    site.services.stop()
    return Result(
        site.name, site.load.sent, site.load.statuses, processes, site.account(), site.disk, site.load.unanswered
    )


if __name__ == "__main__":
    sys.exit(main())
