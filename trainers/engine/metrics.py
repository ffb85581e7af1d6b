"""What a run tells while it runs: one line on stderr for people, JSON lines for everything else.

A `Journal` is a file of JSON lines, each with its `step`; a resumed run rewinds it to the step it goes on from, so
that it reads as if nothing had happened. A log that cannot be written is reported once and never stops a run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO


class Journal:
    """A file of JSON lines; `after` is the last step whose lines are kept from a run before. Without a path,
    nowhere.
    """

    def __init__(self, path: Path | None, after: int) -> None:
        self.path = path
        self._file: TextIO | None = None
        if path is None:
            return
        try:
            kept = [line for line in _lines(path) if line["step"] <= after]
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(path.name + ".new")
            fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            os.replace(fresh, path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            self._give_up(error)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line and hand it to the operating system."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _give_up(self, error: OSError) -> None:
        self._file = None
        print(
            f"warning: {self.path} cannot be written ({error.strerror}); training goes on without it", file=sys.stderr
        )


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; a last line torn by a crash is left out."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    lines = []
    for text in whole:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


class Progress:
    """The line on stderr: step, loss, tokens per second, time left. In place on a terminal, else every ten seconds."""

    def __init__(self, first: int, last: int, stream: TextIO | None = None) -> None:
        self.first, self.last = first, last
        self.stream = stream if stream is not None else sys.stderr
        self.terminal = self.stream.isatty()
        self._began = time.monotonic()
        self._said = float("-inf")
        self._tokens = 0

    def step(self, number: int, loss: float, tokens: int) -> None:
        """Step `number` (from 1) is done and read `tokens` tokens."""
        self._tokens += tokens
        now = time.monotonic()
        if number < self.last and now - self._said < (0.2 if self.terminal else 10.0):
            return
        self._said = now
        spent = max(now - self._began, 1e-9)
        left = spent / (number - self.first) * (self.last - number)
        text = f"step {number}/{self.last}  loss {loss:.4f}  {self._tokens / spent:,.0f} tokens/s  {_clock(left)} left"
        self.stream.write(f"\r{text}\033[K" if self.terminal else text + "\n")
        if self.terminal and number == self.last:
            self.stream.write("\n")
        self.stream.flush()

    def say(self, text: str) -> None:
        """A line of its own."""
        self.stream.write(f"\r\033[K{text}\n" if self.terminal else text + "\n")
        self.stream.flush()


def _clock(seconds: float) -> str:
    whole = int(seconds + 0.5)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
