"""Run real Jaegers for the tests on free ports: ``jaeger`` (current) and ``jaeger-1.51`` (all-in-one) on PATH."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from example_project.servers import free_port

__all__ = ["Jaeger", "Version", "jaeger_fixture", "wait_until"]

Version = Literal["jaeger", "jaeger-1.51"]


def wait_until(predicate: Callable[[], Any], what: str, timeout: float = 20) -> Any:
    """Wait until ``predicate`` returns a true value, and return it. Fail after ``timeout`` seconds and name ``what``."""
    deadline = time.monotonic() + timeout
    while True:
        result = predicate()
        if result:
            return result
        assert time.monotonic() < deadline, f"timed out after {timeout} s: waited for {what}"
        time.sleep(0.05)


class Jaeger:
    """``with Jaeger("jaeger") as jaeger``: an all-in-one; skips the test where it is not on PATH."""

    def __init__(
        self,
        version: Version = "jaeger",
        strategies: dict[str, Any] | None = None,
        storage: dict[str, Any] | None = None,
    ) -> None:
        self.version = version
        #: Its storage, in the shape of Jaeger's own configuration; by default memory.
        self._storage = storage or {"memory": {"max_traces": 100000}}
        #: What it serves at ``sampling``, in the shape of Jaeger's own strategies file.
        self._strategies = strategies
        self._executable = shutil.which(version)
        ports = {
            name: free_port()
            for name in ("http", "grpc", "thrift", "udp", "query", "query_grpc", "sampling", "admin", "x", "y")
        }
        self._ports = ports
        self.otlp_http = f"http://127.0.0.1:{ports['http']}"
        self.otlp_grpc = f"http://127.0.0.1:{ports['grpc']}"
        self.thrift_http = f"http://127.0.0.1:{ports['thrift']}/api/traces"
        self.thrift_udp = f"udp://127.0.0.1:{ports['udp']}"
        self.query = f"http://127.0.0.1:{ports['query']}"
        self.sampling = f"http://127.0.0.1:{ports['sampling']}/sampling"

    def _arguments(self, folder: Path) -> list[str]:
        at = {name: f"127.0.0.1:{port}" for name, port in self._ports.items()}
        strategies = None
        if self._strategies is not None:
            strategies = folder / "strategies.json"
            strategies.write_text(json.dumps(self._strategies))
        if self.version == "jaeger-1.51":
            return [
                "--collector.otlp.enabled=true",
                f"--collector.otlp.http.host-port={at['http']}",
                f"--collector.otlp.grpc.host-port={at['grpc']}",
                f"--collector.http-server.host-port={at['thrift']}",
                f"--collector.grpc-server.host-port={at['x']}",
                f"--processor.jaeger-compact.server-host-port={at['udp']}",
                f"--processor.jaeger-binary.server-host-port=127.0.0.1:{free_port()}",
                f"--processor.zipkin-compact.server-host-port=127.0.0.1:{free_port()}",
                f"--query.http-server.host-port={at['query']}",
                f"--query.grpc-server.host-port={at['query_grpc']}",
                f"--http-server.host-port={at['sampling']}",
                f"--admin.http.host-port={at['admin']}",
                f"--reporter.grpc.host-port={at['x']}",
                *([] if strategies is None else [f"--sampling.strategies-file={strategies}"]),
            ]
        config = {
            "service": {
                "extensions": ["jaeger_storage", "jaeger_query", "remote_sampling"],
                "pipelines": {
                    "traces": {
                        "receivers": ["otlp", "jaeger"],
                        "processors": [],
                        "exporters": ["jaeger_storage_exporter"],
                    }
                },
                "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "error"}},
            },
            "extensions": {
                "jaeger_query": {
                    "storage": {"traces": "storage"},
                    "http": {"endpoint": at["query"]},
                    "grpc": {"endpoint": at["query_grpc"]},
                },
                "jaeger_storage": {"backends": {"storage": self._storage}},
                "remote_sampling": {
                    "file": {
                        "path": "" if strategies is None else str(strategies),
                        "default_sampling_probability": 1,
                    },
                    "http": {"endpoint": at["sampling"]},
                    "grpc": {"endpoint": at["y"]},
                },
            },
            "receivers": {
                "otlp": {"protocols": {"grpc": {"endpoint": at["grpc"]}, "http": {"endpoint": at["http"]}}},
                "jaeger": {
                    "protocols": {
                        "thrift_http": {"endpoint": at["thrift"]},
                        "thrift_compact": {"endpoint": at["udp"]},
                    }
                },
            },
            "exporters": {"jaeger_storage_exporter": {"trace_storage": "storage"}},
        }
        path = folder / "config.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        return ["--config", str(path)]

    def __enter__(self) -> Jaeger:
        if self._executable is None:
            pytest.skip(f"needs the program {self.version} on PATH")
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        self._log = (folder / "log").open("w+")
        self._process = subprocess.Popen(
            [self._executable, *self._arguments(folder)], stdout=self._log, stderr=subprocess.STDOUT, cwd=folder
        )
        try:
            wait_until(self._ready, f"{self.version} to start", 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _ready(self) -> bool:
        assert self._process.poll() is None, Path(self._log.name).read_text()[-3000:]
        try:
            return "data" in self.get("/api/services") if self.version == "jaeger-1.51" else self._otlp_ready()
        except (OSError, ValueError):
            return False

    def _otlp_ready(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.query}/api/v3/services", timeout=2).close()
            # Its receivers start one after the other, that of thrift with UDP first: a datagram before that is lost.
            socket.create_connection(("127.0.0.1", self._ports["thrift"]), 2).close()
            urllib.request.urlopen(self.otlp_http, timeout=2).close()
        except urllib.error.HTTPError as answer:
            answer.close()
            return answer.code in (404, 405)
        return True

    def __exit__(self, *exc_info: Any) -> None:
        # Its storage is not needed after the test, and a normal shutdown takes ten seconds.
        self._process.kill()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(15)
        self._log.close()
        self._folder.cleanup()

    def get(self, path: str) -> Any:
        """The JSON that the query API answers to ``path``."""
        with urllib.request.urlopen(f"{self.query}{path}", timeout=5) as response:
            return json.load(response)

    def trace(self, trace_id: str) -> dict[str, Any] | None:
        """The trace in Jaeger's own JSON, or None. The one endpoint of v1 that every version has."""
        try:
            data = self.get(f"/api/traces/{trace_id}").get("data")
        except (urllib.error.HTTPError, ValueError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            return None
        return data[0] if data else None

    def wait_trace(self, trace_id: str, spans: int = 1, timeout: float = 20) -> dict[str, Any]:
        """The trace, once it has ``spans`` spans."""

        def whole() -> dict[str, Any] | None:
            trace = self.trace(trace_id)
            return trace if trace is not None and len(trace["spans"]) >= spans else None

        found: dict[str, Any] = wait_until(whole, f"trace {trace_id} with {spans} spans in {self.version}", timeout)
        return found


def jaeger_fixture(version: Version) -> Callable[[], Iterator[Jaeger]]:
    """A session-scoped fixture function for one version."""

    def fixture() -> Iterator[Jaeger]:
        with Jaeger(version) as jaeger:
            yield jaeger

    return fixture
