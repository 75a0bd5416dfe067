"""``python -m benchmarks``: what tracing costs here, as ratios within one run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import psycopg

from benchmarks.processes import Receiver, Worker, receiver
from example_project.servers import start_postgres, start_redis


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """PostgreSQL with a table of customers, and Redis, as environment variables."""
    postgres, redis = start_postgres(), start_redis()
    try:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS customers")
            connection.execute("CREATE TABLE customers (id integer PRIMARY KEY, name text, email text)")
            connection.execute(
                "INSERT INTO customers SELECT n, 'Customer ' || n, 'customer' || n || '@example.com' "
                "FROM generate_series(1, 1000) n"
            )
        yield {"DATABASE_URL": postgres.url, "REDIS_URL": redis.url}
    finally:
        redis.stop()
        postgres.stop()


PAGES = {"page": "/page/NUMBER/", "empty": "/empty/"}
RATES = {"sampled": "1", "10 %": "0.1", "not sampled": "0"}


def spread(values: list[float]) -> str:
    return f"{median(values):8.2f} ({min(values):.2f} to {max(values):.2f})"


def compare(environment: dict[str, str], sink: Receiver, arguments: argparse.Namespace) -> None:
    workers = {"untraced": Worker("untraced", "untraced", environment)}
    for variant in ("ours", "upstream"):
        for rate, value in RATES.items():
            workers[f"{variant} {rate}"] = Worker(
                variant,
                f"{variant}-{value}",
                environment,
                BENCHMARK_RATE=value,
                BENCHMARK_ENDPOINT=sink.url,
            )
    cpu: dict[tuple[str, str], list[float]] = {}
    latency: dict[tuple[str, str], list[float]] = {}
    for number in range(arguments.rounds + 1):
        print(f"\rround {number} of {arguments.rounds}", end="", file=sys.stderr, flush=True)
        for page, path in PAGES.items():
            for name, worker in workers.items():
                answer = worker.ask("run", path=path, requests=arguments.requests)
                if number:  # the first one warms up
                    cpu.setdefault((page, name), []).append(answer["cpu"] * 1e6)
                    latency.setdefault((page, name), []).append(median(answer["latencies"]) * 1e6)
    print(file=sys.stderr)
    for page in PAGES:
        base, base_latency = cpu[page, "untraced"], latency[page, "untraced"]
        print(f"{page}: untraced {spread(base)} us CPU, {spread(base_latency)} us latency")
        for rate in RATES:
            added = {
                variant: [a - b for a, b in zip(cpu[page, f"{variant} {rate}"], base, strict=True)]
                for variant in ("ours", "upstream")
            }
            ratios = [a / b for a, b in zip(added["ours"], added["upstream"], strict=True)]
            slower = {
                variant: [a / b for a, b in zip(latency[page, f"{variant} {rate}"], base_latency, strict=True)]
                for variant in ("ours", "upstream")
            }
            print(
                f"  {rate:12} ours {spread(added['ours'])}  upstream {spread(added['upstream'])}  ratio {spread(ratios)}"
                f"  latency ours {spread(slower['ours'])} upstream {spread(slower['upstream'])}"
            )
    print(sink.count())
    for worker in workers.values():
        worker.stop()


def tail(environment: dict[str, str], sink: Receiver, arguments: argparse.Namespace) -> None:
    workers = {
        variant: Worker(variant, f"{variant}-tail", environment, BENCHMARK_RATE="1", BENCHMARK_ENDPOINT=sink.url)
        for variant in ("untraced", "ours", "upstream")
    }
    figures: dict[tuple[str, str], list[float]] = {}
    for number in range(arguments.rounds // 2 + 1):
        for name, worker in workers.items():
            latencies = sorted(worker.ask("load", path=PAGES["page"], seconds=8)["latencies"])
            if number:
                for label, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
                    figures.setdefault((name, label), []).append(latencies[int(len(latencies) * share)] * 1e3)
    for label in ("p50", "p99", "p99.9"):
        base = figures["untraced", label]
        for name in workers:
            ratios = [a / b for a, b in zip(figures[name, label], base, strict=True)]
            print(f"{label:6} {name:10} {spread(figures[name, label])} ms, ratio {spread(ratios)}")
    for worker in workers.values():
        worker.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--only", default="compare,tail")
    arguments = parser.parse_args()
    with servers() as environment, receiver() as sink:
        for part in arguments.only.split(","):
            globals()[part](environment, sink, arguments)


if __name__ == "__main__":
    main()
