"""Define the names of attributes, and apply the convention in force.

The default names are those that OpenTelemetry's semantic conventions had before they were declared stable
(version 1.20, which OpenTelemetry's instrumentations still use and users search for). Names without a
convention (``cache.*``, ``circuit_breaker.*``, ``rate_limit.*``, ``operation.type``, ...) are this project's.
``OTEL_SEMCONV_STABILITY_OPT_IN`` replaces them by the stable names (``http``, ``database``) or adds those
(``http/dup``, ``database/dup``), as https://opentelemetry.io/docs/specs/semconv/non-normative/http-migration/
and .../db-migration/ define them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["AttributeValue", "Attributes", "Convention"]

AttributeValue = str | bool | int | float | tuple[str, ...] | tuple[int, ...]
Attributes = dict[str, AttributeValue]

OPERATION_TYPE: Final = "operation.type"
CORRELATION_ID: Final = "correlation.id"
#: The name of a request (or command, or task) that was running when one of its spans was sent, on that span.
REQUEST_NAME: Final = "request.name"
USER_ID: Final = "user.id"
USER_EMAIL: Final = "user.email"
USER_SUBSCRIPTION: Final = "user.subscription"

HTTP_METHOD: Final = "http.method"
HTTP_URL: Final = "http.url"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS_CODE: Final = "http.status_code"
HTTP_USER_AGENT: Final = "http.user_agent"
USER_AGENT_ORIGINAL: Final = "user_agent.original"
HTTP_CLIENT_IP: Final = "http.client_ip"
#: Followed by the parameter's name: ``http.query.page``.
HTTP_QUERY: Final = "http.query."
#: The client disconnected before the whole response was sent.
HTTP_CLIENT_DISCONNECTED: Final = "http.client_disconnected"

ERROR_TYPE: Final = "error.type"
#: The exception came out of a span below, which has its event: it is not one more error of the trace.
ERROR_PROPAGATED: Final = "error.propagated"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

CODE_NAMESPACE: Final = "code.namespace"
CODE_FUNCTION: Final = "code.function"
#: Relative to its entry of ``sys.path``, with ``/``: ``shop/views.py``.
CODE_FILEPATH: Final = "code.filepath"
CODE_LINENO: Final = "code.lineno"
#: Which half of a middleware the span is for: ``request`` or ``response``.
MIDDLEWARE_PHASE: Final = "middleware.phase"

DB_SYSTEM: Final = "db.system"
DB_NAME: Final = "db.name"
DB_USER: Final = "db.user"
DB_STATEMENT: Final = "db.statement"
DB_OPERATION: Final = "db.operation"
DB_TABLE: Final = "db.sql.table"
DB_TABLES: Final = "db.sql.tables"
DB_ROWS: Final = "db.rows"
DB_ALIAS: Final = "db.alias"
#: The number of parameter sets of an ``executemany``.
DB_BATCH_SIZE: Final = "db.operation.batch.size"
DB_POOL_SIZE: Final = "db.pool.size"
DB_POOL_AVAILABLE: Final = "db.pool.available"
DB_POOL_WAITING: Final = "db.pool.waiting"
NET_PEER_NAME: Final = "net.peer.name"
NET_PEER_PORT: Final = "net.peer.port"

CACHE_OPERATION: Final = "cache.operation"
CACHE_SYSTEM: Final = "cache.system"
CACHE_ALIAS: Final = "cache.alias"
CACHE_KEY: Final = "cache.key"
CACHE_HIT: Final = "cache.hit"
CACHE_KEYS: Final = "cache.keys"
CACHE_HITS: Final = "cache.hits"

BREAKER_NAME: Final = "circuit_breaker.name"
BREAKER_SERVICE: Final = "circuit_breaker.service"
BREAKER_STATE: Final = "circuit_breaker.state"
BREAKER_STATE_AFTER: Final = "circuit_breaker.state_after"
BREAKER_OUTCOME: Final = "circuit_breaker.outcome"
BREAKER_FALLBACK: Final = "circuit_breaker.fallback"
BREAKER_FAILURES: Final = "circuit_breaker.failures"

RATE_LIMIT_OPERATION: Final = "rate_limit.operation"
RATE_LIMIT_ALLOWED: Final = "rate_limit.allowed"
RATE_LIMIT_LIMIT: Final = "rate_limit.limit"
RATE_LIMIT_REMAINING: Final = "rate_limit.remaining"
#: Seconds until the window ends.
RATE_LIMIT_RESET: Final = "rate_limit.reset"
#: On the request's own span, when one of its checks rejected it.
RATE_LIMIT_BLOCKED: Final = "rate_limit.blocked"

COMMAND_NAME: Final = "command.name"
COMMAND_EXIT_STATUS: Final = "command.exit_status"

TASK_ID: Final = "task.id"
#: The dotted path of the task's function.
TASK_NAME: Final = "task.name"
TASK_QUEUE: Final = "task.queue"
TASK_BACKEND: Final = "task.backend"
TASK_PRIORITY: Final = "task.priority"
TASK_ATTEMPT: Final = "task.attempt"
#: How many more times it may run.
TASK_RETRIES_LEFT: Final = "task.retries_left"
#: ``successful``, ``failed`` or ``cancelled``, and the words of some queues.
TASK_STATUS: Final = "task.status"

#: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
#: ``send`` or ``process``.
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"

#: On the first span of a trace that this process sampled: the rule's name, and its rate from 0 to 1.
SAMPLING_RULE: Final = "sampling.rule"
SAMPLING_RATE: Final = "sampling.rate"
#: The number of spans of a trace that was kept late which were dropped while it was undecided.
SAMPLING_LOST: Final = "sampling.lost_spans"

TEMPLATE_NAME: Final = "template.name"
#: ``django`` or ``jinja2``.
TEMPLATE_ENGINE: Final = "template.engine"

#: The class of the backend, with its module.
EMAIL_BACKEND: Final = "email.backend"
#: The backend's name in ``MAILERS``.
EMAIL_ALIAS: Final = "email.alias"
EMAIL_MESSAGES: Final = "email.messages"
EMAIL_RECIPIENTS: Final = "email.recipients"
#: How many messages the backend has sent.
EMAIL_SENT: Final = "email.sent"

FILE_OPERATION: Final = "file.operation"
#: The class of the storage, with its module.
FILE_STORAGE: Final = "file.storage"
FILE_BUCKET: Final = "file.bucket"
FILE_LOCATION: Final = "file.location"
FILE_PATTERN: Final = "file.pattern"
#: In bytes.
FILE_SIZE: Final = "file.size"

#: The class of the consumer, with its module.
CHANNELS_CONSUMER: Final = "channels.consumer"
#: ``receive`` or ``disconnect``.
WEBSOCKET_EVENT: Final = "websocket.event"
#: ``text`` or ``binary``, as Datadog's and Elastic's tracers call it.
WEBSOCKET_MESSAGE_TYPE: Final = "websocket.message.type"
#: In characters of text, or bytes.
WEBSOCKET_MESSAGE_LENGTH: Final = "websocket.message.length"
WEBSOCKET_CLOSE_CODE: Final = "websocket.close.code"
#: How many messages went to the client while the span was open.
WEBSOCKET_SENT: Final = "websocket.sent"
#: On the last span of a connection.
WEBSOCKET_TOTAL_RECEIVED: Final = "websocket.total.received"
WEBSOCKET_TOTAL_SENT: Final = "websocket.total.sent"
WEBSOCKET_TOTAL_SECONDS: Final = "websocket.total.seconds"
#: The type of a message of a channel layer.
CHANNEL_TYPE: Final = "channel.type"
#: The class of the channel layer, with its module.
CHANNEL_LAYER: Final = "channel.layer"
#: The patterns of the names of channels and groups.
CHANNEL_NAME: Final = "channel.name"
CHANNEL_GROUP: Final = "channel.group"

#: The name of the signal in its module.
SIGNAL_NAME: Final = "signal.name"

PEER_SERVICE: Final = "peer.service"

_HTTP_COMMON: Final[Mapping[str, str]] = {
    HTTP_METHOD: "http.request.method",
    HTTP_URL: "url.full",
    HTTP_STATUS_CODE: "http.response.status_code",
    HTTP_USER_AGENT: USER_AGENT_ORIGINAL,
    HTTP_CLIENT_IP: "client.address",
}

_DATABASE: Final[Mapping[str, str]] = {
    DB_SYSTEM: "db.system.name",
    DB_NAME: "db.namespace",
    DB_STATEMENT: "db.query.text",
    DB_OPERATION: "db.operation.name",
    DB_TABLE: "db.collection.name",
    DB_ROWS: "db.response.returned_rows",
    NET_PEER_NAME: "server.address",
    NET_PEER_PORT: "server.port",
}

#: Stable names of attributes of OpenTelemetry's instrumentations that need redaction, beside the ones above.
URL_FULL: Final = "url.full"
DB_QUERY_TEXT: Final = "db.query.text"


class Convention:
    """The names of a span's attributes: the default ones, the stable ones, or both.

    ``opt_in`` holds the tokens of ``OTEL_SEMCONV_STABILITY_OPT_IN``.
    """

    __slots__ = ("_duplicate", "_rename", "unchanged")

    def __init__(self, opt_in: Iterable[str] = ()) -> None:
        tokens = frozenset(opt_in)
        self._rename: dict[str, str] = {}
        self._duplicate: dict[str, str] = {}
        for token, names in (("http", _HTTP_COMMON), ("database", _DATABASE)):
            # "/dup" takes precedence, as in OpenTelemetry's instrumentations.
            if f"{token}/dup" in tokens:
                self._duplicate.update(names)
            elif token in tokens:
                self._rename.update(names)
        #: True when the default names are used, so that hot paths can skip :meth:`apply`.
        self.unchanged = not self._rename and not self._duplicate

    def apply(self, attributes: Attributes) -> Attributes:
        """Return ``attributes`` with the names in force, in their order; the same dict where nothing changes."""
        if self.unchanged:
            return attributes
        renamed: Attributes = {}
        for key, value in attributes.items():
            if key in self._duplicate:
                renamed[key] = value
                renamed[self._duplicate[key]] = value
            else:
                renamed[self._rename.get(key, key)] = value
        return renamed

    def wants_stable(self, key: str) -> bool:
        """Return whether ``key`` (a default name) is recorded with its stable name, alone or in addition."""
        return key in self._rename or key in self._duplicate
