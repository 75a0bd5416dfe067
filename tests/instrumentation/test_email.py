"""Test the spans of e-mail, with Django's backends, a real SMTP server and backends of one's own."""

from __future__ import annotations

import smtplib
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.core import mail
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.locmem import EmailBackend as LocMemBackend
from django.test import override_settings
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing import create_span
from django_tracing.instrumentation import email
from tests.conftest import Spans

LOCMEM = "django.core.mail.backends.locmem.EmailBackend"
SMTP = "django.core.mail.backends.smtp.EmailBackend"
#: Stacks have lines of source, in which these are names.
ADA = "ada@example.com"
REFUSED = "refused@example.com"
ERRORS = [
    smtplib.SMTPSenderRefused(550, b"no Lovelace here", ADA),
    smtplib.SMTPDataError(554, b"5.7.1 <ada@example.com>: rejected"),
    ValueError("Invalid address 'Ada Lovelace': no @"),
]
HAS_MAILERS = django.VERSION >= (6, 1)


def backend(path: str, host: str = "", port: int = 0) -> Any:
    """Use a backend for all mail: Django 6.1 deprecates the settings of before."""
    if HAS_MAILERS:
        options = {"host": host, "port": port} if host else {}
        return override_settings(MAILERS={"default": {"BACKEND": path, "OPTIONS": options}})
    return override_settings(EMAIL_BACKEND=path, EMAIL_HOST=host, EMAIL_PORT=port)


def connection() -> Any:
    return mail.mailers.default if HAS_MAILERS else mail.get_connection()


def message(*to: str, **changes: Any) -> EmailMessage:
    return EmailMessage("A secret subject", "A secret body", "shop@example.com", list(to), **changes)


def text_of(spans: Spans) -> str:
    return "\n".join(span.to_json() for span in spans)


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


class Smtp(socketserver.StreamRequestHandler):
    """Handle one connection. A recipient with "refused" in its address is refused, with a talkative reply."""

    def handle(self) -> None:
        self.wfile.write(b"220 test\r\n")
        while line := self.rfile.readline():
            command = line[:4].upper().strip()
            reply = b"250 OK"
            if command == b"RCPT" and b"refused" in line:
                reply = b"550 5.1.1 " + line[8:].strip() + b": no account of Ada Lovelace, ada@example.com"
            elif command == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                while self.rfile.readline() != b".\r\n":
                    pass
            self.wfile.write(reply + b"\r\n")
            if command == b"QUIT":
                return


@pytest.fixture
def smtp() -> Iterator[tuple[str, int]]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "127.0.0.1", server.server_address[1]
        server.shutdown()


def test_send_mail(spans: Spans) -> None:
    with backend(LOCMEM), create_span("page"):
        assert mail.send_mail("Subject", "Body", "shop@example.com", ["ada@example.com", "bo@example.com"]) == 1
    span = spans.one("email.send")
    attributes = attributes_of(span)
    assert span.kind is SpanKind.INTERNAL, "it is sent nowhere"
    assert attributes["operation.type"] == "email"
    assert attributes["email.backend"] == LOCMEM
    assert (attributes["email.messages"], attributes["email.recipients"], attributes["email.sent"]) == (1, 2, 1)
    assert attributes.get("email.alias") == ("default" if HAS_MAILERS else None)


def test_no_address_subject_or_body_is_recorded(spans: Spans) -> None:
    mixed = EmailMultiAlternatives(
        "A secret subject",
        "A secret body",
        "Shop <sender@example.com>",
        ["Ada <ada@example.com>"],
        cc=["copy@example.com"],
        bcc=["blind@example.com"],
        reply_to=["reply@example.com"],
        headers={"X-Secret": "a secret header"},
    )
    mixed.attach("secret.txt", "a secret file", "text/plain")
    with backend(LOCMEM), create_span("page"):
        mixed.send()
    assert attributes_of(spans.one("email.send"))["email.recipients"] == 3
    assert not any(word in text_of(spans).lower() for word in ("secret", "example.com"))


def test_many_messages_are_one_span(spans: Spans) -> None:
    row = ("Subject", "Body", "shop@example.com", ["ada@example.com"])
    with backend(LOCMEM), create_span("page"):
        assert mail.send_mass_mail([row, row, row]) == 3
    attributes = attributes_of(spans.one("email.send"))
    assert (attributes["email.messages"], attributes["email.recipients"], attributes["email.sent"]) == (3, 3, 3)


def test_an_iterator_is_left_to_the_backend(spans: Spans) -> None:
    with backend(LOCMEM), create_span("page"):
        assert connection().send_messages(message(ADA) for _ in range(2)) == 2
    attributes = attributes_of(spans.one("email.send"))
    assert "email.messages" not in attributes
    assert attributes["email.sent"] == 2


