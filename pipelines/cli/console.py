"""What a user sees while work goes on: one line when a stage starts, a moving line, one line when it is done.

Lines go to stderr and stdout stays free for the report; in a notebook, which shows stderr as faults, they go to stdout.
On a terminal the moving line is rewritten in place; elsewhere (a file, a CI log) it is printed at most every 10 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines.cli import invocation
from schemas.errors import QuiverError, escaped
from schemas.process.terminal import error_text, progress_stream, width, wrapped

_COLUMN = 34
_SLOW = 10.0
_FAST = 0.2
_PAGE = 2.0
"""Seconds between two texts that `tell` is given."""


def say(text: str) -> None:
    """Print a line of progress, or as many as the terminal needs."""
    _print(wrapped(escaped(text)))


def say_of(label: str, text: str) -> None:
    """A line about a stage: what belongs to its label stands in a column of its own."""
    _print(escaped(labelled(label, text)))


def labelled(label: str, text: str, column: int = _COLUMN) -> str:
    """`label` and `text` side by side where they fit, and otherwise the text in lines below."""
    line = f"{label:<{column}} {text}"
    if len(line) <= width():
        return line
    margin = " " * (column + 1)
    room = width() - len(margin)
    if len(label) <= column and room >= _COLUMN and max(map(len, text.split()), default=0) <= room:
        return wrapped(line, margin)
    return f"{label}\n{wrapped(f'  {text}')}"


def say_error(error: QuiverError) -> None:
    """An error's lines on stderr, its next command as it works here."""
    error.next = invocation.runnable(error.next)
    _print(error_text(error))


_moving: list[str] = []
"""The moving line that stands on the terminal, if one does."""


def _print(lines: str) -> None:
    """Print whole lines where a moving line may stand, which goes first."""
    wipe()
    print(lines, file=progress_stream(), flush=True)


def wipe() -> None:
    """Leave the terminal at the beginning of an empty line."""
    if _moving:
        _moving.clear()
        print("\r\033[K", end="", file=progress_stream(), flush=True)


class Stage:
    """The lines of one stage: `with Stage(label, why) as stage: stage.move("1,024 of 4,096 rows", 0.25)`.

    `tell` is given the same texts, and the share of the work that is done where that is known.
    """

    def __init__(self, label: str, what: str, tell: Callable[[str, float | None], None] = lambda text, share: None):
        self.label, self.what, self._tell = label, what, tell
        self._last_tell = 0.0
        self._terminal = progress_stream().isatty()
        self._start = self._last = time.monotonic()
        self._text = ""

    def __enter__(self) -> Stage:
        say_of(self.label, self.what)
        return self

    def __exit__(self, *_: object) -> None:
        wipe()

    @property
    def seconds(self) -> float:
        """Seconds since the stage started."""
        return time.monotonic() - self._start

    def move(self, text: str, share: float | None = None) -> None:
        """Show how far the stage is, a `share` of its work where that is known; the same text once."""
        now = time.monotonic()
        if now - self._last_tell > _PAGE:
            self._last_tell = now
            self._tell(text, share)
        if text == self._text or now - self._last < (_FAST if self._terminal else _SLOW):
            return
        self._last, self._text = now, text
        if self._terminal:
            wipe()
            _moving.append(_fitting(self.label, text))
            print(f"\r{_moving[0]}", end="", file=progress_stream(), flush=True)
        else:
            say_of(self.label, text)

    def done(self, text: str) -> None:
        """The last line of a stage that went well."""
        self._tell(text, 1.0)
        say_of(self.label, f"{text}, {self.seconds:.1f} s")


def _fitting(label: str, text: str) -> str:
    """`label` and `text` in one line that is no longer than the terminal: what is cut is the label, at its front."""
    room = width() - 2 - len(text)
    short = label if len(label) <= max(room, 1) else f"…{label[len(label) - max(room - 1, 0) :]}"
    return f"{short:<{min(_COLUMN, max(room, 0))}} {text}"[: width() - 1]
