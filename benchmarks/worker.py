"""Set up a tracer, then run the requests that are read from standard input.

Each line in is a JSON object, ``{"do": "run", "path": "/page/1/", "requests": 400}``, each line out its answer.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import io
import json
import os
import pstats
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")

#: The headers that a browser sends.
ENVIRON: dict[str, Any] = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "SERVER_NAME": "shop.example.com",
    "SERVER_PORT": "443",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "203.0.113.7",
    "HTTP_HOST": "shop.example.com",
    "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
    "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "HTTP_ACCEPT_LANGUAGE": "en-US,en;q=0.5",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate, br, zstd",
    "HTTP_CONNECTION": "keep-alive",
    "QUERY_STRING": "page=2",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "https",
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    "wsgi.errors": sys.stderr,
}


def resident() -> int:
    """Return the resident memory, in bytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Worker:
    def __init__(self) -> None:
        from benchmarks import variants

        self.flush: Callable[[], Any] = variants.start(os.environ["BENCHMARK_VARIANT"])
        from django.core.wsgi import get_wsgi_application

        self.application = get_wsgi_application()
        self.number = 0

    def get(self, path: str) -> None:
        self.number += 1
        path_info = path.replace("NUMBER", str(self.number % 1000 + 1))
        environ = {**ENVIRON, "PATH_INFO": path_info, "wsgi.input": io.BytesIO()}
        statuses: list[str] = []
        response = self.application(environ, lambda status, headers, exc_info=None: statuses.append(status))
        for _ in response:
            pass
        close = getattr(response, "close", None)
        if close is not None:
            close()
        if not statuses[0].startswith("200"):
            raise SystemExit(f"{path_info} answered {statuses[0]}")

    def run(self, path: str, requests: int) -> dict[str, Any]:
        """Return the CPU of the whole process until all spans are sent, and each request's latency."""
        get = self.get
        latencies: list[float] = []
        self.flush()
        gc.collect()
        cpu = time.process_time()
        for _ in range(requests):
            started = time.perf_counter()
            get(path)
            latencies.append(time.perf_counter() - started)
        self.flush()
        cpu = time.process_time() - cpu
        return {"cpu": cpu / requests, "latencies": latencies}

    def load(self, path: str, seconds: float) -> dict[str, Any]:
        """Return the latency of every request under continuous load from one thread, and the CPU for each.

        What waits at the end is sent in the next turn.
        """
        get = self.get
        latencies: list[float] = []
        cpu = time.process_time()
        end = time.perf_counter() + seconds
        now = time.perf_counter()
        while now < end:
            get(path)
            started, now = now, time.perf_counter()
            latencies.append(now - started)
        return {"cpu": (time.process_time() - cpu) / len(latencies), "latencies": latencies}

    def threads(self, path: str, threads: int, requests: int) -> dict[str, Any]:
        """Run ``threads`` threads with ``requests`` requests each."""
        latencies: list[float] = []

        def work() -> None:
            from django.db import connections

            for _ in range(requests):
                started = time.perf_counter()
                self.get(path)
                latencies.append(time.perf_counter() - started)
            connections.close_all()

        workers = [threading.Thread(target=work) for _ in range(threads)]
        started, cpu = time.perf_counter(), time.process_time()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.flush()
        return {
            "seconds": time.perf_counter() - started,
            "cpu": (time.process_time() - cpu) / (threads * requests),
            "latencies": latencies,
        }

    def concurrent(self, path: str, requests: int) -> dict[str, Any]:
        """Run ``requests`` async requests at once, through the ASGI handler."""
        from django.core.asgi import get_asgi_application

        application = get_asgi_application()
        headers = [
            (key[5:].replace("_", "-").lower().encode(), str(value).encode())
            for key, value in ENVIRON.items()
            if key.startswith("HTTP_")
        ]
        latencies: list[float] = []

        async def one() -> None:
            scope = {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": "GET",
                "scheme": "https",
                "path": path,
                "query_string": b"page=2",
                "headers": headers,
                "client": ("203.0.113.7", 50000),
                "server": ("shop.example.com", 443),
            }
            received = False
            never = asyncio.Event()

            async def receive() -> dict[str, Any]:
                nonlocal received
                if not received:
                    received = True
                    return {"type": "http.request", "body": b"", "more_body": False}
                await never.wait()
                return {"type": "http.disconnect"}

            async def send(message: dict[str, Any]) -> None:
                if message["type"] == "http.response.start" and message["status"] != 200:
                    raise SystemExit(f"{path} answered {message['status']}")

            started = time.perf_counter()
            await application(scope, receive, send)  # type: ignore[arg-type]
            latencies.append(time.perf_counter() - started)

        async def all_of_them() -> None:
            await asyncio.gather(*(one() for _ in range(requests)))

        cpu = time.process_time()
        asyncio.run(all_of_them())
        self.flush()
        return {"cpu": (time.process_time() - cpu) / requests, "latencies": latencies}

    def memory(self, path: str, requests: int) -> dict[str, Any]:
        """Return the growth of resident memory over ``requests`` requests."""
        for _ in range(20):
            self.get(path)
        self.flush()
        gc.collect()
        before = peak = resident()
        for number in range(requests):
            self.get(path)
            if number % 100 == 0:
                peak = max(peak, resident())
        return {"grown": resident() - before, "peak": peak - before, "flushed": self.flush()}

    def dropped(self) -> dict[str, Any]:
        """Return this app's number of dropped spans, by reason."""
        from django_tracing.spans import runtime

        queue = runtime.current.queue
        return {"dropped": {} if queue is None else queue.counters.snapshot()["dropped"]}

    def profile(self, path: str, requests: int) -> dict[str, Any]:
        """Return a profile: the time of each function, and the share of each package."""
        for _ in range(300):
            self.get(path)
        self.flush()
        profiler = cProfile.Profile()
        profiler.enable()
        for _ in range(requests):
            self.get(path)
        profiler.disable()
        text = io.StringIO()
        stats = pstats.Stats(profiler, stream=text)
        shares: Counter[str] = Counter()
        for (file, _, _), (_, _, own, _, _) in stats.stats.items():  # type: ignore[attr-defined]
            found = re.search(r"(?:site-packages|lib/python3\.\d+|main|benchmarks)/([\w-]+)", file)
            known = "django_tracing" if "django_tracing/" in file else found[1] if found else "built in"
            shares[known] += own
        print(
            f"Own time by package, us a request ({requests} requests of {path}, the profiler's own among it):",
            file=text,
        )
        for package, own in shares.most_common(12):
            print(f"  {own / requests * 1e6:8.1f}  {package}", file=text)
        stats.sort_stats("tottime").print_stats("django_tracing", 40)
        return {"report": text.getvalue()}

    def sample_threads(self, path: str, threads: int, requests: int) -> dict[str, Any]:
        """Return what the threads of a busy process do, sampled every 2 ms: waiting for a lock shows as its line."""
        seen: Counter[str] = Counter()
        samples = 0
        done = threading.Event()

        def look() -> None:
            nonlocal samples
            me = threading.get_ident()
            while not done.wait(0.002):
                for ident, frame in sys._current_frames().items():
                    if ident != me:
                        samples += 1
                        seen[f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"] += 1

        looker = threading.Thread(target=look)
        looker.start()
        self.threads(path, threads, requests)
        done.set()
        looker.join()
        ours = {place: count for place, count in seen.items() if "django_tracing" in place}
        lines = [
            f"{threads} threads, {requests} requests of {path} each; {samples} looks at a thread.",
            f"In django_tracing: {sum(ours.values()) / samples:.1%} of them, most of all in",
            *(f"  {count / samples:7.2%}  {place}" for place, count in Counter(ours).most_common(15)),
            "In all:",
            *(f"  {count / samples:7.2%}  {place}" for place, count in seen.most_common(15)),
        ]
        return {"report": "\n".join(lines) + "\n"}


def main() -> None:
    # Only answers may be written to standard output.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(getattr(worker, order.pop("do"))(**order) or {}), file=answers)


if __name__ == "__main__":
    main()