def test_smtp(spans: Spans, smtp: tuple[str, int]) -> None:
    with backend(SMTP, *smtp), create_span("page"):
        assert message(ADA).send() == 1
    span = spans.one("email.send")
    assert span.kind is SpanKind.CLIENT
    attributes = attributes_of(span)
    assert (attributes["net.peer.name"], attributes["net.peer.port"]) == smtp
    assert attributes["email.backend"] == SMTP


def test_refused_recipients_are_an_error_without_their_addresses(spans: Spans, smtp: tuple[str, int]) -> None:
    with backend(SMTP, *smtp), create_span("page"), pytest.raises(smtplib.SMTPRecipientsRefused):
        message(REFUSED).send()
    span = spans.one("email.send")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes_of(span)["error.type"] == "smtplib.SMTPRecipientsRefused"
    assert "email.sent" not in attributes_of(span)
    assert not any(word in text_of(spans) for word in ("refused@", "Lovelace", "ada@", "example.com"))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_of_backends_have_no_addresses(error: Exception, spans: Spans) -> None:
    class Backend(BaseEmailBackend):
        def send_messages(self, email_messages: Any) -> int:
            raise error

    with create_span("page"), pytest.raises(type(error)):
        Backend().send_messages([message(ADA)])
    assert attributes_of(spans.one("email.send"))["error.type"].endswith(type(error).__name__)
    assert not any(word in text_of(spans) for word in ("ada@", "Lovelace", "example.com"))


def test_a_server_that_is_down(spans: Spans) -> None:
    with backend(SMTP, "127.0.0.1", 1), create_span("page"), pytest.raises(ConnectionRefusedError):
        message(ADA).send()
    span = spans.one("email.send")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes_of(span)["net.peer.port"] == 1


class Own(LocMemBackend):
    def send_messages(self, messages: Any) -> int:
        return super().send_messages(list(messages))


class Mixin:
    def send_messages(self, messages: Any) -> int:
        return len(messages)


class Mixed(Mixin, BaseEmailBackend):
    pass


def test_a_subclass_that_calls_its_parent_makes_one_span(spans: Spans) -> None:
    with create_span("page"):
        assert Own().send_messages([message(ADA)]) == 1
    span = spans.one("email.send")
    assert attributes_of(span)["email.backend"] == f"{__name__}.Own"
    assert span.kind is SpanKind.CLIENT, "where it sends is not known"


def test_a_method_from_a_mixin_is_traced(spans: Spans) -> None:
    with create_span("page"):
        assert Mixed().send_messages([message(ADA)]) == 1
    assert attributes_of(spans.one("email.send"))["email.backend"] == f"{__name__}.Mixed"


def test_a_backend_that_hands_over_to_another_has_both_spans(spans: Spans) -> None:
    class Failover(BaseEmailBackend):
        def send_messages(self, email_messages: Any) -> int:
            return Own().send_messages(email_messages)

    with create_span("page"):
        assert Failover().send_messages([message(ADA)]) == 1
    inner, outer = spans.named("email.send")
    assert inner.parent is not None and inner.parent.span_id == outer.context.span_id


def test_a_subclass_whose_parent_has_arguments_for_subclasses() -> None:
    class Parent(BaseEmailBackend):
        def __init_subclass__(cls, region: str = "", **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            cls.region = region  # type: ignore[attr-defined]

    class Child(Parent, region="eu"):
        pass

    assert Child.region == "eu"  # type: ignore[attr-defined]
    with pytest.raises(TypeError):

        class Wrong(BaseEmailBackend, region="eu"):  # type: ignore[call-arg]
            pass


def test_strange_messages_are_sent_all_the_same(spans: Spans) -> None:
    with create_span("page"):
        assert Mixed().send_messages([None, 3, object()]) == 3
    assert attributes_of(spans.one("email.send"))["email.recipients"] == 0


def test_a_backend_may_call_its_parameter_what_it_likes(spans: Spans) -> None:
    with create_span("page"):
        assert Mixed().send_messages(messages=[message("ada@example.com")]) == 1
        with pytest.raises(TypeError, match="messages"):
            Mixed().send_messages()  # type: ignore[call-arg]
    first, _ = spans.named("email.send")
    assert attributes_of(first)["email.recipients"] == 1


def test_outside_a_trace_there_is_no_span(spans: Spans) -> None:
    with backend(LOCMEM):
        assert message(ADA).send() == 1
    assert spans.names == []


def test_after_uninstall_the_classes_are_as_before(spans: Spans) -> None:
    email.uninstall()
    try:
        assert "__init_subclass__" not in vars(BaseEmailBackend)
        assert "send_messages" not in vars(Mixed)
        with backend(LOCMEM), create_span("page"):
            message(ADA).send()
        assert spans.names == ["page"]
    finally:
        email.install()
    with create_span("page"):
        Mixed().send_messages([])
    assert "email.send" in spans.names
