"""Store the sampling rules, what they decided, and the status of the processes: see docs/sampling.md."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

__all__ = ["ProcessStatus", "SamplingCount", "SamplingRule", "Trace"]


class Trace(models.Model):  # noqa: DJ008 - there are no instances to show
    """A model without a table, for the pages of traces in the admin and their permission ``view_trace``."""

    class Meta:
        managed = False
        # Explicit: to derive the name, Django would import the database driver.
        db_table = "django_tracing_trace"
        verbose_name = _("trace")
        verbose_name_plural = _("traces")
        default_permissions = ("view",)


class SamplingRule(models.Model):
    """How many of the traces that meet the conditions are kept. The first rule that matches decides."""

    class Operation(models.TextChoices):
        REQUEST = "request", _("requests")
        COMMAND = "command", _("management commands")
        TASK = "task", _("tasks")

    name = models.CharField(_("name"), max_length=100, unique=True)
    order = models.PositiveIntegerField(
        _("order"),
        default=0,
        db_index=True,
        help_text=_("Of the rules that match, the one with the lowest number decides."),
    )
    enabled = models.BooleanField(_("enabled"), default=True)

    operation = models.CharField(
        _("operation"),
        max_length=20,
        blank=True,
        choices=Operation.choices,
        help_text=_("Leave empty for all operations."),
    )
    method = models.CharField(
        _("method"), max_length=20, blank=True, help_text=_("For example, POST. Leave empty for all methods.")
    )
    path = models.CharField(
        _("path or route"),
        max_length=300,
        blank=True,
        help_text=_(
            "* matches any text and ? matches one character, as in /api/*/orders/. After ~, a regular expression, as "
            "in ~^/api/v[12]/. For a command or a task: its name. Leave empty for all paths."
        ),
    )
    service = models.CharField(
        _("service"),
        max_length=100,
        blank=True,
        help_text=_("The name of the service; * and ? are wildcards. Leave empty for all services."),
    )
    user_id = models.CharField(_("user ID"), max_length=100, blank=True, help_text=_("Leave empty for all users."))
    subscription = models.CharField(
        _("subscription"),
        max_length=100,
        blank=True,
        help_text=_("The user's subscription. Leave empty for all subscriptions."),
    )
    header_name = models.CharField(
        _("header"),
        max_length=100,
        blank=True,
        help_text=_("The name of a header that the request must have. Leave empty to ignore headers."),
    )
    header_value = models.CharField(
        _("header value"),
        max_length=200,
        blank=True,
        help_text=_("The value that the header must have. Leave empty for any value."),
    )

    rate = models.FloatField(
        _("rate"),
        default=100.0,
        validators=[MinValueValidator(0), MaxValueValidator(100)],
        help_text=_("The percentage of matching traces to keep."),
    )
    max_per_second = models.FloatField(
        _("maximum per second"),
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text=_("The most traces to keep per second. Leave empty for no limit."),
    )
    keep_errors = models.BooleanField(
        _("keep errors"),
        null=True,
        blank=True,
        help_text=_(
            "Whether to keep every request that fails, whatever the rate is. “Unknown” uses the setting KEEP_ERRORS."
        ),
    )
    keep_slower_than = models.FloatField(
        _("keep slower than"),
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text=_(
            "Keep every request that takes longer than this many seconds. Leave empty to use KEEP_SLOWER_THAN."
        ),
    )
    valid_until = models.DateTimeField(
        _("valid until"),
        null=True,
        blank=True,
        help_text=_("The rule has no effect after this time. Leave empty for no end."),
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
    """What a process decided by a rule during one minute. Not used on SQLite: ``StatusFile`` replaces it."""

    #: None if no rule matched and the settings decided.
    #: Without a constraint: to check it, the database would lock a rule that somebody may be changing.
    rule = models.ForeignKey(SamplingRule, models.DO_NOTHING, null=True, related_name="counts", db_constraint=False)
    process = models.CharField(max_length=100)
    #: The start of the minute.
    minute = models.DateTimeField(db_index=True)
    kept = models.PositiveBigIntegerField(default=0)
    passed_over = models.PositiveBigIntegerField(default=0)

    class Meta:
        db_table = "django_tracing_samplingcount"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.process} {self.minute:%H:%M}: {self.kept} kept, {self.passed_over} not kept"


class ProcessStatus(models.Model):
    """What a process reports every few seconds. Not used on SQLite: ``StatusFile`` replaces it."""

    #: Host, process ID and start time, as one word.
    process = models.CharField(max_length=100, primary_key=True)
    service = models.CharField(max_length=100)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    started = models.DateTimeField()
    updated = models.DateTimeField(db_index=True)
    #: The counters of the exporter, and the sampling in force.
    report = models.JSONField(default=dict)

    class Meta:
        db_table = "django_tracing_processstatus"
        verbose_name = _("process")
        verbose_name_plural = _("status")
        # To change: to check whether traces arrive.
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return f"{self.service} {self.host}:{self.pid}"
