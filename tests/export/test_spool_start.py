"""Test that a process without spans of its own sends what it finds in the spool when it starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from django_tracing.export.spool import Spool, can_spool
from tests.e2e.processes import ROOT, environment
from tests.export.test_spool import encode
from tests.jaegers import wait_until
from tests.receivers import OTLPReceiver

pytestmark = pytest.mark.skipif(not can_spool(), reason="needs flock()")
MIB = 1024 * 1024

#: Looks at the threads, and then waits, forked or not, until its input ends.
PROCESS = """
import os, sys, threading
from django_tracing.export import spool_start
spool_start._SHORTEST = spool_start._LONGEST = 1.5
import django
django.setup()
forks = sys.argv[1] == "forks"
print([thread.name for thread in threading.enumerate() if "spool" in thread.name], flush=True)
if forks:
    child = os.fork()
    if child:
        print([thread.name for thread in threading.enumerate() if "tracing" in thread.name], flush=True)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sys.stdin.read()
"""


def start(spool: Spool, receiver: OTLPReceiver, word: str) -> subprocess.Popen[str]:
    tracing = {"SPOOL": {"PATH": str(spool.folder), "MAX_BYTES": 4 * MIB}}
    return subprocess.Popen(
        # Forking a process that has threads is a warning.
        [sys.executable, "-W", "error", "-c", PROCESS, word],
        cwd=ROOT,
        env=environment(JAEGER_ENDPOINT=receiver.endpoint, TRACING_SETTINGS=json.dumps(tracing)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("word", ["stays", "forks"])
def test_an_idle_process_sends_what_another_one_left(word: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 4 * MIB)
    for number in range(3):
        spool.store(encode(2, f"left{number}"))
    with OTLPReceiver() as receiver, start(spool, receiver, word) as process:
        receiver.wait_for(6)
        wait_until(lambda: spool.contents().batches == 0, "an empty spool")
        output, errors = process.communicate(timeout=60)
        names = sorted(span.name for span in receiver.spans)
    assert process.returncode == 0, errors
    assert errors == ""
    assert names == sorted(f"left{number}-{span}" for number in range(3) for span in range(2)), "each one once"
    before, *parent = output.splitlines()
    assert before == "['django_tracing.spool']"
    # The child has sent them: the process that forks has no threads.
    assert parent == (["[]"] if word == "forks" else [])


def test_without_anything_in_the_spool_there_is_no_thread(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 4 * MIB)
    spool.prepare()
    (spool.folder / "lock").touch()
    with OTLPReceiver() as receiver, start(spool, receiver, "stays") as process:
        output, errors = process.communicate(timeout=60)
    assert (output, errors) == ("[]\n", "")
