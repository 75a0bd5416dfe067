"""Answer probes with the state of tracing in this process: a Django view."""

from __future__ import annotations

from typing import Final

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from django_tracing.process_health import health

__all__ = ["health_view"]

#: What a strict probe is answered with 503.
_NOT_SENT: Final = frozenset(("failing", "broken"))


@login_not_required
@require_safe
@never_cache
def health_view(request: HttpRequest) -> JsonResponse:
    """Answer ``GET health`` with ``{"state": "ok"}``, and status 200 whatever the state is.

    With ``?strict``, the status is 503 if no spans are sent though they should be: "failing" or "broken". The answer
    has no more than the word, since probes are anonymous.
    """
    state = health().state
    answer = JsonResponse({"state": state}, status=503 if "strict" in request.GET and state in _NOT_SENT else 200)
    answer.headers.setdefault("X-Content-Type-Options", "nosniff")
    # Django logs each 503 as an error, and there is a probe every few seconds. The log has a line about the backend.
    answer._has_been_logged = True  # type: ignore[attr-defined]
    return answer
