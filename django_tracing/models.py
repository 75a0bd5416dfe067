"""What operators steer from the admin, and what processes tell of themselves: see docs/sampling.md."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

__all__ = ["ProcessStatus", "SamplingCount", "SamplingRule", "Trace"]


class Trace(models.Model):  # noqa: DJ008 - there is none to show
    """No table: traces are stored elsewhere. It gives their pages a place in the admin, and ``view_trace``."""

    class Meta:
        managed = False
        # Said, where Django's own would be: to make it, Django imports the database's driver.
        db_table = "django_tracing_trace"
        verbose_name = _("trace")
        verbose_name_plural = _("traces")
        default_permissions = ("view",)


class SamplingRule(models.Model):
    """How many of the traces that meet its conditions are kept. The first rule that matches decides."""

    class Operation(models.TextChoices):
        REQUEST = "request", _("requests")
        COMMAND = "command", _("management commands")
        TASK = "task", _("tasks")

    name = models.CharField(_("name"), max_length=100, unique=True)
    order = models.PositiveIntegerField(
        _("order"), default=0, db_index=True, help_text=_("The rule with the lowest number that matches decides.")
    )
    enabled = models.BooleanField(_("enabled"), default=True)

    operation = models.CharField(
        _("operation"), max_length=20, blank=True, choices=Operation.choices, help_text=_("Empty: all.")
    )
    method = models.CharField(_("method"), max_length=20, blank=True, help_text=_("Such as POST. Empty: all."))
    path = models.CharField(
        _("path or route"),
        max_length=300,
        blank=True,
        help_text=_(
            "With * for anything and ? for one character, such as /api/*/orders/; after a ~ a regular expression, "
            "such as ~^/api/v[12]/. Of a command or a task, its name. Empty: all."
        ),
    )
    service = models.CharField(
        _("service"), max_length=100, blank=True, help_text=_("The service's name, with * and ?. Empty: all.")
    )
    user_id = models.CharField(_("user id"), max_length=100, blank=True, help_text=_("Empty: all."))
    subscription = models.CharField(
        _("subscription"), max_length=100, blank=True, help_text=_("The user's subscription. Empty: all.")
    )
    header_name = models.CharField(
        _("header"), max_length=100, blank=True, help_text=_("A header that the request has. Empty: any.")
    )
    header_value = models.CharField(
        _("header's value"), max_length=200, blank=True, help_text=_("What that header is. Empty: anything.")
    )

    rate = models.FloatField(
        _("rate"),
        default=100.0,
        validators=[MinValueValidator(0), MaxValueValidator(100)],
        help_text=_("How many of the traces are kept, in per cent."),
    )
    max_per_second = models.FloatField(
        _("at most a second"),
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text=_("How many traces a second are kept at most. Empty: no limit."),
    )
    keep_errors = models.BooleanField(
        _("keep errors"),
        null=True,
        blank=True,
        help_text=_(
            "Whether requests that fail are kept though the rate passes them over. Unknown: as the settings say."
        ),
    )
    keep_slower_than = models.FloatField(
        _("keep slower than"),
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text=_("Slower requests, in seconds, are kept in any case. Empty: as the settings say."),
    )
    valid_until = models.DateTimeField(
        _("valid until"), null=True, blank=True, help_text=_("When the rule ends by itself. Empty: never.")
    )
    updated = models.DateTimeField(_("updated"), auto_now=True)

    class Meta:
        db_table = "django_tracing_samplingrule"
        ordering = ["order", "id"]
        verbose_name = _("sampling rule")
        verbose_name_plural = _("sampling rules")

    def __str__(self) -> str:
        return self.name


class SamplingCount(models.Model):
    """What a process decided by a rule within a minute. Empty on SQLite, where ``StatusFile`` has it."""

    #: Empty: by no rule, as the settings say.
    #: No constraint: to check it, the database would lock the rule that somebody is about to change or delete.
    rule = models.ForeignKey(SamplingRule, models.DO_NOTHING, null=True, related_name="counts", db_constraint=False)
    process = models.CharField(max_length=100)
    #: The minute that it began with.
    minute = models.DateTimeField(db_index=True)
    kept = models.PositiveBigIntegerField(default=0)
    passed_over = models.PositiveBigIntegerField(default=0)

    class Meta:
        db_table = "django_tracing_samplingcount"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.process} {self.minute:%H:%M}: {self.kept} kept, {self.passed_over} passed over"


class ProcessStatus(models.Model):
    """What a process tells of itself every few seconds. Empty on SQLite, where ``StatusFile`` has it."""

    #: Its host, process id and start, as one word.
    process = models.CharField(max_length=100, primary_key=True)
    service = models.CharField(max_length=100)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    started = models.DateTimeField()
    updated = models.DateTimeField(db_index=True)
    #: The exporter's counters, and the sampling in force.
    report = models.JSONField(default=dict)

    class Meta:
        db_table = "django_tracing_processstatus"
        verbose_name = _("process")
        verbose_name_plural = _("status")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.service} {self.host}:{self.pid}"
