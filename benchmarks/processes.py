"""Run the processes of a comparison: servers, the receiver, and a worker for each variant's virtual environment."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.variants import REQUIREMENTS

__all__ = ["ROOT", "Receiver", "Worker", "hanging_receiver", "receiver", "virtual_environment"]

ROOT: Final = Path(__file__).resolve().parent.parent
VENVS: Final = ROOT / ".venv-benchmarks"


def virtual_environment(variant: str) -> Path:
    """Return the interpreter of ``variant``'s virtual environment, which is created if it doesn't exist."""
    folder = VENVS / f"{variant}-{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "bin" / "python"
    wanted = [f"--editable={ROOT}" if name == "." else name for name in REQUIREMENTS[variant]]
    mark = folder / ".made-of"
    digest = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()
    if not mark.exists() or mark.read_text() != digest:
        print(f"making the virtual environment of {variant}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*install, *wanted], check=True)
        mark.write_text(digest)
    return python


class Receiver:
    """The receiver's process."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def count(self) -> dict[str, dict[str, int]]:
        """Return the spans and bytes that have arrived, by service."""
        with urllib.request.urlopen(f"{self.url}/spans") as answer:  # noqa: S310
            return json.load(answer)  # type: ignore[no-any-return]


@contextmanager
def receiver() -> Iterator[Receiver]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.receiver"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield Receiver(int(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


@contextmanager
def hanging_receiver() -> Iterator[str]:
    """Yield the address of a receiver that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


class Worker:
    """A benchmarked process, controlled through its standard input."""

    def __init__(self, variant: str, service: str, environment: dict[str, str], **settings: str) -> None:
        self.service = service
        self.process = subprocess.Popen(
            [str(virtual_environment(variant)), "-m", "benchmarks.worker"],
            cwd=ROOT,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "PYTHON", "DJANGO_"))},
                **environment,
                "BENCHMARK_VARIANT": variant,
                "BENCHMARK_SERVICE": service,
                **settings,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.service} ended: see above")
        return json.loads(line)  # type: ignore[no-any-return]

    def send(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
