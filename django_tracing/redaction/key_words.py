"""List the words that stay in cache and Redis keys: those of programs, of libraries' keys and of the site."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["LIBRARIES", "STRUCTURAL", "SiteWords"]


class SiteWords(NamedTuple):
    """The names that the code and the settings of a site use. In lower case and without separators: ``order_item``
    and ``OrderItem`` are ``orderitem``. What is read as a whole is as it stands: zones, heads and prefixes."""

    #: Apps, models, aliases of caches.
    words: frozenset[str] = frozenset()
    #: Tables and columns of the models, which cacheops names in its keys.
    columns: frozenset[str] = frozenset()
    #: Languages and time zones, which end the keys of ``cache_page``.
    languages: frozenset[str] = frozenset()
    zones: frozenset[str] = frozenset()
    #: Scopes of REST framework's throttles, queues of rq.
    scopes: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    #: Every KEY_PREFIX, as it stands in the settings.
    heads: frozenset[str] = frozenset()
    #: What ``TRACING["CACHE_KEY_PREFIXES"]`` lists.
    prefixes: tuple[str, ...] = ()


#: What programs put in keys. None of them is a given name of the United States' census of 1990 or one of its 3,000
#: most common surnames, which keeps out page, key, post, price, new and max; none identifies a person by itself.
_PROGRAMS: Final = """
    cache cached id ids pk uuid slug hash index data object objects item items query queries list total all count
    detail details summary latest recent popular stats report reports
    hourly daily weekly monthly yearly timestamp ttl expires updated created year month week hour minute
    user users account accounts profile profiles customer customers session sessions token tokens auth login logout
    permission permissions perms group groups role roles team teams tenant tenants organization company site sites
    is has by anonymous authenticated active enabled
    api get delete options http https url view views request requests response responses html json xml
    template templates fragment menu sidebar navbar footer header dashboard widget layout locale timezone i18n
    setting settings config flag flags feature features switch switches samples version versions status
    rate limit limits ratelimit rl throttle attempts failures lockout quota
    queue queues task tasks worker workers lock locks mutex semaphore scheduler unacked celeryev pidbox asgi
    order orders cart basket product products category categories catalog invoice invoices payment payments
    article articles comment comments event events message messages notification notifications
    image images thumbnail file files document documents search feed default redis
"""
STRUCTURAL: Final = frozenset(_PROGRAMS.split())

_CELERY: Final = frozenset(["celery", "celeryev", "pidbox", "reply"])
#: rq's, beside its queues' names.
_RQ: Final = """
    clean registries dependencies dependents executions execution results result finished failed wip deferred
    scheduled ready canceled registry suspended pubsub intermediate allowed limited
"""

#: How keys of Django and of well-known libraries begin, which stays as it is, and the words that may stay behind it,
#: beside those that may stay everywhere.
LIBRARIES: Final[dict[str, frozenset[str]]] = {
    "django.contrib.sessions.cache": frozenset(),
    "django.contrib.sessions.cached_db": frozenset(),
    "views.decorators.cache.cache_header.": frozenset(),
    "views.decorators.cache.cache_page.": frozenset(),
    "template.cache.": frozenset(),
    "throttle_anon_": frozenset(),
    "throttle_": frozenset(["burst", "sustained"]),
    "waffle:": frozenset(),
    "axes-": frozenset(),
    "conj:": frozenset(),
    "schemes:": frozenset(),
    "rq:job:": frozenset(_RQ.split()),
    "rq:": frozenset(_RQ.split()),
    "celery-task-meta-": frozenset(),
    "celery-taskset-meta-": frozenset("jst"),
    "chord-unlock-": frozenset(),
    "_kombu.binding.": _CELERY,
    "_kombu.binding_permanent.": _CELERY,
    "_kombu.binding_deadlines": frozenset(),
    ".celery.pidbox": frozenset(),
    ".reply.celery.pidbox": frozenset(),
}
