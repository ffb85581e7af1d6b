"""Text that fits the terminal: lines of its width, 80 characters where there is none; commands that paste as they are.

A word longer than a line (a path, a piece of JSON) stays whole, so that it can be copied.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import TextIO

from schemas.errors import QuiverError, escaped

PROGRAMS = ("luigi", "quiver", "python", "pip", "ls")
"""What a command that an error names begins with."""

_WIDTH, _LEAST = 80, 40
_INDENT = "    "
_WORD = re.compile(r"""(?:[^\s'"\\]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")+""")


def progress_stream() -> TextIO:
    """Where lines of progress go: standard error; in a notebook, where that looks like faults, standard output."""
    in_notebook = type(sys.stderr).__module__.partition(".")[0] == "ipykernel"
    return sys.stdout if in_notebook else sys.stderr


def width() -> int:
    """Characters of a line: `COLUMNS`, or what the terminal says, or 80; never less than 40."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return max(_LEAST, int(columns))
    for stream in (sys.stderr, sys.stdout):
        try:
            return max(_LEAST, os.get_terminal_size(stream.fileno()).columns or _WIDTH)
        except (OSError, ValueError, AttributeError):
            continue
    return _WIDTH


def from_here(text: str, given: Collection[str] = ()) -> str:
    """`text` with the places below the current folder as seen from it, but for those words that a person has `given`
    so; as it is where that folder has been removed.
    """
    try:
        below = re.compile(rf" {re.escape(os.getcwd())}/(\S*)")
    except FileNotFoundError:
        return text
    return below.sub(lambda place: place[0] if place[0][1:] in given else f" {place[1]}", text)


def wrapped(text: str, indent: str = _INDENT) -> str:
    """`text` over lines of the terminal's width; those that go on begin with `indent`."""
    lines = (
        textwrap.wrap(line, width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]
        for line in text.split("\n")
    )
    return "\n".join(line for several in lines for line in several)


def folded(words: Sequence[str], room: int, indent: str = _INDENT) -> str:
    """The quoted `words` of a command as a shell takes them, over lines of `room` characters where that can be: each
    but the last ends in a backslash. A flag and its value stay on one line where they fit.
    """
    groups: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    pieces = (piece for group in groups for piece in ([" ".join(group)] if len(" ".join(group)) + 6 <= room else group))
    lines: list[str] = []
    for piece in filter(None, pieces):
        if lines and len(lines[-1]) + len(piece) + 3 <= room:
            lines[-1] += f" {piece}"
        else:
            lines.append(f"{indent if lines else ''}{piece}")
    return " \\\n".join(lines)


def shell_words(text: str) -> list[str]:
    """The words of `text` as a shell parts them, with their quotes."""
    return _WORD.findall(text)


_ASSIGNED = re.compile(r"[A-Z_]+=")
"""A variable that a command is given in front of its program."""


def command_words(text: str) -> list[str]:
    """The words of a command, quoted as they are there; none where `text` is a sentence."""
    words = shell_words(text)
    whole = " ".join(words) == " ".join(text.split()) or " ".join(words) == text
    first = next((word for word in words if not _ASSIGNED.match(word)), "")
    program = os.path.basename(first.strip("'\""))
    prose = any(word[-1] in ",;:" for word in words)
    return words if whole and program in PROGRAMS and not prose else []


def error_text(error: QuiverError) -> str:
    """The lines of `error` at the terminal's width; a long command after `next` goes on behind backslashes."""
    fields = dict(error.fields)
    lines = [wrapped(escaped(f"error[{error.code}/{error.slug}]: {error.what}"))]
    pair = [f"{name}: {fields[name]}" for name in ("expected", "found") if name in fields]
    together = f"  {'   '.join(pair)}"
    if len(together) <= width() and "\n" not in together:
        pair = ["   ".join(pair)] if pair else []
    lines += [wrapped(escaped(f"  {part}")) for part in pair]
    lines += [wrapped(escaped(f"  {name}: {fields[name]}")) for name in ("where", "kept") if name in fields]
    if "next" in fields:
        lines.append(next_line(escaped(fields["next"])))
    return "\n".join(lines)


def next_line(text: str) -> str:
    """`  next: ` and what to do, as a command that pastes whole or as a sentence."""
    words = command_words(text)
    if not words or len(text) + 8 <= width():
        return wrapped(f"  next: {text}") if not words else f"  next: {text}"
    return folded(["  next:", *words], width())


def table(rows: Iterable[Sequence[str]], indent: str = "") -> list[str]:
    """Lines of cells in columns, the last column over as many lines as it needs."""
    cells = [tuple(row) for row in rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]) - 1)] if cells else []
    margin = " " * (len(indent) + sum(widths) + 2 * len(widths))
    lines: list[str] = []
    for row in cells:
        head = indent + "".join(f"{cell:<{size}}  " for cell, size in zip(row, widths, strict=False))
        if len(margin) > width() - 32:
            lines += wrapped(head.rstrip(), indent + _INDENT).split("\n")
            lines += wrapped(f"{indent}{_INDENT}{row[-1]}", indent + _INDENT).split("\n")
        else:
            lines += wrapped(head + row[-1], margin).split("\n")
    return lines


def sentence(text: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=[a-z`)\]][.;])(?<! al\.) ", paragraph)[0].rstrip(".;:")
