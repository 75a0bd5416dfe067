from __future__ import annotations

import time

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.deprecation import MiddlewareMixin

from example_project.blueprints.models import Customer

#: Requests per minute.
LIMITS = {"free": 60, "pro": 6000}


class AuthMiddleware(MiddlewareMixin):
    """Set the request's user to the customer of ``Authorization: Bearer TOKEN``."""

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        if not request.path.startswith("/api/"):
            return None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        customer = Customer.objects.filter(api_token=token).first() if scheme == "Bearer" and token else None
        if customer is None:
            return JsonResponse({"error": "send Authorization: Bearer TOKEN"}, status=401)
        request.user = customer
        return None


class RateLimitMiddleware(MiddlewareMixin):
    """Limit the requests per minute by tier, counted in the cache."""

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        user = getattr(request, "user", None)
        if not isinstance(user, Customer):
            return None
        key = f"rate:{user.pk}:{int(time.time() // 60)}"
        cache.add(key, 0, 120)
        if cache.incr(key) > LIMITS.get(user.tier, 60):
            return JsonResponse({"error": "too many requests"}, status=429)
        return None
