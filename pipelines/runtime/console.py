"""What a user sees while work goes on: one line when a stage starts, a moving line, one line when it is done.

Lines go to stderr and stdout stays free for the report. On a terminal the moving line is rewritten in place;
elsewhere (a file, a CI log) it is printed at most every ten seconds.
"""

from __future__ import annotations

import os
import sys
import time

from pipelines.runtime import invocation
from schemas.errors import QuiverError, escaped

_WIDTH = 80
_SLOW = 10.0
_FAST = 0.2


def say(text: str) -> None:
    """Print one line of progress on standard error."""
    print(escaped(text), file=sys.stderr, flush=True)


def say_error(error: QuiverError) -> None:
    """An error's lines on stderr, its next command as it works here."""
    error.next = invocation.runnable(error.next)
    say(error.render())


def width() -> int:
    """Characters of a line: `COLUMNS`, or what the terminal says, or 80."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    for stream in (sys.stderr, sys.stdout):
        try:
            return os.get_terminal_size(stream.fileno()).columns or _WIDTH
        except (OSError, ValueError, AttributeError):
            continue
    return _WIDTH


class Stage:
    """The lines of one stage: `with Stage(label, why) as stage: stage.move("1,024 of 4,096 rows")`."""

    def __init__(self, label: str, what: str) -> None:
        self.label, self.what = label, what
        self._terminal = sys.stderr.isatty()
        self._start = self._last = time.monotonic()
        self._open = False

    def __enter__(self) -> Stage:
        say(f"{self.label:<34} {self.what}")
        return self

    def __exit__(self, *_: object) -> None:
        self._wipe()

    @property
    def seconds(self) -> float:
        """Seconds since the stage started."""
        return time.monotonic() - self._start

    def move(self, text: str) -> None:
        """Show how far the stage is."""
        now = time.monotonic()
        if now - self._last < (_FAST if self._terminal else _SLOW):
            return
        self._last = now
        if self._terminal:
            self._wipe()
            print(f"\r{self.label:<34} {text}"[: width() - 1], end="", file=sys.stderr, flush=True)
            self._open = True
        else:
            say(f"{self.label:<34} {text}")

    def done(self, text: str) -> None:
        """The last line of a stage that went well."""
        self._wipe()
        say(f"{self.label:<34} {text}, {self.seconds:.1f} s")

    def _wipe(self) -> None:
        if self._open:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._open = False
