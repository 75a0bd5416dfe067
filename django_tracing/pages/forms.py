"""Parse and validate the search form."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_tracing.conf.loading import get_settings
from django_tracing.traces import query as parse
from django_tracing.traces.durations import parse_duration
from django_tracing.traces.query import searched_attributes

__all__ = ["RANGES", "DurationField", "MomentField", "SearchForm", "since"]

#: Seconds before now, as the forms send them, and their labels.
RANGES: Final = (
    ("", _("Any time")),
    ("900", _("Last 15 minutes")),
    ("3600", _("Last hour")),
    ("21600", _("Last 6 hours")),
    ("86400", _("Last 24 hours")),
    ("604800", _("Last 7 days")),
)
_LIMITS: Final = (("20", "20"), ("", "50"), ("100", "100"), ("200", "200"), ("500", "500"))


class DurationField(forms.CharField):
    """Parse a duration with its unit, such as ``250ms`` or ``1.5s``, into seconds."""

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        try:
            return parse_duration(text)
        except ValueError:
            raise ValidationError(gettext("Enter a duration with its unit, such as 250ms or 1.5s.")) from None


class MomentField(forms.CharField):
    """Parse an ISO 8601 time into seconds since the epoch. Without an offset, the current time zone applies."""

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        try:
            moment = parse_datetime(text)
        except ValueError:
            moment = None
        if moment is None:
            raise ValidationError(gettext("Enter a date and time, such as 2026-01-31 13:45."))
        if timezone.is_naive(moment):
            moment = timezone.make_aware(moment)
        try:
            return moment.timestamp()
        except (OverflowError, ValueError):
            raise ValidationError(gettext("This date is out of range.")) from None


class SearchForm(forms.Form):
    """The search for traces."""

    service = forms.CharField(label=_("Service"), required=False, max_length=200, widget=forms.Select)
    operation = forms.CharField(label=_("Operation"), required=False, max_length=300)
    min_duration = DurationField(label=_("Minimum duration"), required=False, max_length=20)
    max_duration = DurationField(label=_("Maximum duration"), required=False, max_length=20)
    status_code = forms.IntegerField(label=_("Status code"), required=False, min_value=100, max_value=599)
    user = forms.CharField(label=_("User ID"), required=False, max_length=100)
    correlation_id = forms.CharField(label=_("Correlation ID"), required=False, max_length=200)
    attributes = forms.CharField(label=_("Attributes"), required=False, max_length=1000)
    within = forms.ChoiceField(label=_("Time"), choices=RANGES, required=False)
    start = MomentField(label=_("From"), required=False, max_length=40)
    end = MomentField(label=_("To"), required=False, max_length=40)
    limit = forms.ChoiceField(label=_("Traces per page"), choices=_LIMITS, required=False, initial="")
    errors_only = forms.BooleanField(label=_("Errors only"), required=False)

    def __init__(
        self, *args: Any, services: Sequence[str] = (), operations: Sequence[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.operations = operations
        chosen = str(self.data.get("service", ""))
        known = [*services, *([chosen] if chosen and chosen not in services else [])]
        self.fields["service"].widget.choices = [("", gettext("All")), *((name, name) for name in known)]
        hints = {
            "operation": {"list": "tracing-operations", "placeholder": "GET /items/<int:pk>", "autocomplete": "off"},
            "min_duration": {"placeholder": "250ms"},
            "max_duration": {"placeholder": "1.5s"},
            "attributes": {"placeholder": 'http.method=POST cache.hit=false "db.name=my db"'},
            "start": {"placeholder": "2026-01-31 13:45", "data-moment": ""},
            "end": {"placeholder": "2026-01-31 14:00", "data-moment": ""},
        }
        for name, attributes in hints.items():
            self.fields[name].widget.attrs.update(attributes)

    def clean_attributes(self) -> dict[str, str]:
        try:
            return parse.attributes(self.cleaned_data["attributes"])
        except ValueError as error:
            if not str(error):
                raise ValidationError(gettext("A closing quotation mark is missing.")) from None
            raise ValidationError(
                gettext("“%(word)s” is not an attribute. Enter key=value, such as http.method=POST.")
                % {"word": str(error)}
            ) from None

    def query(self) -> dict[str, Any]:
        """Return the arguments for a reader's ``search``."""
        data = self.cleaned_data
        start = data.get("start")
        if start is None and data.get("within"):
            start = timezone.now().timestamp() - float(data["within"])
        return {
            "service": data.get("service") or None,
            "operation": data.get("operation") or None,
            "min_duration": data.get("min_duration"),
            "max_duration": data.get("max_duration"),
            "errors": bool(data.get("errors_only")),
            "attributes": searched_attributes(
                data.get("attributes") or {},
                opt_in=get_settings().semconv_stability_opt_in,
                status_code=data.get("status_code"),
                user=data.get("user"),
                correlation_id=data.get("correlation_id"),
            ),
            "start": start,
            "end": data.get("end"),
        }

    @property
    def first_fields(self) -> list[forms.BoundField]:
        """The fields that most searches need."""
        return [
            self[name]
            for name in (
                *("service", "operation", "within", "start", "end"),
                *("min_duration", "attributes", "errors_only"),
            )
        ]

    @property
    def more_fields(self) -> list[forms.BoundField]:
        shown = {field.name for field in self.first_fields}
        return [self[name] for name in self.fields if name not in shown]

    @property
    def page_size(self) -> int:
        return int(self.cleaned_data.get("limit") or 50)


def since(within: str) -> float | None:
    """Return the start of one of RANGES in seconds since the epoch; None for any time."""
    return (timezone.now() - timedelta(seconds=float(within))).timestamp() if within else None
