"""Describe Redis commands with the patterns of their keys, never with a key or a value.

OpenTelemetry's Redis instrumentation records ``GET ?``, which becomes ``GET blueprint:*`` here. Single commands are
described in its hook. Pipelines are described in a wrapper of their ``execute``, because its hook is called when the
commands have been cleared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import wraps
from importlib import import_module
from typing import Any, Final

from django_tracing.context.current import current_context, detach, recording
from django_tracing.context.marks import make_mark
from django_tracing.faults import log_once
from django_tracing.instrumentation.patching import Patches
from django_tracing.redaction import cut, key_pattern
from django_tracing.redaction.patterns import pattern
from django_tracing.untraced import SUPPRESS

__all__ = ["request_hook", "statement_of", "unwrap_pipelines", "wrap_pipelines"]

_LENGTH: Final = 2000
_MOST_COMMANDS: Final = 50
_MOST_ARGUMENTS: Final = 20
_NO_COMMAND: Final = pattern(r"[^A-Z0-9_.]")

#: Commands whose first argument is a key (https://redis.io/docs/latest/commands/).
_KEYED: Final = """
    GET SET SETEX PSETEX SETNX GETSET GETDEL GETEX APPEND STRLEN INCR DECR INCRBY DECRBY INCRBYFLOAT GETRANGE
    SETRANGE GETBIT SETBIT BITCOUNT BITPOS BITFIELD EXPIRE PEXPIRE EXPIREAT PEXPIREAT EXPIRETIME PEXPIRETIME
    TTL PTTL PERSIST TYPE DUMP RESTORE MOVE SORT SORT_RO
    HGET HSET HSETNX HMGET HMSET HGETALL HDEL HEXISTS HINCRBY HINCRBYFLOAT HKEYS HVALS HLEN HSCAN HSTRLEN
    HRANDFIELD HEXPIRE HTTL HPERSIST LPUSH RPUSH LPUSHX RPUSHX LPOP RPOP LRANGE LINDEX LINSERT LLEN LREM LSET
    LTRIM LPOS SADD SREM SMEMBERS SISMEMBER SMISMEMBER SCARD SPOP SRANDMEMBER SSCAN
    ZADD ZREM ZRANGE ZREVRANGE ZRANGEBYSCORE ZREVRANGEBYSCORE ZRANGEBYLEX ZCARD ZCOUNT ZINCRBY ZRANK ZREVRANK
    ZSCORE ZMSCORE ZPOPMIN ZPOPMAX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREMRANGEBYLEX ZSCAN ZRANDMEMBER ZLEXCOUNT
    XADD XLEN XRANGE XREVRANGE XTRIM XACK XPENDING XCLAIM XAUTOCLAIM XDEL PFADD GEOADD GEODIST GEOHASH GEOPOS
    GEOSEARCH JSON.GET JSON.SET JSON.DEL
"""
#: Commands all of whose arguments are keys.
_KEYS: Final = """
    DEL UNLINK EXISTS TOUCH MGET WATCH RENAME RENAMENX SUNION SINTER SDIFF SUNIONSTORE SINTERSTORE
    SDIFFSTORE PFCOUNT PFMERGE
"""
#: Scripts, functions and searches: their arguments are programs and queries.
_BARE: Final = ("EVAL", "FCALL", "FT.", "SCRIPT", "FUNCTION")

_first_is_key: Final = frozenset(_KEYED.split())
_all_are_keys: Final = frozenset(_KEYS.split())

#: The statement of the pipeline that is being executed.
pipeline: Final[ContextVar[str | None]] = make_mark("redis_pipeline", None)
#: The attribute of a span that holds the statement of a single command until the span ends.
ATTRIBUTE: Final = "_django_tracing_statement"


def statement_of(arguments: Sequence[Any]) -> str:
    """Return a command as it may be shown: ``SET blueprint:* ?``."""
    if not arguments:
        return ""
    # A command may be two words in one argument ("CLIENT SETINFO").
    command = _NO_COMMAND.sub("", _text(arguments[0]).upper().partition(" ")[0])[:32]
    if command.startswith(_BARE):
        return command
    shown = [command]
    for number, argument in enumerate(arguments[1 : _MOST_ARGUMENTS + 1]):
        is_key = command in _all_are_keys or (number == 0 and command in _first_is_key)
        shown.append(key_pattern(_text(argument)) if is_key else "?")
    return " ".join(shown)


def _text(value: Any) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value[:1000]).decode("utf-8", "replace")
    return str(value)


def request_hook(span: Any, instance: Any, args: Sequence[Any], kwargs: Any) -> None:
    """Describe a command, when OpenTelemetry's Redis instrumentation has started its span."""
    try:
        if span.is_recording():
            span.__dict__[ATTRIBUTE] = cut(statement_of(args), _LENGTH)
    except Exception:
        log_once("redis", "A Redis command could not be described.")


def _statement_of_pipeline(instance: Any) -> str | None:
    try:
        # Inside a traced cache, OpenTelemetry's instrumentation makes no span.
        if not recording() or current_context().get(SUPPRESS):
            return None
        commands = getattr(instance, "command_stack", None) or getattr(instance, "_command_stack", None)
        if not commands:
            strategy = getattr(instance, "_execution_strategy", None)
            commands = getattr(strategy, "command_queue", None) or getattr(strategy, "_command_queue", None) or ()
        lines = [
            statement_of(command.args if hasattr(command, "args") else command[0])
            for command in list(commands)[:_MOST_COMMANDS]
        ]
        return cut("\n".join(lines), _LENGTH) or None
    except Exception:
        log_once("redis", "A Redis command could not be described.")
        return None


#: Module, class.
_PIPELINES: Final = (
    ("redis.client", "Pipeline"),
    ("redis.cluster", "ClusterPipeline"),
    ("redis.asyncio.client", "Pipeline"),
    ("redis.asyncio.cluster", "ClusterPipeline"),
)
_patches: Final = Patches()


def _traced_async(original: Any) -> Callable[..., Any]:
    @wraps(original)
    async def execute_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = original.__get__(self, type(self))
        if not _patches.active:
            return await call(*args, **kwargs)
        token = pipeline.set(_statement_of_pipeline(self))
        try:
            return await call(*args, **kwargs)
        finally:
            detach(token)

    return execute_async


def _traced(original: Any) -> Callable[..., Any]:
    @wraps(original)
    def execute(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = original.__get__(self, type(self))
        if not _patches.active:
            return call(*args, **kwargs)
        token = pipeline.set(_statement_of_pipeline(self))
        try:
            return call(*args, **kwargs)
        finally:
            detach(token)

    return execute


def wrap_pipelines() -> None:
    """Wrap what OpenTelemetry's instrumentation has put around pipelines."""
    _patches.start()
    for module, name in _PIPELINES:
        try:
            owner = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
        if "execute" in vars(owner):
            _patches.wrap(owner, "execute", _traced_async if ".asyncio." in module else _traced)


def unwrap_pipelines() -> None:
    """Remove the wrappers."""
    _patches.stop()
