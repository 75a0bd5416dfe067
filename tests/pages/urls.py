"""URLs for the tests of the pages: the admin, a second admin site for operators, and the pages without an admin."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpResponse
from django.urls import include, re_path
from django.urls import path as url_path

from django_tracing.admin import ProcessStatusAdmin, SamplingRuleAdmin, TraceAdmin
from django_tracing.models import ProcessStatus, SamplingRule, Trace

#: A second admin, for operators.
operators = admin.AdminSite(name="operators")
operators.register(Trace, TraceAdmin)
operators.register(ProcessStatus, ProcessStatusAdmin)
operators.register(SamplingRule, SamplingRuleAdmin)

#: An admin that shows traces and nothing else of this app, and one without them.
lonely = admin.AdminSite(name="lonely")
lonely.register(Trace, TraceAdmin)
rules_only = admin.AdminSite(name="rules_only")
rules_only.register(SamplingRule, SamplingRuleAdmin)
rules_only.register(ProcessStatus, ProcessStatusAdmin)

#: URLs of an app that includes the pages below its own namespace, as NetBox's plugins do.
plugin = ([url_path("traces/", include("django_tracing.pages.urls", namespace="pages"))], "plugin")

urlpatterns = [
    url_path("admin/", admin.site.urls),
    url_path("ops/", operators.urls),
    url_path("lonely/", lonely.urls),
    url_path("rules_only/", rules_only.urls),
    url_path("tracing/", include("django_tracing.pages.urls")),
    url_path("plugins/", include(plugin)),
    re_path(r"^people/(?P<pk>\d+)/$", lambda request, pk: HttpResponse()),
]
