from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import httpx
from django.conf import settings
from django.core.cache import cache
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from example_project.blueprints import services
from example_project.blueprints.models import Blueprint


def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


# ----- api-gateway


def blueprint_list(request: HttpRequest) -> JsonResponse:
    blueprints = Blueprint.objects.filter(owner=request.user.pk).order_by("pk").values("id", "name")[:50]
    return JsonResponse({"blueprints": list(blueprints)})


def blueprint_owners(request: HttpRequest) -> JsonResponse:
    """Show an N+1 problem: one query for the list, and one more for each owner."""
    blueprints = Blueprint.objects.order_by("pk")[:12]
    return JsonResponse({"owners": {blueprint.name: blueprint.owner.username for blueprint in blueprints}})


def blueprint_detail(request: HttpRequest, blueprint_id: int) -> JsonResponse:
    found = cache.get(f"blueprint:{blueprint_id}")
    if found is None:
        blueprint = get_object_or_404(Blueprint, pk=blueprint_id)
        found = {"id": blueprint.pk, "name": blueprint.name, "resources": blueprint.resources}
        cache.set(f"blueprint:{blueprint_id}", found, 60)
    return JsonResponse(found)


@csrf_exempt
@require_POST
def blueprint_validate(request: HttpRequest, blueprint_id: int) -> JsonResponse:
    return JsonResponse(services.validate(blueprint_id))


@csrf_exempt
@require_POST
def iac_generate(request: HttpRequest) -> JsonResponse:
    return JsonResponse(services.generate(123))


def blueprint_export(request: HttpRequest) -> StreamingHttpResponse:
    def line(blueprint: Blueprint) -> str:
        return json.dumps({"id": blueprint.pk, "name": blueprint.name}) + "\n"

    def lines() -> Iterator[str]:
        yield from map(line, Blueprint.objects.order_by("pk").iterator(chunk_size=50))

    async def lines_async() -> AsyncIterator[str]:
        async for blueprint in Blueprint.objects.order_by("pk"):
            yield line(blueprint)

    body = lines_async() if isinstance(request, ASGIRequest) else lines()
    return StreamingHttpResponse(body, content_type="application/x-ndjson")


async def report(request: HttpRequest) -> JsonResponse:
    seen = await cache.aget("report:seen", 0)
    await cache.aset("report:seen", seen + 1, 60)
    count = await Blueprint.objects.acount()
    async with httpx.AsyncClient(timeout=services.CALL_TIMEOUT) as client:
        answer = await client.get(f"{settings.BLUEPRINT_SERVICE_URL}/internal/statistics")
    return JsonResponse({"blueprints": count, "statistics": answer.json(), "seen": seen})


def boom(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("the template of customer grace@example.com could not be read")


# ----- blueprint-service


@csrf_exempt
@require_POST
def internal_validate(request: HttpRequest) -> JsonResponse:
    blueprint = get_object_or_404(Blueprint, pk=json.loads(request.body)["id"])
    return JsonResponse({"id": blueprint.pk, "valid": bool(blueprint.resources)})


def internal_statistics(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"named": Blueprint.objects.exclude(name="").count()})
