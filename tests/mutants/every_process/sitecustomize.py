"""Measure each Python process that the tests start: this folder is on its PYTHONPATH."""

import coverage

coverage.process_startup()
