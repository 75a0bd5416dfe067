"""Capture the spans of a block of a test: ``with capture_spans() as spans``, and a TestCase mixin.

While a block is open, every trace that starts in the process is kept, whatever the sampler decides. Spans that start
in the block are not exported, unless ``export`` is true.
"""

from __future__ import annotations

import unittest
from contextlib import suppress
from contextvars import Token
from types import TracebackType

from django_tracing.testing.blocks import collector, current_blocks
from django_tracing.testing.captured import CapturedSpans
from django_tracing.testing.hooks import install

__all__ = ["CaptureSpansMixin", "SpanCapture", "capture_spans"]


class SpanCapture:
    """A block that captures spans, made by :func:`capture_spans`. Enter it once, by ``with`` or ``async with``."""

    def __init__(self, export: bool) -> None:
        self._export = export
        self._spans: CapturedSpans | None = None
        self._token: Token[frozenset[int]] | None = None

    def __enter__(self) -> CapturedSpans:
        if self._spans is not None:
            raise RuntimeError("This capture_spans() has been entered before. Call capture_spans() for each block.")
        install()
        self._spans, self._token = collector.enter(self._export)
        return self._spans

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._spans is not None and self._token is not None
        if error is None:
            self._spans._read()
        collector.leave(self._spans)
        # An async fixture may end in another context than the one it started in. A closed block in it is harmless.
        with suppress(ValueError):
            current_blocks.reset(self._token)

    async def __aenter__(self) -> CapturedSpans:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


def capture_spans(*, export: bool = False) -> SpanCapture:
    """Capture the spans of a block: ``with capture_spans() as spans`` or ``async with capture_spans() as spans``.

    They are not exported unless ``export`` is true. Entering the block raises ImproperlyConfigured, with the reason,
    if nothing is traced.
    """
    return SpanCapture(export)


class CaptureSpansMixin(unittest.TestCase):
    """Provide ``self.spans``, the spans of each test from ``setUp`` on. List it before Django's TestCase."""

    spans: CapturedSpans

    def setUp(self) -> None:
        capture = capture_spans()
        self.spans = capture.__enter__()
        self.addCleanup(capture.__exit__, None, None, None)
        super().setUp()
