"""Test how a test run is detected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_only_the_test_environment_is_a_test_run() -> None:
    """A site with a dummy mail backend that imports Django's test tools isn't a test run and must export its spans."""
    script = """
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.test.utils import setup_test_environment, teardown_test_environment
from django_tracing.conf.under_test import in_tests

EmailBackend()
mail.outbox
recorded = [in_tests()]
setup_test_environment()
recorded.append(in_tests())
teardown_test_environment()
recorded.append(in_tests())
print(recorded)
"""
    answer = subprocess.run(
        [sys.executable, "-c", f"import django\ndjango.setup()\n{script}"],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "[False, True, False]\n", answer.stderr
