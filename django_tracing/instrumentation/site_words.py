"""What a site calls its own things: the words that may stay in keys of caches and of Redis.

They come from the app registry and from settings, never from a query, and are read with the first key.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from django.apps import apps
from django.conf import settings as django_settings
from django.core.signals import setting_changed

from django_tracing import spans
from django_tracing.conf.loading import get_settings
from django_tracing.redaction import SiteWords, forget_site_words

__all__ = ["read_site_words"]

_logger = logging.getLogger("django_tracing")

_SEPARATORS: Final = re.compile(r"[^A-Za-z0-9]+")
#: Names of apps that are names of accounts too: ``profile:admin`` is somebody's.
_ACCOUNTS: Final = frozenset(["admin", "root", "guest"])
#: Settings that :func:`read_site_words` reads.
_SETTINGS: Final = frozenset(
    [
        *("CACHES", "CACHE_MIDDLEWARE_KEY_PREFIX", "INSTALLED_APPS", "LANGUAGES", "LANGUAGE_CODE", "TIME_ZONE"),
        *("REST_FRAMEWORK", "RQ_QUEUES", "TRACING"),
    ]
)


def read_site_words() -> SiteWords:
    """The words of this site. What cannot be read is left out: its words are stars then."""
    words: set[str] = set()
    columns: set[str] = set()
    try:
        # This app's own are no words of the site.
        configs = [config for config in apps.get_app_configs() if config.label != "django_tracing"]
        words.update(word for config in configs for word in _forms(config.label))
        for model in (model for config in configs for model in config.get_models()):
            words.update(_forms(model.__name__))
            columns.add(_joined(model._meta.db_table))
            columns.update(_joined(str(field.column)) for field in model._meta.local_concrete_fields)
    except Exception:
        _logger.debug("The names of apps and models could not be read for keys.", exc_info=True)
    prefixes = list(_key_prefixes())
    words.update(_joined(alias) for alias in _names(_setting("CACHES")))
    words.update(word for prefix in prefixes for word in _split(prefix))
    return SiteWords(
        words=frozenset(word for word in words if len(word) > 1) - _ACCOUNTS,
        columns=frozenset(columns),
        languages=frozenset(_languages()),
        zones=frozenset(_zones()),
        scopes=frozenset(map(_joined, _names(_value(_setting("REST_FRAMEWORK"), "DEFAULT_THROTTLE_RATES")))),
        queues=frozenset(map(_joined, _names(_setting("RQ_QUEUES")))),
        heads=frozenset(prefixes),
        prefixes=get_settings().cache_key_prefixes,
    )


def _setting(name: str) -> Any:
    return getattr(django_settings, name, None)


def _value(mapping: Any, name: str) -> Any:
    return mapping.get(name) if isinstance(mapping, Mapping) else None


def _names(mapping: Any) -> Iterator[str]:
    # A lazy string is left alone: what it does when it is asked is somebody else's.
    return (name for name in mapping if type(name) is str) if isinstance(mapping, Mapping) else iter(())


def _key_prefixes() -> Iterator[str]:
    caches = _setting("CACHES")
    configured = [_value(cache, "KEY_PREFIX") for cache in caches.values()] if isinstance(caches, Mapping) else []
    for prefix in (*configured, _setting("CACHE_MIDDLEWARE_KEY_PREFIX")):
        if type(prefix) is str and prefix:
            yield prefix


def _languages() -> Iterator[str]:
    languages = _setting("LANGUAGES")
    pairs = (
        [pair for pair in languages if isinstance(pair, (list, tuple))]
        if isinstance(languages, (list, tuple))
        else []
    )
    codes = [code for pair in pairs for code in pair[:1]]
    return (_joined(code) for code in (*codes, _setting("LANGUAGE_CODE")) if type(code) is str)


def _zones() -> Iterator[str]:
    """The site's own time zone. Those that users choose say where they are."""
    return (zone for zone in ("UTC", _setting("TIME_ZONE")) if type(zone) is str)


def _split(name: str) -> list[str]:
    return [word for word in _SEPARATORS.split(name.lower()) if word]


def _joined(name: str) -> str:
    return "".join(_split(name))


def _forms(name: str) -> Iterable[str]:
    """A name as keys have it: ``category`` and ``categories``, whichever of them it is."""
    word = _joined(name)
    plural = (
        f"{word[:-1]}ies"
        if word.endswith("y")
        else f"{word}es"
        if word.endswith(("s", "x", "ch", "sh"))
        else f"{word}s"
    )
    singular = f"{word[:-3]}y" if word.endswith("ies") else word[:-1] if word.endswith("s") else word
    return word, plural, singular


def _changed(*, setting: str, **kwargs: Any) -> None:
    if setting in _SETTINGS:
        forget_site_words()
        spans.clear_caches()


setting_changed.connect(_changed, dispatch_uid="django_tracing.instrumentation.site_words")
