"""Explain what a finding means and what to do."""

from __future__ import annotations

import re
from typing import Final

from django_tracing.diagnosis.probes import Speech

__all__ = [
    "ADVICE",
    "CERTIFICATE",
    "PORTS",
    "SPEECH",
    "STORE",
    "UNTRUSTED",
    "UNTRUSTED_BY_FILE",
    "UNTRUSTED_THRIFT",
    "place",
    "split_message",
]

#: What a port speaks, in words.
SPEECH: Final[dict[Speech, str]] = {
    "otlp": "OTLP over HTTP",
    "otlp-grpc": "gRPC",
    "jaeger": "Jaeger's Thrift over HTTP",
    "query": "Jaeger's query API",
    "tls": "TLS",
    "postgresql": "PostgreSQL's protocol",
    "redis": "Redis' protocol",
}
#: What usually listens on a port, if probing can't find out or if this app has no exporter for it.
PORTS: Final = {
    14250: "Port 14250 is usually Jaeger's old gRPC, which django_tracing does not support.",
    6831: "Port 6831 is usually Jaeger's Thrift over UDP: use udp://HOST:6831.",
    9411: "Port 9411 is usually Zipkin.",
}

#: The meaning and the remedy, by the reason of an ExportError. ``{at}`` is where the endpoint is set.
ADVICE: Final[dict[str, tuple[str, str]]] = {
    "refused": (
        "The host is reachable, but no program listens on that port.",
        "Start Jaeger (or the collector), or correct the host and port in {at}.",
    ),
    "dns": (
        "This machine can't resolve the host name.",
        "Correct the host name in {at}, or run this where the name is known (for example, in the same Docker "
        "network).",
    ),
    "tls": (
        "An encrypted connection is not possible.",
        "Use http:// in {at} if the port is not encrypted, or fix the server's certificate.",
    ),
    "timeout": (
        "The backend hangs or is overloaded, a firewall drops the packets, or another program uses the port.",
        "Check the backend, and the host and port in {at}. To wait longer, use --timeout.",
    ),
    "unreachable": ("There is no network route to that address.", "Check the address in {at}, routes and firewalls."),
    "unauthorized": ("The backend requires other credentials.", ""),
    "not_found": (
        "A server answers, but it does not accept spans at that path.",
        "Correct the path or port in {at}. Jaeger and collectors accept OTLP over HTTP on port 4318 at /v1/traces.",
    ),
    "wrong_protocol": (
        "The program on that port uses another protocol.",
        "Correct the port in {at}. Jaeger and collectors accept OTLP over HTTP on port 4318 and over gRPC on port "
        "4317. Jaeger accepts Thrift over HTTP on port 14268 at /api/traces.",
    ),
    "compression": ("The backend, or a proxy in front of it, does not support gzip.", ""),
    "rejected": (
        "The backend understood the spans, but rejected them (for example, because of a quota or the tenant).",
        "Look into the backend's log.",
    ),
    "too_large": (
        "The backend, or a proxy in front of it, accepts no message of that size.",
        "Raise its limit. Spans are sent in smaller messages until it accepts them.",
    ),
    "unavailable": ("The backend is overloaded or partly down.", "Look into its log, and try again later."),
    "failed": ("The exporter itself failed.", "Look up its message, or choose another EXPORTER."),
}
#: The meaning, by the reason of a StoreError.
STORE: Final = {
    "read_only": "This user can't write to the file or its folder.",
    "full": "There is no space for another trace.",
    "busy": "Another process locked the file all the time.",
    "newer": "A newer version of django_tracing uses it, too.",
    "foreign": "django_tracing never writes to a file of another program.",
}
#: The meaning and the remedy, by https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/.
CERTIFICATE: Final = {
    9: ("It is not valid yet, according to this machine's clock.", "Set the clock, or fix the server's certificate."),
    10: ("It has expired.", "Renew the server's certificate."),
    62: ("It is for another name.", "Use a name in {at} that the certificate contains."),
    64: ("It is for another address.", "Use a name in {at} that the certificate contains."),
}
UNTRUSTED: Final = (
    "No authority that this machine trusts has signed it.",
    'Trust its authority: set TRACING["TLS_CA_FILE"] to "/path/to/ca.pem", or {variable}=/path/to/ca.pem in the '
    "environment.",
)
#: The exporter of Thrift has no setting for it.
UNTRUSTED_THRIFT: Final = (UNTRUSTED[0], "Trust its authority: set {variable}=/path/to/ca.pem in the environment.")
UNTRUSTED_BY_FILE: Final = (
    "No authority in {file} has signed it.",
    "Correct {setting}: its file must have the certificate of the authority that has signed the server's.",
)

#: The end of the sentence that describes a problem. The remedy follows.
_SENTENCE: Final = re.compile(r"([.)]) (?=[A-Z])")


def split_message(message: str, default: str) -> tuple[str, str]:
    """Return the problem and the remedy in a message; ``default`` is the remedy of a message without one."""
    problem, _, remedy = _SENTENCE.sub(r"\1\0", message, count=1).partition("\0")
    return problem, remedy or default


def place(source: str) -> str:
    """Return the source of a setting as a part of a sentence."""
    return f"the {source}" if source.startswith("environment") else source
