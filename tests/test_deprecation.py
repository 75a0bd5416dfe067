"""Test that former public names work for two minor versions, with a warning that names the new one."""

from __future__ import annotations

import importlib

import pytest

FORMER = {
    "django_tracing.sampling.refresh.changed": "django_tracing.sampling.rules_changed",
    "django_tracing.sampling.sampler.make_debug_header": "django_tracing.sampling.make_debug_header",
}


def resolve(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(("former", "today"), FORMER.items())
def test_a_former_name_is_the_new_object_with_a_warning(former: str, today: str) -> None:
    with pytest.warns(
        DeprecationWarning, match=rf"{former} is deprecated .* in django-tracing-otel 0\.3\. Use {today}\."
    ) as caught:
        found = resolve(former)
    assert found is resolve(today)
    assert caught[0].filename == __file__, "the warning is shown for the caller's line"


@pytest.mark.parametrize("module", ["refresh", "sampler"])
def test_other_names_do_not_exist(module: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'django_tracing.sampling.{module}' has no attribute 'nothing'"):
        resolve(f"django_tracing.sampling.{module}.nothing")
