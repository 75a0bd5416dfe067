from __future__ import annotations

from django.contrib.auth.models import AbstractUser
from django.db import models


class Customer(AbstractUser):
    """A user on a subscription tier, known by an API token."""

    tier = models.CharField(max_length=20, default="free")
    api_token = models.CharField(max_length=64, unique=True, null=True, blank=True)  # noqa: DJ001 - NULL is not unique, "" is

    class Meta:
        db_table = "customers"


class Blueprint(models.Model):
    name = models.CharField(max_length=100)
    resources = models.JSONField(default=list)
    owner = models.ForeignKey(Customer, on_delete=models.CASCADE)

    class Meta:
        db_table = "blueprints"

    def __str__(self) -> str:
        return self.name
