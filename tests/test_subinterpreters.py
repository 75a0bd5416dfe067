"""Run the app in subinterpreters: those of mod_wsgi and uWSGI, and isolated ones, which have no daemon threads."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.processes import environment
from tests.receivers import OTLPReceiver

PROGRAM = """
import json, sys
import _interpreters

code = '''
import django
django.setup()
from django.test import Client
from django_tracing import health
assert [Client().get("/empty/").status_code for _ in range(200)] == [200] * 200
print(health().as_dict()["state"], len(health().faults))
'''
interpreter = _interpreters.create(sys.argv[1])
failed = _interpreters.run_string(interpreter, code)
assert failed is None, failed
_interpreters.destroy(interpreter)
"""

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 13) or find_spec("_interpreters") is None, reason="needs subinterpreters (Python 3.13)"
)


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_requests_are_traced_in_a_subinterpreter(kind: str) -> None:
    with OTLPReceiver() as receiver:
        tracing = {"ENDPOINT": receiver.endpoint, "EXPORT_INTERVAL": 0.1}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, kind],
            # psycopg's C module can't be imported in an isolated one.
            env=environment(TRACING_SETTINGS=json.dumps(tracing), TEST_POSTGRES_URL="sqlite:///:memory:"),
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        # All arrive, at the latest when the interpreter ends.
        assert len(receiver.wait_for(200)) == 200
    assert "Traceback" not in done.stderr
    # One line, for all of them.
    assert done.stderr.count("This interpreter has no daemon threads.") == (kind == "isolated")
