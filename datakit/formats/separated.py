"""What is asked of a file of separated values before its cells are read: a header of names, and quotes as RFC 4180 has
them. One that opens a cell is closed, and the cell ends there.

Readers take an open quote at the end of a file, and text behind a closing one: every row up to the next quote is then
inside one cell, and nobody misses them.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Iterator

from schemas.errors import DataError, printable
from schemas.store.storage import shown

_BOM = b"\xef\xbb\xbf"
_MOST_COLUMNS = 4096
_SHOWN = 60
_ESCAPED = re.compile("[\udc80-\udcff]")
"""Bytes that are no UTF-8, as Python decodes them with `surrogateescape`."""


def header(url: str, head: bytes, delimiter: str) -> list[str]:
    """The names of the columns, each once; `DataError` where they are no text in UTF-8."""
    try:
        text = head.removeprefix(_BOM).decode("utf-8", "surrogateescape")
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        names = next(filter(None, rows), [])
    except csv.Error as error:
        raise broken(url, str(error)) from error
    if "\x00" in "".join(names) or any(_ESCAPED.search(name) for name in names):
        raise _no_text(url, head)
    twice = {name for name in names if names.count(name) > 1} if len(names) <= _MOST_COLUMNS else {"too many"}
    if twice:
        raise broken(url, f"a header of {len(names)} columns with {printable(', '.join(sorted(twice)))} twice")
    return names


def closed(url: str, chunks: Iterator[bytes], delimiter: str, most: int) -> Iterator[bytes]:
    """`chunks` as they are; `DataError` with the line where a quote opens that does not end its cell within `most`
    bytes. Blanks may stand behind it.
    """
    quotes = _Quotes(delimiter)
    rest, line = b"\n", 0
    for index, chunk in enumerate(chunks):
        rest += chunk.removeprefix(_BOM) if index == 0 else chunk
        at, sound = quotes.open_at(rest)
        if not sound or len(rest) - at > most:
            raise _unclosed(url, rest[at:], line + rest.count(b"\n", 0, at + 1))
        line += rest.count(b"\n", 0, at)
        rest = rest[at:]
        yield chunk
    at, sound = quotes.open_at(rest + b"\n")
    if not sound or at < len(rest):
        raise _unclosed(url, rest[at:], line + rest.count(b"\n", 0, at + 1))


class _Quotes:
    """How cells in quotes begin and end."""

    def __init__(self, delimiter: str) -> None:
        blanks = b"" if delimiter == " " else b" *"
        self._ends = delimiter.encode() + b"\r\n"
        self._opening = re.compile(b"[" + re.escape(delimiter.encode()) + b'\r\n]"')
        self._body = re.compile(rb'[^"]*(?:""[^"]*)*"(?!")' + blanks)

    def open_at(self, text: bytes) -> tuple[int, bool]:
        """Where the part of `text` begins that needs what follows it, or the cell that goes on behind its quote, and
        whether there is none such. `text` begins with what stands before a cell.
        """
        at = 0
        while (cell := self._opening.search(text, at)) is not None:
            body = self._body.match(text, cell.end())
            if body is None or body.end() == len(text):
                return cell.start(), True
            at = body.end()
            if text[at] not in self._ends:
                return cell.start(), False
        return len(text) - 1, True


def _unclosed(url: str, text: bytes, line: int) -> DataError:
    cell = printable(text[1 : _SHOWN + 1].decode("utf-8", "replace"))
    return DataError(
        "broken-csv",
        f"{shown(url)} is no sound file of separated values: a quote opens a cell and does not end it",
        expected='a quote behind the cell\'s text, then a delimiter or the end of the line; "" for one inside',
        found=cell,
        where=f"line {line} of {shown(url)}",
        kept="nothing was published",
        next="close the quote there, or fetch the file again if it was cut short",
    )


def broken(url: str, why: str, most: int = 1 << 24) -> DataError:
    """The fault of a file that is none of separated values, whose rows have at most so many bytes."""
    return DataError(
        "broken-csv",
        f"{shown(url)} is no sound file of separated values: {why}",
        expected=f"a header and rows of at most {most} bytes, quotes closed",
        kept="nothing was published",
    )


def _no_text(url: str, head: bytes) -> DataError:
    """The fault of a header in another encoding."""
    wide = head[:2] in (b"\xff\xfe", b"\xfe\xff") or 3 * head[:64].count(0) > len(head[:64])
    given = "UTF-32" if b"\x00\x00" in head[:8] else "UTF-16" if wide else "ISO-8859-1"
    return DataError(
        "bad-text",
        f"the header of {shown(url)} is no text in UTF-8 without NUL",
        expected="UTF-8",
        found=f"what looks like {given}" if wide else shown(repr(head[:40])),
        where=f"line 1 of {shown(url)}",
        kept="nothing was published",
        next=f"write it in UTF-8: iconv -f {given} -t UTF-8 {shlex.quote(shown(url))} > utf-8.csv",
    )
