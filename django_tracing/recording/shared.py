"""Share attribute sets between spans.

Most of what our spans carry is carried by thousands of them: a :class:`SharedAttributes` set is checked once, encoded
once, and shared.
"""

from __future__ import annotations

from django_tracing.semconv.names import (
    Attributes,
)

__all__ = ["SharedAttributes"]


class SharedAttributes:
    """Attributes that many spans share, with their place for the encoding; not to be changed."""

    __slots__ = ("attributes", "encoded")

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes
        #: As the exporter last encoded them.
        self.encoded: bytes | None = None
