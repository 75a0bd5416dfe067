"""Format and redact the stack of an exception, of its causes, and of the exceptions in a group.

The output has the format of Python's :mod:`traceback`. That module reads the whole chain of exceptions before it
prints one, and in its output a message cannot be told from the lines around it, because a message may look like a
frame. Here each message is redacted by itself, and no more is read than is shown.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final

from django_tracing.redaction.errors import OWN_FILES, redact_db_error
from django_tracing.redaction.looks import redact_looks
from django_tracing.redaction.patterns import MARK, REDACTED, cut, pattern, safely
from django_tracing.redaction.text import redact_text

__all__ = ["redacted_stack"]

#: Exceptions that are read, one group's members, how deep in groups, and one's causes.
_MOST_EXCEPTIONS: Final = 60
_MOST_MEMBERS: Final = 15
_MOST_DEPTH: Final = 10
_MOST_CHAINED: Final = 20
_MOST_NOTES: Final = 10
#: The innermost frames of one exception, and all frames: more than there is room for.
_MOST_FRAMES: Final = 150
_MOST_FRAMES_OF_ALL: Final = 400
_NAME_LENGTH: Final = 200

#: Longer lines of source code were generated.
_LINE_LENGTH: Final = 1000
#: A text, a comment, a number of some digits: anything that may be a value.
_LITERAL: Final = pattern(r"[\"'#]|\d{3}")

_END: Final = "+------------------------------------"
_CAUSE: Final = ("", "The above exception was the direct cause of the following exception:", "")
_CONTEXT: Final = ("", "During handling of the above exception, another exception occurred:", "")


@safely(lambda: REDACTED)
def redacted_stack(
    error: BaseException,
    limit: int,
    *,
    is_of_user: Callable[[str], bool] | None = None,
    is_top: Callable[[str], bool] | None = None,
) -> str:
    """Return the redacted stack of ``error``, at most ``limit`` characters of its end. Omissions are marked.

    Frames of this app are left out. ``is_of_user`` tells by a file's name whether its code is the user's: the stack
    then begins with the first such frame, also if it has called what caught the exception. ``is_top`` tells the file
    above which no frame is looked at.
    """
    stacks = _Stacks(limit)
    if is_of_user is not None:
        stacks.is_of_user = is_of_user
        stacks.above = _above(error, is_of_user, is_top)
    text = "\n".join(stacks.chain(error, 0))
    return text if len(text) <= limit else MARK + text[len(text) - limit + 1 :]


class _Stacks:
    """The budget of what may still be read."""

    def __init__(self, limit: int) -> None:
        # Half, so that an endless message leaves room for the frames.
        self.message_length = limit // 2
        self.exceptions = _MOST_EXCEPTIONS
        self.frames = _MOST_FRAMES_OF_ALL
        #: By id; they are kept alive, so that no id is used twice. The causes of an exception are shown once.
        self.seen: dict[int, BaseException] = {}
        #: The callers of the first exception's frames.
        self.above: list[traceback.FrameSummary] = []
        self.is_of_user: Callable[[str], bool] | None = None

    def chain(self, error: BaseException, depth: int) -> list[str]:
        """Return the lines of ``error``, below those of its causes; ``depth`` is the number of groups around it."""
        blocks: list[list[str]] = []
        current: BaseException | None = error
        following: tuple[str, ...] = ()
        while current is not None and (not blocks or id(current) not in self.seen):
            if not self.exceptions or len(blocks) == _MOST_CHAINED:
                blocks.append(_behind(depth, ["[the exceptions before these are left out]", *following]))
                break
            self.exceptions -= 1
            self.seen[id(current)] = current
            blocks.append([*self.one(current, depth), *_behind(depth, following)])
            if current.__cause__ is not None:
                current, following = current.__cause__, _CAUSE
            elif not current.__suppress_context__:
                current, following = current.__context__, _CONTEXT
            else:
                current = None
        # The one that was raised last comes first here, and last in the text.
        return [line for block in reversed(blocks) for line in block]

    def one(self, error: BaseException, depth: int) -> list[str]:
        members = _members(error)
        if members is None:
            heading = ["Traceback (most recent call last):"]
            return _behind(depth, self.stack(error.__traceback__, heading) + self.message(error))
        if depth > _MOST_DEPTH:
            return _behind(depth, ["[deeper exceptions are left out]"])
        inside = depth or 1
        lines = _behind(
            inside,
            self.stack(error.__traceback__, ["Exception Group Traceback (most recent call last):"])
            + self.message(error),
        )
        if not depth and error.__traceback__ is not None:
            lines[0] = lines[0].replace("|", "+", 1)
        indent = "  " * inside
        for number, member in enumerate(members[:_MOST_MEMBERS], 1):
            if not self.exceptions:
                break
            lines.append(f"{indent}{'+-' if number == 1 else '  '}+---------------- {number} ----------------")
            lines += self.chain(member, inside + 1)
        else:
            number = min(len(members), _MOST_MEMBERS) + 1
        left_out = len(members) - number + 1
        if left_out > 0:
            lines.append(f"{indent}{'+-' if number == 1 else '  '}+---------------- ... ----------------")
            lines += _behind(inside + 1, [f"[{left_out} more exception{'s'[: left_out > 1]} left out]"])
        if not lines[-1].endswith(_END):
            lines.append(f"{indent}  {_END}")
        return lines

    def stack(self, frames: TracebackType | None, heading: list[str]) -> list[str]:
        if frames is None:
            return []
        most = min(self.frames, _MOST_FRAMES)
        lines = heading
        if _longer(frames, most):
            lines.append("  [the frames before these are left out]")
        if most:
            summary = traceback.extract_tb(frames, limit=-most)
            self.frames -= len(summary)
            above, self.above = self.above, []
            summary[:] = self.shown([*(above if len(lines) == 1 else ()), *summary])
            lines += [_redacted_line(line) for frame in summary.format() for line in frame.rstrip("\n").split("\n")]
        return lines

    def shown(self, found: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
        """Return the frames from the user's first one on, without this app's; all where nothing would be left."""
        if self.is_of_user is not None:
            found = found[next((n for n, frame in enumerate(found) if self.is_of_user(frame.filename)), 0) :]
        return [frame for frame in found if not frame.filename.startswith(OWN_FILES)] or found

    def message(self, error: BaseException) -> list[str]:
        kind = type(error)
        name = kind.__qualname__
        if kind.__module__ not in ("builtins", "__main__"):
            name = f"{kind.__module__}.{name}"
        said = self.redacted(error)
        lines = [f"{name[:_NAME_LENGTH]}: {said}" if said else name[:_NAME_LENGTH]]
        notes: Any = getattr(error, "__notes__", None)
        if isinstance(notes, (list, tuple)):
            lines += [self.redacted(note) for note in notes[:_MOST_NOTES]]
            if len(notes) > _MOST_NOTES:
                lines.append("[more notes are left out]")
        return "\n".join(lines).split("\n")

    def redacted(self, said: object) -> str:
        try:
            text = str(said)
        except Exception:  # an exception whose __str__ raises
            return ""
        return cut(redact_db_error(text), self.message_length).rstrip()


def _above(
    error: BaseException, is_of_user: Callable[[str], bool], is_top: Callable[[str], bool] | None
) -> list[traceback.FrameSummary]:
    """Return the frames that called the first one of the exception's traceback, from the user's outermost one on."""
    found: list[tuple[FrameType, int]] = []
    users = 0
    frame: FrameType | None = sys._getframe()
    catching = None if error.__traceback__ is None else error.__traceback__.tb_frame
    while frame is not None and frame is not catching:
        frame = frame.f_back
    # If it has returned by now, its callers are at other lines.
    frame = None if frame is None else frame.f_back
    while frame is not None and len(found) < _MOST_FRAMES and not (is_top and is_top(frame.f_code.co_filename)):
        found.append((frame, frame.f_lineno))
        if is_of_user(frame.f_code.co_filename):
            users = len(found)
        frame = frame.f_back
    return traceback.StackSummary.extract(reversed(found[:users]))


def _redacted_line(line: str) -> str:
    # What names a secret in code, as in `self.session = get_session(token)`, gives its value only by a literal.
    if line.startswith("    ") and _LITERAL.search(line) is None:
        return redact_looks(line[:_LINE_LENGTH])
    return redact_text(line)


def _members(error: BaseException) -> tuple[BaseException, ...] | None:
    """Return the exceptions in a group; None if it is no group."""
    # Python 3.10 has them from a package.
    module = sys.modules.get("builtins" if sys.version_info >= (3, 11) else "exceptiongroup")
    group: Any = getattr(module, "BaseExceptionGroup", ())
    members: Any = error.exceptions if isinstance(error, group) else None
    return members if isinstance(members, tuple) else None


def _longer(frames: TracebackType | None, most: int) -> bool:
    for _ in range(most):
        if frames is None:
            return False
        frames = frames.tb_next
    return frames is not None


def _behind(depth: int, lines: list[str] | tuple[str, ...]) -> list[str]:
    """Indent ``lines`` with the bar of exception groups."""
    return [f"{'  ' * depth}| {line}" for line in lines] if depth else list(lines)
