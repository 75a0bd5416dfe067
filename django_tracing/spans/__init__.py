"""Provide the functions with which instrumentations make spans.

Nothing here raises because of tracing: an error of this app costs a span, and is logged once a process.
"""

from __future__ import annotations

from django_tracing.context.current import (
    SuppressedUpstream,
    attach,
    current_context,
    detach,
    open_span,
    outlived,
    recording,
    recording_span,
    span_context,
    suppressed,
    with_span,
    with_suppressed_span,
    without_outlived,
)
from django_tracing.faults import log_once
from django_tracing.spans.attributes import (
    add_event,
    set_attributes,
    set_name,
    set_request_attributes,
    set_shared,
)
from django_tracing.spans.collector import collect
from django_tracing.spans.errors import record_error
from django_tracing.spans.lifecycle import (
    ChildSpan,
    StartedSpan,
    end_child,
    end_span,
    link_to,
    start_child,
    start_current_child,
    start_failed_request_span,
    start_operation,
    start_request_span,
    start_span,
)
from django_tracing.spans.runtime import SCOPE_NAME, Cache, clear_caches, share

__all__ = [
    "SCOPE_NAME",
    "Cache",
    "ChildSpan",
    "StartedSpan",
    "SuppressedUpstream",
    "add_event",
    "attach",
    "clear_caches",
    "collect",
    "current_context",
    "detach",
    "end_child",
    "end_span",
    "log_once",
    "open_span",
    "outlived",
    "record_error",
    "recording",
    "recording_span",
    "set_attributes",
    "set_name",
    "set_request_attributes",
    "set_shared",
    "share",
    "span_context",
    "start_child",
    "start_current_child",
    "link_to",
    "start_failed_request_span",
    "start_operation",
    "start_request_span",
    "start_span",
    "suppressed",
    "with_span",
    "with_suppressed_span",
    "without_outlived",
]
