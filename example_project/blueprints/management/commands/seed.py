from __future__ import annotations

from typing import Any

from django.core.cache import cache
from django.core.management.base import BaseCommand

from example_project.blueprints.models import Blueprint, Customer
from example_project.blueprints.services import blueprint_breaker, generator_breaker
from example_project.flows import TOKEN


class Command(BaseCommand):
    help = "Create the customers, blueprints and operator of the demo, and reset its caches and breakers."

    def handle(self, **options: Any) -> None:
        customer, _ = Customer.objects.update_or_create(
            username="grace", defaults={"email": "grace@example.com", "tier": "pro", "api_token": TOKEN}
        )
        # The user who views the traces in the admin of this demo, only on this machine.
        operator, made = Customer.objects.get_or_create(username="demo", is_staff=True, is_superuser=True)
        if made:
            operator.set_password("demo")
            operator.save()
        Blueprint.objects.bulk_create(
            (
                Blueprint(pk=number, name=f"blueprint {number}", resources=["vm", "disk"], owner=customer)
                for number in range(1, 201)
            ),
            ignore_conflicts=True,
        )
        cache.delete("blueprint:123")
        for breaker in (blueprint_breaker, generator_breaker):
            breaker.close()
