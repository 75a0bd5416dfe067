"""Name requests whose pages share a route: by ROUTE_NAME, and for Wagtail, django CMS and GraphQL by themselves."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string

from django_tracing import spans
from django_tracing.conf.values import Settings
from django_tracing.context.databases import QueryRefused, without_databases
from django_tracing.faults import CONTAINED, contained, log_hourly
from django_tracing.redaction import cut, redact_text
from django_tracing.redaction.patterns import pattern
from django_tracing.untraced import Untraced

__all__ = ["load_route_name", "page_name"]


#: Clients choose the names of GraphQL's operations: a process shows so many different ones.
_MOST_OPERATIONS: Final = 200
_OTHER_OPERATION: Final = "GraphQL (other)"
_BATCH: Final = "GraphQL (batch)"
#: Longer bodies are not read a second time.
_LONGEST_BODY: Final = 65_536
_OPERATION_NAME: Final = pattern(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
#: The first operation with a name in a document. One that follows another definition follows its closing brace.
_OPERATION: Final = pattern(r"(?:^|\})[ \t,]*(?:query|mutation|subscription)[ \t]+([A-Za-z_]\w*)", re.MULTILINE)


def page_name(request: HttpRequest, response: HttpResponseBase | None, settings: Settings) -> str | None:
    """Return the name of the requested page or operation; None if the route is the best name. Never raises.

    ``response`` is None if the request ended without one.
    """
    try:
        if settings.route_name is not None:
            name = _given_name(request, response, settings)
            if name is not None:
                return name
        match = request.resolver_match
        if match is None or response is None or response.status_code >= 400:
            return None
        namer = _namer_of(match.func)
        return None if namer is None else namer(request, response)
    except Exception:
        spans.log_once("page_name", "A request could not be named by its page; its route is its name.")
        return None


# ----- ROUTE_NAME


class _Loaded(NamedTuple):
    """The callable of a ``Settings``."""

    settings: Settings
    function: Callable[..., Any] | None
    takes_response: bool


#: The last one, if any.
_loaded: Final[list[_Loaded]] = []


def load_route_name(settings: Settings) -> Callable[..., Any] | None:
    """Return the callable that ROUTE_NAME names. Raises what its import raises."""
    given = settings.route_name
    return import_string(given) if isinstance(given, str) else given


def _load(settings: Settings) -> _Loaded:
    loaded = next(iter(_loaded), None)
    if loaded is None or loaded.settings is not settings:
        function = None
        try:
            with contained():
                function = load_route_name(settings)
        except Exception as error:
            log_hourly("route-name-import", "%s can't be imported: %s", settings.source("ROUTE_NAME"), error)
        loaded = _Loaded(settings, function, function is not None and _takes_two(function))
        _loaded[:] = [loaded]
    return loaded


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True


def _given_name(request: HttpRequest, response: HttpResponseBase | None, settings: Settings) -> str | None:
    _, function, takes_response = _load(settings)
    if function is None:
        return None
    source = settings.source("ROUTE_NAME")
    try:
        with without_databases(), Untraced():
            name = function(request, response) if takes_response else function(request)
    except QueryRefused:
        log_hourly(
            "route-name-query",
            "%s needs a database query, which tracing never causes: the request's span is named by its route. "
            "Use what the view has already loaded.",
            source,
        )
        return None
    # SystemExit and GeneratorExit too: what the user's code raises costs the name, not the response.
    except CONTAINED as error:
        log_hourly("route-name-raised", "%s raised %s.", source, type(error).__name__)
        return None
    if inspect.iscoroutine(name):
        name.close()
        log_hourly("route-name-async", "%s is a coroutine function, which cannot be awaited here.", source)
        return None
    if not isinstance(name, str):
        if name is not None:
            log_hourly("route-name-type", "%s returned %s, not a str or None.", source, type(name).__name__)
        return None
    # Not a secret's first half: what is cut here is not shown.
    limit = settings.max_attribute_length
    return cut(redact_text(" ".join(name[: limit + 1000].split())), limit) or None


# ----- what is known of other packages, which are not imported

_Namer = Callable[[HttpRequest, HttpResponseBase], "str | None"]
#: What names the requests of a view.
_namers: Final[spans.Cache[Any, tuple[_Namer | None]]] = spans.Cache()


def _namer_of(view: Any) -> _Namer | None:
    try:
        known = _namers.get(view)
    except TypeError:  # a view that cannot be hashed
        return _find_namer(view)
    return (known or _namers.keep(view, (_find_namer(view),)))[0]


def _find_namer(view: Any) -> _Namer | None:
    module, name = getattr(view, "__module__", None), getattr(view, "__name__", None)
    if (module, name) == ("wagtail.views", "serve"):
        return _wagtail_page
    if (module, name) == ("cms.views", "details"):
        return _cms_template
    # Graphene's, Strawberry's, and a site's own below them.
    kinds = getattr(getattr(view, "view_class", None), "__mro__", ())
    return _graphql_operation if any(kind.__name__.endswith("GraphQLView") for kind in kinds) else None


def _wagtail_page(request: HttpRequest, response: HttpResponseBase) -> str | None:
    """Return the type of a page: ``blog.BlogPage``."""
    found = request.__dict__.get("_wagtail_route_for_request")
    label = None if found is None else found[0]._meta.label
    return label if isinstance(label, str) else None


def _cms_template(request: HttpRequest, response: HttpResponseBase) -> str | None:
    """Return the template of a page, which is the nearest to a type that django CMS has: ``cms:article.html``."""
    template = getattr(response, "template_name", None)
    return f"cms:{template}" if isinstance(template, str) else None


_operations: Final[set[str]] = set()


def _graphql_operation(request: HttpRequest, response: HttpResponseBase) -> str | None:
    """Return the name of an operation: ``graphql:ListOrders``."""
    sent = _sent_operation(request)
    if isinstance(sent, list):
        return _BATCH
    name = sent.get("operationName")
    if not name:
        found = _OPERATION.search(str(sent.get("query") or "")[:_LONGEST_BODY])
        name = found and found[1]
    if not name:
        return None
    if not isinstance(name, str):
        return _OTHER_OPERATION
    if name not in _operations:
        if (
            len(_operations) >= _MOST_OPERATIONS
            or _OPERATION_NAME.fullmatch(name) is None
            or redact_text(name) != name
        ):
            return _OTHER_OPERATION
        _operations.add(name)
    return f"graphql:{name}"


def _sent_operation(request: HttpRequest) -> Any:
    """Return what the client sent, as far as the view has read it: a dict, or a list of several operations."""
    try:
        parameters = request.GET
    except SuspiciousOperation:  # more parameters than Django reads: the view has not read them either
        return {}
    if "query" in parameters or "operationName" in parameters:
        return parameters
    form = request.__dict__.get("_post")
    body = request.__dict__.get("_body")
    if form:
        # With files, the operation is one of the fields.
        body = form.get("operations")
        if body is None:
            return form
    if not body or len(body) > _LONGEST_BODY:
        return {}
    if request.content_type == "application/graphql":
        return {"query": body.decode(errors="replace")}
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return sent if isinstance(sent, (dict, list)) else {}
