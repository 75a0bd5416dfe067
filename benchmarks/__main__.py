"""Measure the cost of tracing on this machine, as ratios within one run: ``python -m benchmarks``.

Processes of all variants take turns in short bursts, so that what disturbs the machine disturbs all of them; a round
is a turn of each process, and each figure is the median of the rounds, with the least and the greatest. CPU is that
of the whole process, the sending of every span included, per request, over the same page untraced.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import psycopg

from benchmarks.processes import ROOT, Receiver, Worker, hanging_receiver, receiver, virtual_environment
from benchmarks.variants import PEERS
from example_project import servers as example_servers
from example_project.servers import free_port

PAGES: Final = {"page": "/page/NUMBER/", "empty view": "/empty/"}
RATES: Final = {"every request": "1", "10 %": "0.1", "no request": "0"}
#: Processes of each variant, one after the other in a round: the random layout of memory changes results by tenths.
PROCESSES: Final = 4


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """Start PostgreSQL with a table of customers, and Redis; yield their environment variables."""
    postgres, redis = example_servers.postgres(), example_servers.redis()
    try:
        postgres.start()
        redis.start()
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS benchmark_customers")
            connection.execute("CREATE TABLE benchmark_customers (id integer PRIMARY KEY, name text, email text)")
            connection.execute(
                "INSERT INTO benchmark_customers SELECT n, 'Customer ' || n, 'customer' || n || '@example.com' "
                "FROM generate_series(1, 1000) n"
            )
        yield {"DATABASE_URL": postgres.url, "REDIS_URL": redis.url}
    finally:
        redis.stop()
        postgres.stop()


class Run:
    """One run of the benchmark: its servers, its receiver, and the results so far."""

    def __init__(self, environment: dict[str, str], sink: Receiver, arguments: argparse.Namespace) -> None:
        self.environment = environment
        self.sink = sink
        self.arguments = arguments
        self.results: dict[str, Any] = {}
        self.workers: dict[str, list[Worker]] = {}
        self.parts = 0

    def start(self, name: str, variant: str, processes: int = PROCESSES, **settings: str) -> None:
        settings = {"BENCHMARK_RATE": "1", "BENCHMARK_ENDPOINT": self.sink.url, **settings}
        service = f"{name} ({self.parts})"
        self.workers[name] = [Worker(variant, service, self.environment, **settings) for _ in range(processes)]

    def stop(self) -> None:
        for workers in self.workers.values():
            for worker in workers:
                worker.stop()
        self.workers.clear()
        self.parts += 1

    def rounds(self, send: Callable[[Worker], dict[str, Any]], what: str) -> dict[str, list[list[dict[str, Any]]]]:
        """Return the workers' answers: a list of rounds, each a list of turns. The first round only warms up."""
        answers: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in self.workers}
        for number in range(self.arguments.rounds + 1):
            self.progress(f"{what}: round {number} of {self.arguments.rounds}")
            turns: dict[str, list[dict[str, Any]]] = {name: [] for name in self.workers}
            for process in range(PROCESSES):
                # In another order each time, because the order makes a difference too.
                for name, workers in random.sample(list(self.workers.items()), len(self.workers)):
                    turns[name].append(send(workers[process % len(workers)]))
            if number:
                for name, answer in turns.items():
                    answers[name].append(answer)
        self.progress("")
        return answers

    @staticmethod
    def progress(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text:60}\r", end="", file=sys.stderr, flush=True)


