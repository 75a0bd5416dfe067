"""Plant markup, addresses, control characters and marks of direction in every stored value, and look where they come out.

In pages, in what commands print, in log lines and in downloads; from the local store and from a hostile Jaeger.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from django_tracing.models import ProcessStatus, SamplingRule
from django_tracing.traces.formats import jaeger_json, otlp_json
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.traces.builders import NOON, blueprint_trace, row
from tests.traces.readers.jaeger.helpers import Server

pytestmark = pytest.mark.django_db

#: Begins and ends each planted value.
BEGIN, END = "qvb", "qve"
#: What a browser, a terminal, a log or a spreadsheet could take for something else than text.
PAYLOAD = (
    "javascript:alert(1)//</td></script><img src=x onerror=alert(1)><script>alert(2)</script>\"'><svg/onload=alert(3)>"
    "{{ 7*7 }}&lt;\u202edrawkcab\u2066\u200f\u061c\u200b\ufeff\u2028\x1b]0;title\x07\x1b[31mred\x1b[2J\x9b32mgreen"
    "\x9d0;t\x9c\x00\x08\r\nINJECTED line\t\x7f\udc80\ud800"
)
#: Not planted: it decides what kind of thing it is.
_KEPT = {"trace_id", "span_id", "parent_id", "kind", "status", "start", "end", "time"}
#: The keys of attributes that pages and commands show in places of their own.
KEYS = (
    *("http.method", "http.url", "http.route", "http.status_code", "http.user_agent", "user.id", "user.subscription"),
    *(
        "user.email",
        "correlation.id",
        "db.system",
        "db.name",
        "db.statement",
        "db.operation",
        "db.sql.table",
        "db.user",
    ),
    *("cache.key", "cache.operation", "cache.system", "peer.service", "net.peer.name", "circuit_breaker.name"),
    *("circuit_breaker.state", "circuit_breaker.outcome", "code.filepath", "code.function", "code.namespace"),
    *("operation.type", "error.type", "sampling.rule", "rate_limit.operation", "messaging.destination"),
)


def planted(value: Any) -> Any:
    """Return ``value`` with the payload in each text, keys included."""
    if isinstance(value, str):
        return f"{BEGIN}{PAYLOAD}{value}{END}"
    if isinstance(value, list):
        return [planted(each) for each in value]
    if isinstance(value, dict):
        return {planted(key): planted(each) for key, each in value.items()}
    return value


def hostile_rows() -> list[dict[str, Any]]:
    """Return a trace with the payload in every column, and in the value of each known attribute."""
    known = dict.fromkeys(KEYS, f"{BEGIN}{PAYLOAD}{END}")
    rows = [
        row(1, 20, 1, "db.select.x", kind="client", start=200, attributes={**known, "operation.type": "database"}),
        row(1, 21, 1, "cache.get.x", kind="client", start=202, attributes={**known, "operation.type": "cache"}),
        row(1, 22, 1, "http.get.x", kind="client", start=204, attributes={**known, "operation.type": "external"}),
        row(1, 23, 1, "x", start=206, attributes={**known, "operation.type": "circuit_breaker"}),
        *(
            row(1, 30 + each, 1, "db.select.n", start=210 + each, kind="client", attributes=known)
            for each in range(6)
        ),
        row(1, 40, 22, "GET /there", kind="server", service="there", attributes=known, start=204),
        *blueprint_trace(),
    ]
    for each in rows:
        each["events"] = [
            *each["events"],
            {
                "name": "exception",
                "time": NOON,
                "attributes": {"exception.type": "E", "exception.message": "m", "exception.stacktrace": "line\nline"},
            },
        ]
        each["links"] = [{"trace_id": "ab" * 16, "span_id": "cd" * 8, "attributes": {"a": "b"}}]
        each["status_message"] = "failed"
    made = []
    for each in rows:
        hostile = {key: value if key in _KEPT else planted(value) for key, value in each.items()}
        hostile["attributes"] |= {
            key: value for key, value in each["attributes"].items() if key in KEYS or not isinstance(value, str)
        }
        hostile["events"] = [
            {**event, "name": planted(event["name"]), "attributes": {
                **event["attributes"], **planted(event["attributes"]),
                **{key: planted(value) for key, value in event["attributes"].items()},
            }}
            for event in each["events"]
        ]  # fmt: skip
        hostile["links"] = [{**link, "attributes": planted(link["attributes"])} for link in each["links"]]
        hostile["resource"] |= {"service.name": hostile["service"]}
        made.append(hostile)
    return made


class Site(NamedTuple):
    root: Client
    trace_id: str

    def pages(self) -> Iterator[tuple[str, str]]:
        """Yield the address and the content of each page, in the admin and without it."""
        trace, span = self.trace_id, f"{1:016x}"
        rule = SamplingRule.objects.get()
        for address in (
            *("", "?attributes=a", "routes/", "map/", f"{trace}/", f"{trace}/?all=1&color=service", f"{trace}/sql/"),
            *(f"{trace}/spans/{span}/", f"{trace}/spans/{20:016x}/?part=1", f"{trace}/compare/?with={trace}"),
            *("?part=results", "map/calls/?caller=there&callee=here&kind=service"),
        ):
            yield self.page(f"/pages/{address}")
        for address in ("", f"{trace}/", f"{trace}/spans/{span}/"):
            yield self.page(f"/admin/django_tracing/trace/{address}")
        for address in (
            *("/admin/django_tracing/processstatus/", "/pages/status/", "/admin/django_tracing/samplingrule/"),
            *(
                "/admin/django_tracing/samplingrule/preview/?path=/x",
                "/pages/rules/",
                "/pages/rules/preview/?path=/x",
            ),
            *(f"/pages/rules/{rule.pk}/", f"/pages/rules/{rule.pk}/delete/"),
        ):
            yield self.page(address)

    def page(self, address: str) -> tuple[str, str]:
        answer = self.root.get(address)
        assert answer.status_code in (200, 404), (address, answer.status_code)
        return address, answer.content.decode()


@pytest.fixture
def site(settings: Any, tmp_path: Path, request: Any) -> Iterator[Site]:
    """A site whose every stored value has a payload, with the traces in the local store or in a hostile Jaeger."""
    where = request.param
    settings.ROOT_URLCONF = "tests.test_access"
    planted_text = f"{BEGIN}{PAYLOAD}{END}"
    rows = hostile_rows()
    store = LocalStore(tmp_path / "traces.sqlite3")
    store.write(rows)
    stored = store.trace(rows[0]["trace_id"])
    assert stored is not None
    tracing = {"EXPORTER": "local", "LOCAL_STORE": str(store.path), "SERVICE_NAME": "shop"}
    # A table of PostgreSQL has neither NUL nor surrogates.
    text = re.sub("[\x00\ud800-\udfff]", "", planted_text)
    fields = ("name", "path", "service", "user_id", "subscription", "header_name", "header_value", "method")
    SamplingRule.objects.create(
        **{name: text[: SamplingRule._meta.get_field(name).max_length or 100] for name in fields}
    )
    now = timezone.now()
    report = json.loads(re.sub(r"\\u(0000|d[89a-f]..)", "", json.dumps({
        "exporter": text, "endpoint": text, "queued": 1, "exported": 2, "dropped": {text: 1}, "last_error": text,
        "state": text, "faults": {text: 3}, "retries": {text: 1}, "sampling": {"rate": 1, "rules": [text]},
    })))  # fmt: skip
    ProcessStatus.objects.create(
        process=text[:100], service=text[:100], host=text[:255], pid=1, started=now, updated=now, report=report
    )
    root = Client()
    root.force_login(User.objects.create(username=text[:150], is_staff=True, is_superuser=True))
    found = Site(root, stored.trace_id)
    if where == "local":
        settings.TRACING = tracing
        yield found
    else:
        with Server(jaeger(where, stored, planted_text)) as server:
            settings.TRACING = {"ENDPOINT": "http://127.0.0.1:1", "QUERY_URL": server.url, "SERVICE_NAME": "shop"}
            yield found
    store.close()


def jaeger(version: str, stored: Any, text: str) -> Any:
    """Return the answers of a hostile Jaeger."""
    v1 = json.loads("".join(jaeger_json(stored.trace_id, iter(stored.spans), 0)))
    v3 = {"result": json.loads("".join(otlp_json(iter(stored.spans))))}
    names = sorted({span.service for span in stored.spans})
    summary = {
        "traceId": stored.trace_id,
        "rootServiceName": text,
        "rootOperationName": text,
        "services": [{"name": name} for name in names],
        "minStartTimeUnixNano": str(NOON),
        "maxEndTimeUnixNano": str(NOON + 10**9),
        "spanCount": 9,
        "errorSpanCount": 1,
    }
    failed = {"data": None, "errors": [{"code": 500, "msg": text}], "error": {"httpCode": 500, "message": text}}

    def answer(path: str) -> tuple[int, Any]:
        asked = urlsplit(path)
        if version == "failing" and asked.query:
            return 500, failed
        if version == "v1" and "/v3/" in asked.path:
            return 404, "no"
        if asked.path.endswith("/trace-summaries"):
            return (200, {"summaries": [summary]}) if asked.query else (400, {"error": {"message": text}})
        if asked.path.endswith("/services"):
            return 200, {"data": names, "services": names}
        if asked.path.endswith("/operations"):
            return 200, {"data": [text], "operations": [{"name": text}]}
        if stored.trace_id in asked.path or asked.path.endswith("/traces"):
            return 200, v1 if version == "v1" else v3
        return 404, failed

    return answer


everywhere = pytest.mark.parametrize("site", ["local", "v1", "v3", "failing"], indirect=True)


class Page(HTMLParser):
    """What a browser makes of a page."""

    #: What this app's templates and those of the admin are made of.
    TAGS = frozenset(
        [
            "a",
            "abbr",
            "aside",
            "article",
            "b",
            "body",
            "br",
            "button",
            "caption",
            "circle",
            "code",
            "col",
            "colgroup",
            "datalist",
            "dd",
            "defs",
            "details",
            "div",
            "dl",
            "dt",
            "em",
            "fieldset",
            "footer",
            "form",
            "g",
            "h1",
            "h2",
            "h3",
            "h4",
            "head",
            "header",
            "hr",
            "html",
            "i",
            "img",
            "input",
            "label",
            "legend",
            "li",
            "line",
            "link",
            "main",
            "marker",
            "meta",
            "nav",
            "ol",
            "optgroup",
            "option",
            "p",
            "path",
            "polygon",
            "polyline",
            "pre",
            "rect",
            "script",
            "section",
            "select",
            "small",
            "span",
            "strong",
            "style",
            "summary",
            "svg",
            "symbol",
            "table",
            "tbody",
            "td",
            "text",
            "textarea",
            "tfoot",
            "th",
            "thead",
            "time",
            "title",
            "tr",
            "ul",
            "use",
        ]  # noqa: SIM905
    )
    ADDRESSES = ("href", "src", "action", "formaction", "xlink:href", "poster", "data")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        #: The elements around each text of the page, and the text.
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.TAGS:
            self.problems.append(f"<{tag}>")
        for name, value in attributes:
            if name.startswith("on") or name == "srcdoc" or (name == "style" and BEGIN in (value or "")):
                self.problems.append(f"{tag} {name}={value!r}")
            if name in self.ADDRESSES and not re.match(
                r"[/?#]|(?:../)?spans/[0-9a-f]{16}/$|https?://127\.0\.0\.1:|$", value or ""
            ):
                self.problems.append(f"{tag} {name}={value!r}")
            if name in self.ADDRESSES and (value or "").startswith("//"):
                self.problems.append(f"{tag} {name}={value!r}")
        if tag not in ("br", "hr", "input", "link", "meta", "col", "path", "rect", "circle", "line"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while tag in self._open:
            if self._open.pop() == tag:
                break

    def handle_data(self, data: str) -> None:
        if "script" in self._open and BEGIN in data:
            self.problems.append(f"in a script: {data!r}")
        self.texts.append((tuple(self._open), data))


#: What turns the direction of the text that follows, and what browsers do not show.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@everywhere
def test_pages_show_values_as_text_and_no_value_changes_the_text_beside_it(site: Site) -> None:
    """No element, script or address comes of a value. Marks of direction are escapes: in texts, titles and labels."""
    shown = escaped = 0
    for address, content in site.pages():
        page = Page(content)
        assert page.problems == [], address
        shown += sum(BEGIN in text for _around, text in page.texts)
        # Rules are written by those who may change them, and shown there by Django's admin.
        if address != "/admin/django_tracing/samplingrule/":
            outside = re.sub('value="[^"]*"', "", content)
            assert not _UNSEEN.search(outside), address
            escaped += outside.count("\\u202e") + outside.count("\\x1b")
    assert min(shown, escaped) > 20, "they are shown"


def printed(*command: str, **options: Any) -> str:
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command(*command, stdout=out, stderr=err, **options)
    except (CommandError, SystemExit) as error:
        err.write(f"{error}\n")
    return out.getvalue() + err.getvalue()


@everywhere
def test_commands_print_nothing_that_a_terminal_obeys(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "django_tracing")
    shown = 0
    for command in (
        *(("traces",), ("traces", site.trace_id), ("traces", "--json"), ("traces", site.trace_id, "--json")),
        *(("traces", "--service", f"{BEGIN}x"), ("trace_dependencies",), ("trace_dependencies", "--format", "json")),
        *(("trace_dependencies", "--format", "dot"), ("trace_dependencies", "--format", "mermaid")),
        *(("tracing_status",), ("tracing_status", "--json"), ("check_tracing", "--timeout", "2")),
    ):
        text = printed(*command)
        obeyed = [each for each in text if not each.isprintable() and each != "\n"]
        assert obeyed == [], (command, text)
        # No value begins a line of its own.
        assert not re.search("^INJECTED", text, re.MULTILINE), command
        shown += text.count(BEGIN)
    assert shown > 5
    for record in caplog.records:
        assert record.getMessage().isprintable(), record


@everywhere
def test_downloads_are_files_of_json_with_a_plain_name(site: Site) -> None:
    for kind in ("otlp", "jaeger"):
        answer = site.root.get(f"/pages/{site.trace_id}/{kind}.json")
        assert answer["X-Content-Type-Options"] == "nosniff"
        if not answer.streaming:
            # The page with the error of the Jaeger.
            assert answer["Content-Type"].startswith("text/html")
            continue
        assert answer["Content-Type"] == "application/json"
        assert re.fullmatch(rf'attachment; filename="[a-z0-9_-]{{1,80}}-{kind}\.json"', answer["Content-Disposition"])
        assert BEGIN in json.dumps(json.loads(answer.getvalue()))
