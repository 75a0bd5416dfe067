"""Redact what leaves the process: SQL, URLs, free text, e-mail addresses, cache keys; limit lengths.

Pure functions on strings, and on exceptions. None of them raises: what one of them cannot deal with becomes
``[redacted]``.
Everything is linear in the length of its input, because all of it is attacker-controlled.
"""

from django_tracing.redaction.commands import redact_commands
from django_tracing.redaction.dialects import Dialect, dialect_of
from django_tracing.redaction.errors import redact_db_error, redact_stacktrace
from django_tracing.redaction.key_words import SiteWords
from django_tracing.redaction.keys import key_pattern
from django_tracing.redaction.names import SensitiveKeys
from django_tracing.redaction.patterns import REDACTED, cut
from django_tracing.redaction.resource import numbers_machines, redact_resource
from django_tracing.redaction.sql import Statement, describe_sql, sanitise_sql
from django_tracing.redaction.stacks import redacted_stack
from django_tracing.redaction.states import redact_tracestate
from django_tracing.redaction.text import mask_email, redact_text, redact_words
from django_tracing.redaction.urls import redact_query, sanitise_url
from django_tracing.redaction.vocabulary import Vocabulary, forget_site_words, use_vocabulary

__all__ = [
    "REDACTED",
    "Dialect",
    "SensitiveKeys",
    "SiteWords",
    "Statement",
    "Vocabulary",
    "cut",
    "describe_sql",
    "dialect_of",
    "forget_site_words",
    "key_pattern",
    "mask_email",
    "numbers_machines",
    "redact_commands",
    "redact_db_error",
    "redact_query",
    "redact_resource",
    "redact_stacktrace",
    "redact_text",
    "redact_tracestate",
    "redact_words",
    "redacted_stack",
    "sanitise_sql",
    "sanitise_url",
    "use_vocabulary",
]