def spread(values: list[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    print(f"\n{title}\n")
    for number, row in enumerate([head, *rows]):
        cells = [
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
        if not number:
            print("  ".join("-" * width for width in widths))


def cpu_of(rounds: list[list[dict[str, Any]]]) -> list[float]:
    """Return the microseconds per request, by round."""
    return [sum(turn["cpu"] for turn in turns) / len(turns) * 1e6 for turns in rounds]


def latency_of(rounds: list[list[dict[str, Any]]], share: float = 0.5) -> list[float]:
    """Return a percentile of the latencies, in microseconds, by round."""
    values = []
    for turns in rounds:
        latencies = sorted(latency for turn in turns for latency in turn["latencies"])
        values.append(latencies[min(int(len(latencies) * share), len(latencies) - 1)] * 1e6)
    return values


def over(values: list[float], base: list[float]) -> list[float]:
    return [a - b for a, b in zip(values, base, strict=True)]


def ratios(values: list[float], base: list[float]) -> list[float]:
    return [a / b for a, b in zip(values, base, strict=True)]


def compare(run: Run) -> None:
    """Compare CPU and latency with OpenTelemetry and, on request, with other tracers."""
    run.start("untraced", "untraced")
    for variant in ("ours", "upstream"):
        for rate, value in RATES.items():
            run.start(f"{variant}, {rate}", variant, BENCHMARK_RATE=value)
    for variant in PEERS if run.arguments.peers else ():
        for rate in ("every request", "no request"):
            run.start(f"{variant}, {rate}", variant, BENCHMARK_RATE=RATES[rate])
    arrived_before = run.sink.count()["spans"]
    for page, path in PAGES.items():
        answers = run.rounds(lambda w, path=path: w.send("run", path=path, requests=run.arguments.requests), page)
        arrived = run.sink.count()["spans"]
        asked = (run.arguments.rounds + 1) * PROCESSES * run.arguments.requests
        cpu = {name: cpu_of(rounds) for name, rounds in answers.items()}
        latency = {name: latency_of(rounds) for name, rounds in answers.items()}
        rows = []
        for name, workers in run.workers.items():
            variant, _, rate = name.partition(", ")
            added = over(cpu[name], cpu["untraced"])
            slower = ratios(latency[name], latency["untraced"])
            upstream = f"upstream, {rate}"
            against = ratios(added, over(cpu[upstream], cpu["untraced"])) if rate else [0.0]
            spans = (arrived.get(workers[0].service, 0) - arrived_before.get(workers[0].service, 0)) / asked
            rows.append(
                [
                    name,
                    spread(cpu[name], 0),
                    f"{median(added):.0f}" if rate else "",
                    spread(against) if rate and variant != "upstream" else "1" if rate else "",
                    spread(slower) if rate else "1",
                    f"{spans:.2f}" if rate else "",
                ]
            )
            if rate:
                run.results.setdefault("compare", {}).setdefault(page, {}).setdefault(rate, {})[variant] = {
                    "added": median(added),
                    "latency": median(slower),
                }
        arrived_before = arrived
        head = ["", "CPU us", "added us", "added / upstream's", "latency / untraced", "spans a request"]
        table(f"The {page}: CPU a request, and latency", head, rows)
    lost = {
        name: dropped
        for name, workers in run.workers.items()
        for w in workers
        if name.startswith("ours") and (dropped := w.send("dropped")["dropped"])
    }
    counts = run.sink.count()
    sizes = {
        variant: counts["bytes"][run.workers[f"{variant}, every request"][0].service]
        / counts["spans"][run.workers[f"{variant}, every request"][0].service]
        for variant in ("ours", "upstream")
    }
    print(f"\nOurs dropped: {lost or 'nothing, in no process'}.")
    print(
        f"Bytes a span on the wire: ours {sizes['ours']:.0f}, upstream {sizes['upstream']:.0f} (ours say more each)."
    )
    run.stop()


def tail(run: Run) -> None:
    """Measure the slowest requests of a process under continuous load."""
    for variant in ("untraced", "ours", "upstream"):
        run.start(variant, variant)
    seconds = run.arguments.seconds / PROCESSES
    answers = run.rounds(lambda worker: worker.send("load", path=PAGES["page"], seconds=seconds), "tail")
    rows = []
    for label, share in (("median", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        base = latency_of(answers["untraced"], share)
        for name, rounds in answers.items():
            values = latency_of(rounds, share)
            row = [f"{label}, {name}", spread([value / 1000 for value in values]), spread(ratios(values, base))]
            rows.append(row)
            run.results.setdefault("tail", {}).setdefault(label, {})[name] = median(ratios(values, base))
    table("The page in continuous load, every request sampled", ["", "ms", "/ untraced"], rows)
    run.stop()


def store(run: Run) -> None:
    """Compare the local store with OTLP: the CPU of a request, the slowest requests, and the bytes of a span."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces.sqlite3"
        run.start("untraced", "untraced")
        run.start("OTLP", "ours")
        run.start("local store", "ours", BENCHMARK_STORE=str(path))
        seconds = run.arguments.seconds / PROCESSES
        answers = run.rounds(lambda worker: worker.send("load", path=PAGES["page"], seconds=seconds), "store")
        run.stop()
        with closing(sqlite3.connect(path)) as connection:
            (spans,) = connection.execute("SELECT sum(span_count) FROM traces").fetchone()
        size = path.stat().st_size
    cpu = {name: cpu_of(rounds) for name, rounds in answers.items()}
    added = {name: over(values, cpu["untraced"]) for name, values in cpu.items()}
    rows = []
    for name, rounds in answers.items():
        row = [name, spread(cpu[name], 0)]
        row += [spread(ratios(added[name], added["OTLP"]))] if name != "untraced" else [""]
        for share in (0.5, 0.99, 0.999):
            row.append(spread(ratios(latency_of(rounds, share), latency_of(answers["untraced"], share))))
        rows.append(row)
    head = ["", "CPU us", "added / OTLP", "median / untraced", "p99 / untraced", "p99.9 / untraced"]
    table(f"The local store, the page in continuous load ({size / spans:.0f} bytes a span)", head, rows)


def away(run: Run) -> None:
    """Measure the latency while the receiver runs, is down, and hangs."""
    with hanging_receiver() as hanging:
        run.start("up", "ours")
        run.start("down", "ours", BENCHMARK_ENDPOINT=f"http://127.0.0.1:{free_port()}")
        run.start("hanging", "ours", BENCHMARK_ENDPOINT=hanging)
        run.start("up, another process", "ours")
        seconds = run.arguments.seconds / PROCESSES / 2
        answers = run.rounds(lambda worker: worker.send("load", path=PAGES["page"], seconds=seconds), "receiver away")
        rows = []
        for name, rounds in answers.items():
            row = [name]
            for share in (0.5, 0.99):
                row.append(spread(ratios(latency_of(rounds, share), latency_of(answers["up"], share))))
            rows.append(row)
        head = ["receiver", "median / up", "p99 / up"]
        table("The page while the receiver is away (two processes with it up show the noise)", head, rows)
        run.stop()


def memory(run: Run) -> None:
    """Measure the growth of memory."""
    requests = run.arguments.memory_requests
    rows = []
    for variant in ("untraced", "ours", "upstream"):
        run.start(variant, variant, processes=1)
        answer = run.workers[variant][0].send("memory", path=PAGES["page"], requests=requests)
        rows.append([variant, f"{answer['grown'] / 1e6:.1f}", f"{answer['peak'] / 1e6:.1f}"])
    run.stop()
    table(f"Resident memory over {requests} requests of the page, MB", ["", "grown", "at most"], rows)


def many(run: Run) -> None:
    """Measure 64 threads, and 1,000 async requests at once."""
    rows = []
    for title, send in (
        ("64 threads", lambda worker: worker.send("threads", path=PAGES["page"], threads=64, requests=5)),
        ("1,000 async requests", lambda worker: worker.send("concurrent", path="/waiting/", requests=1000)),
    ):
        for variant in ("untraced", "ours", "upstream"):
            run.start(variant, variant, processes=1)
        rounds: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in run.workers}
        for number in range(4):
            for name, (worker,) in run.workers.items():
                answer = send(worker)
                if number:
                    rounds[name].append([answer])
        for name in run.workers:
            slower = ratios(latency_of(rounds[name]), latency_of(rounds["untraced"]))
            worse = ratios(latency_of(rounds[name], 0.99), latency_of(rounds["untraced"], 0.99))
            more = ratios(cpu_of(rounds[name]), cpu_of(rounds["untraced"]))
            rows.append([f"{title}, {name}", spread(more), spread(slower), spread(worse)])
        run.stop()
    table("Many at once, every request sampled, / untraced", ["", "CPU", "median latency", "p99"], rows)


def growth(run: Run) -> None:
    """Measure the added CPU by spans per request and by rate."""
    run.start("untraced", "untraced")
    rates = {"100 %": "1", "10 %": "0.1", "1 %": "0.01", "0 %": "0"}
    for rate, value in rates.items():
        run.start(rate, "ours", BENCHMARK_RATE=value)
    rows = []
    for spans in (1, 5, 20, 100):
        requests = max(run.arguments.requests // max(spans // 5, 1), 20)
        answers = run.rounds(
            lambda w, n=requests, s=spans: w.send("run", path=f"/spans/{s}/", requests=n), f"{spans} spans"
        )
        base = cpu_of(answers["untraced"])
        rows.append([str(spans), *(f"{median(over(cpu_of(answers[rate]), base)):.0f}" for rate in rates)])
    table("Added CPU, us a request, by its spans and the sampling rate", ["spans", *rates], rows)
    run.stop()


def layers(run: Run) -> None:
    """Measure the added CPU by enabled instrumentations."""
    run.start("untraced", "untraced")
    names = ("request", "layers", "database", "cache", "circuit_breaker")
    for count in range(1, len(names) + 1):
        run.start(f"+ {names[count - 1]}", "ours", BENCHMARK_INSTRUMENTATIONS=",".join(names[:count]))
    answers = run.rounds(lambda w: w.send("run", path=PAGES["page"], requests=run.arguments.requests), "layers")
    base = cpu_of(answers.pop("untraced"))
    rows = [[name, spread(over(cpu_of(rounds), base), 0)] for name, rounds in answers.items()]
    table("Added CPU of the page, us a request, each with those above it", ["INSTRUMENTATIONS", "added us"], rows)
    run.stop()


def micro(run: Run) -> None:
    """Measure the cost of each part alone."""
    costs = {}
    for rate in ("1", "0"):
        environment = {
            **os.environ,
            **run.environment,
            "BENCHMARK_VARIANT": "ours",
            "BENCHMARK_SERVICE": "micro",
            "BENCHMARK_RATE": rate,
            "BENCHMARK_ENDPOINT": run.sink.url,
        }
        command = [str(virtual_environment("ours")), "-m", "benchmarks.micro"]
        costs[rate] = json.loads(subprocess.check_output(command, env=environment, cwd=ROOT))
    rows = [
        [name, f"{cost:.1f}", f"{costs['0'][name]:.1f}" if name in costs["0"] else ""]
        for name, cost in costs["1"].items()
    ]
    table("Each piece by itself, us", ["", "sampled", "not sampled"], rows)


def start(run: Run) -> None:
    """Measure what this app adds to the start of a process."""
    print("\nThe start of a process\n", flush=True)
    command = [str(virtual_environment("ours")), "-m", "benchmarks.startup", "--rounds", str(run.arguments.rounds)]
    subprocess.run(command, cwd=ROOT, check=True)


PARTS: Final = {
    "compare": compare,
    "tail": tail,
    "store": store,
    "away": away,
    "many": many,
    "memory": memory,
    "growth": growth,
    "layers": layers,
    "micro": micro,
    "start": start,
}


def profile(run: Run, folder: Path) -> None:
    """Write a profile of a page, and where 64 threads of it wait."""
    folder.mkdir(parents=True, exist_ok=True)
    run.start("ours", "ours", processes=1)
    worker = run.workers["ours"][0]
    for name, path in PAGES.items():
        report = worker.send("profile", path=path, requests=2000)["report"]
        (folder / f"{name.replace(' ', '-')}.txt").write_text(report)
    report = worker.send("sample_threads", path=PAGES["page"], threads=64, requests=20)["report"]
    (folder / "64-threads.txt").write_text(report)
    run.stop()
    print(f"Profiles are in {folder}: " + ", ".join(sorted(path.name for path in folder.iterdir())))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", action="store_true", help=f"compare {', '.join(PEERS)} too")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="only write there where the time goes")
    parser.add_argument("--only", default=",".join(PARTS), help="some of the parts: %(default)s")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each part (%(default)s)")
    parser.add_argument("--requests", type=int, default=60, help="requests in a burst (%(default)s)")
    parser.add_argument("--seconds", type=float, default=8, help="continuous load in a round (%(default)s)")
    parser.add_argument("--memory-requests", type=int, default=20_000, help="(%(default)s)")
    parser.add_argument("--picture", type=Path, help="draw the comparison there, as SVG")
    arguments = parser.parse_args()
    with servers() as environment, receiver() as sink:
        run = Run(environment, sink, arguments)
        if arguments.profile is not None:
            profile(run, arguments.profile)
            return
        for part in arguments.only.split(","):
            PARTS[part](run)
        if arguments.picture is not None:
            from benchmarks.picture import draw

            draw(run.results, arguments.picture)


if __name__ == "__main__":
    main()
