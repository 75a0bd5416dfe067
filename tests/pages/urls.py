"""The addresses of the tests: the admin, and a second admin site for operators."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpResponse
from django.urls import path as url_path
from django.urls import re_path

from django_tracing.admin import ProcessStatusAdmin, SamplingRuleAdmin, TraceAdmin
from django_tracing.models import ProcessStatus, SamplingRule, Trace

#: A second admin, for operators.
operators = admin.AdminSite(name="operators")
operators.register(Trace, TraceAdmin)
operators.register(ProcessStatus, ProcessStatusAdmin)
operators.register(SamplingRule, SamplingRuleAdmin)

urlpatterns = [
    url_path("admin/", admin.site.urls),
    url_path("ops/", operators.urls),
    re_path(r"^people/(?P<pk>\d+)/$", lambda request, pk: HttpResponse()),
]
