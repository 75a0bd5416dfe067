"""Management commands: ``command.send_invoices``, for those that ``TRACING["COMMANDS"]`` names.

A command begins a trace, with a correlation id of its own; one that is called within a trace (``call_command``) is a
span of it. Its arguments are never recorded: they are values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from django_tracing import spans
from django_tracing.conf.loading import get_settings
from django_tracing.semconv.names import COMMAND_EXIT_STATUS, COMMAND_NAME, OPERATION_TYPE

__all__ = ["install", "is_available", "uninstall"]

#: What ``COMMANDS = True`` leaves out: what runs for as long as somebody wants, and what developers type.
_LEFT_OUT: Final = frozenset(
    [
        *("runserver", "runserver_plus", "testserver", "shell", "shell_plus", "dbshell", "test", "check"),
        *("migrate", "makemigrations", "showmigrations", "sqlmigrate", "squashmigrations", "optimizemigration"),
        *("startproject", "startapp", "makemessages", "compilemessages", "diffsettings", "help", "version"),
        *("check_tracing", "traces", "trace_dependencies"),
        *("db_worker", "rqworker", "qcluster", "runworker", "celery", "process_tasks"),
    ]
)

_installed = False
_original: Callable[..., Any] | None = None
_traced: Callable[..., Any] | None = None


def is_available() -> bool:
    return True


def install() -> None:
    """Traces the commands that the settings name; touches nothing where they name none."""
    global _installed, _original, _traced
    if _installed or not get_settings().commands:
        return
    _installed = True
    if _traced is None:
        _original = BaseCommand.execute
        _traced = _tracing(_original)
        BaseCommand.execute = _traced  # type: ignore[method-assign]


def uninstall() -> None:
    """Takes it back; what somebody else has put around ours stays, and ours in it, which then does nothing."""
    global _installed, _original, _traced
    _installed = False
    if _traced is not None and BaseCommand.execute is _traced:
        BaseCommand.execute = _original  # type: ignore[method-assign,assignment]
        _original = _traced = None


def _tracing(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def execute(self: BaseCommand, *args: Any, **options: Any) -> Any:
        begun = _begin(self) if _installed else None
        if begun is None:
            return original(self, *args, **options)
        token = spans.attach(begun.context)
        try:
            result = original(self, *args, **options)
        except BaseException as error:
            spans.detach(token)
            _end(begun, error)
            raise
        spans.detach(token)
        _end(begun, None)
        return result

    return execute


def _begin(command: BaseCommand) -> spans.StartedSpan | None:
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
    """The name that it is called by: that of its module, in ``management/commands/``."""
    package, _, name = type(command).__module__.rpartition(".")
    return name if package.endswith("management.commands") else type(command).__name__


def _end(begun: spans.StartedSpan, error: BaseException | None) -> None:
    status = _exit_status(error)
    spans.set_attributes(begun.span, {COMMAND_EXIT_STATUS: status})
    # A command that says "exit with 0" has ended well; a CommandError never has, whatever its code.
    begun.end(None if status == 0 and isinstance(error, SystemExit) else error)


def _exit_status(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, (SystemExit, CommandError)):
        # Django hands a CommandError's returncode to sys.exit. Either may be anything.
        code = error.code if isinstance(error, SystemExit) else error.returncode
        if code is None:
            return 0
        # Attributes are 64-bit integers; what is no status of any system is a failure.
        return int(code) if isinstance(code, int) and abs(code) < 2**32 else 1
    # As a shell says it: 128 and the signal's number.
    return 130 if isinstance(error, KeyboardInterrupt) else 1
