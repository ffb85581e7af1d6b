"""What a run tells while it runs: one line on stderr for people, JSON lines for everything else.

A `Journal` is a file of JSON lines, each with its `step`; a resumed run rewinds it to the step it goes on from, so
that it reads as if nothing had happened. A log that cannot be written is reported once and never stops a run. At every
save the SHA-256 of what stands there goes into a file beside it: a sum in each line would be a column to all who read
the figures.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from schemas.process.terminal import progress_stream
from schemas.store.ownfiles import append_file, own_folder, replace_file


class Journal:
    """A file of JSON lines; `after` is the last step whose lines are kept from a run before. Without a path,
    nowhere.

    `last_written` is the last step that stood there before; `best` the lowest value of the figure `best_by` that is
    kept, and its step (None: it never came up, or lines before were altered since). With a leading "-" the highest is
    best.
    """

    def __init__(self, path: Path | None, after: int, best_by: str = "") -> None:
        self.path, self.best_by, self._sign = path, best_by.removeprefix("-"), -1 if best_by.startswith("-") else 1
        self.last_written = 0
        self.best: tuple[float, int] | None = None
        self._file: TextIO | None = None
        self._altered, self._content_digest, self._size = False, hashlib.sha256(), 0
        if path is None:
            return
        try:
            self._altered = after > 0 and _is_altered(path)
            if self._altered:
                print(f"warning: {path} is not as it was written; no best figure will be reported", file=sys.stderr)
            lines = _lines(path)
            self.last_written = max((line["step"] for line in lines), default=0)
            kept = [line for line in lines if line["step"] <= after]
            for line in kept:
                self._compare(line)
            own_folder(path.parent)
            replace_file(path, "".join(self._text(line) for line in kept))
            self._file = io.TextIOWrapper(append_file(path), encoding="utf-8")
            if after > 0:
                self.record_digest()
        except OSError as error:
            self._give_up(error)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line and hand it to the operating system."""
        self._compare(line)
        if self._file is None:
            return
        try:
            self._file.write(self._text(line))
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def record_digest(self) -> None:
        """Put down what the lines up to here are, for the run that goes on from a save."""
        if self.path is None or self._file is None or self._altered:
            return
        try:
            replace_file(_beside(self.path), f"{self._size} {self._content_digest.hexdigest()}\n")
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file of figures; a second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _text(self, line: Mapping[str, Any]) -> str:
        """The line as it is written, counted in what `record_digest` puts down."""
        text = json.dumps(line) + "\n"
        self._content_digest.update(text.encode())
        self._size += len(text)
        return text

    def _compare(self, line: Mapping[str, Any]) -> None:
        value = line.get(self.best_by)
        if self._altered:
            return
        if value is not None and (self.best is None or self._sign * value < self._sign * self.best[0]):
            self.best = (value, line["step"])

    def _give_up(self, error: OSError) -> None:
        self._file = None
        print(
            f"warning: {self.path} cannot be written ({error.strerror}); training goes on without it", file=sys.stderr
        )


def _beside(path: Path) -> Path:
    """The file with the bytes of a journal that were written before the last save, and their SHA-256."""
    return path.with_name(f"{path.name}.sha256")


def _is_altered(path: Path) -> bool:
    """Whether a journal does not begin with what its run put down; False where that put nothing down."""
    if not _beside(path).exists():
        return False
    size, _, written_digest = _beside(path).read_text(encoding="utf-8", errors="replace").strip().partition(" ")
    written = path.read_bytes()[: int(size)] if size.isdecimal() and len(size) < 16 and path.exists() else b""
    return hashlib.sha256(written).hexdigest() != written_digest


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal, up to the first that is damaged; a last line torn by a crash is left out."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    lines = []
    for text in whole:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or type(line.get("step")) is not int:
            break
        lines.append(line)
    return lines


class Progress:
    """The line of progress: how far, how well, how fast. In place on a terminal, else every ten seconds."""

    def __init__(self, first: int, last: int, stream: TextIO | None = None) -> None:
        self.first, self.last = first, last
        self.stream = stream if stream is not None else progress_stream()
        self.terminal = self.stream.isatty()
        self._began = time.monotonic()
        self._shown_at = float("-inf")
        self._tokens = 0

    def step(self, number: int, figures: Mapping[str, float]) -> None:
        """Step `number` (from 1) is done: its loss, lr, seconds, of tokens how many and their padding, and, where it is
        known, mfu.
        """
        self._tokens += int(figures.get("tokens", 0))
        now = time.monotonic()
        if number < self.last and now - self._shown_at < (0.2 if self.terminal else 10.0):
            return
        self._shown_at = now
        spent = max(now - self._began, 1e-9)
        left = spent / (number - self.first) * (self.last - number)
        parts = [f"step {number}/{self.last}", f"loss {figures['loss']:.4f}", f"lr {figures['lr']:.2e}"]
        parts += [f"reward {figures['reward']:.4g}"] if "tokens" not in figures and "reward" in figures else []
        parts += [f"{self._tokens / spent:,.0f} tokens/s"] if "tokens" in figures else []
        parts += [f"{figures['seconds']:.3g} s/step"]
        parts += [f"padding {figures['padding']:.1%}"] if "padding" in figures else []
        parts += [f"MFU {figures['mfu']:.1%}"] if "mfu" in figures else []
        text = "  ".join([*parts, f"{_clock(left)} left"])
        self.stream.write(f"\r{text}\033[K" if self.terminal else text + "\n")
        if self.terminal and number == self.last:
            self.stream.write("\n")
        self.stream.flush()

    def say(self, text: str) -> None:
        """Print a line that the progress line does not overwrite."""
        self.stream.write(f"\r\033[K{text}\n" if self.terminal else text + "\n")
        self.stream.flush()


def _clock(seconds: float) -> str:
    whole = int(seconds + 0.5)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
