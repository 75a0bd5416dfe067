"""Serve the rules to services in other languages by Jaeger's remote sampling protocol: a Django view."""

from __future__ import annotations

import hmac

from django.contrib.auth.decorators import login_not_required
from django.db import Error
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from django_tracing.conf.loading import get_settings
from django_tracing.conf.values import Settings
from django_tracing.context.clients import is_within, vouched_address
from django_tracing.faults import log_hourly
from django_tracing.sampling.database import read_rules
from django_tracing.sampling.strategies import serve

__all__ = ["sampling"]


@login_not_required
@require_safe
@never_cache
def sampling(request: HttpRequest) -> HttpResponse:
    """Answer ``GET sampling?service=NAME`` with the strategy for that service, as Jaeger does.

    403 for clients that are not allowed, 400 without exactly one service, 503 if the rules can't be read.
    """
    answer = _answer(request, get_settings())
    # The service's name is not in the answer, and a browser must not guess that this is a page.
    answer.headers.setdefault("X-Content-Type-Options", "nosniff")
    return answer


def _answer(request: HttpRequest, settings: Settings) -> HttpResponse:
    if not _is_allowed(request, settings):
        return HttpResponse(
            "Not allowed: list this client in TRACING['SAMPLING_CLIENTS'], or send TRACING['SAMPLING_TOKEN'].\n"
            "Behind a proxy, also list the proxy in TRACING['TRUSTED_PROXIES'].\n",
            status=403,
            content_type="text/plain",
        )
    services = request.GET.getlist("service")
    if len(services) != 1 or not services[0]:
        return HttpResponse("'service' parameter must be provided once\n", status=400, content_type="text/plain")
    try:
        rules = read_rules()
    except Error as error:
        log_hourly("sampling-server", "The sampling rules can't be served: %s.", type(error).__name__)
        # Clients keep their last strategy.
        return HttpResponse("The rules can't be read.\n", status=503, content_type="text/plain")
    return JsonResponse(serve(rules, services[0], settings.sample_rate).document)


def _is_allowed(request: HttpRequest, settings: Settings) -> bool:
    token = settings.sampling_token
    if token is not None:
        given = request.headers.get("Authorization", "")
        if hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return True
    return is_within(vouched_address(request.META, settings.trusted_proxies), settings.sampling_clients)
