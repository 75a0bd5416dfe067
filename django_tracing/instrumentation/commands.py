"""Trace the management commands that ``TRACING["COMMANDS"]`` names, as ``command.send_invoices``.

A command starts a trace, with a correlation id of its own. One that is called inside a trace (``call_command``) is a
span of that trace. Arguments are never recorded: they may contain secrets and personal data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from django_tracing import spans
from django_tracing.conf.loading import get_settings
from django_tracing.instrumentation.patching import Patches
from django_tracing.semconv.names import COMMAND_EXIT_STATUS, COMMAND_NAME, OPERATION_TYPE

__all__ = ["install", "is_available", "uninstall"]

#: Commands that ``COMMANDS = True`` leaves out: servers, workers, and those that developers type.
_LEFT_OUT: Final = frozenset(
    [
        *("runserver", "runserver_plus", "testserver", "shell", "shell_plus", "dbshell", "test", "check"),
        *("migrate", "makemigrations", "showmigrations", "sqlmigrate", "squashmigrations", "optimizemigration"),
        *("startproject", "startapp", "makemessages", "compilemessages", "diffsettings", "help", "version"),
        *("check_tracing", "traces", "trace_dependencies"),
        *("db_worker", "rqworker", "rqworker-pool", "rqcron", "rqscheduler", "qcluster", "run_huey", "rundramatiq"),
        *("run_redis_tasks", "runworker", "celery", "process_tasks"),
    ]
)

_patches: Final = Patches()


def is_available() -> bool:
    return True


def install() -> None:
    """Trace the commands that the settings name. If they name none, nothing is wrapped."""
    if get_settings().commands:
        _patches.start()
        _patches.wrap(BaseCommand, "execute", _traced_execute)


def uninstall() -> None:
    """Stop tracing commands."""
    _patches.stop()


def _traced_execute(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def execute(self: BaseCommand, *args: Any, **options: Any) -> Any:
        started = _start(self) if _patches.active else None
        if started is None:
            return original(self, *args, **options)
        token = spans.attach(started.context)
        try:
            result = original(self, *args, **options)
        except BaseException as error:
            spans.detach(token)
            _end(started, error)
            raise
        spans.detach(token)
        _end(started, None)
        return result

    return execute


def _start(command: BaseCommand) -> spans.StartedSpan | None:
    try:
        name = _name(command)
        wanted = get_settings().commands
        if name in _LEFT_OUT if wanted is True else name not in wanted:
            return None
        return spans.start_operation(f"command.{name}", {OPERATION_TYPE: "command", COMMAND_NAME: name})
    except Exception:
        spans.log_once("command", "A management command could not be traced.")
        return None


def _name(command: BaseCommand) -> str:
    """Return the name that the command is called by: that of its module in ``management/commands/``."""
    package, _, name = type(command).__module__.rpartition(".")
    return name if package.endswith("management.commands") else type(command).__name__


def _end(started: spans.StartedSpan, error: BaseException | None) -> None:
    try:
        status = _exit_status(error)
        spans.set_attributes(started.span, {COMMAND_EXIT_STATUS: status})
        # sys.exit(0) is a success; a CommandError is a failure, whatever its code.
        if status == 0 and isinstance(error, SystemExit):
            error = None
    except Exception:
        spans.log_once("command", "A management command could not be traced.")
    started.end(error)


def _exit_status(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, (SystemExit, CommandError)):
        # Django passes a CommandError's returncode to sys.exit. Either may be any object.
        code = error.code if isinstance(error, SystemExit) else error.returncode
        if code is None:
            return 0
        # Attributes are 64-bit integers. What is not an exit status of any system is a failure.
        return int(code) if isinstance(code, int) and abs(code) < 2**32 else 1
    # As shells report it: 128 plus the signal's number.
    return 130 if isinstance(error, KeyboardInterrupt) else 1
