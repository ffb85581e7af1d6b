"""Quotes of separated values, held to RFC 4180: one that opens a cell is closed, and the cell ends there.

Readers take an open quote at the end of a file, and text behind a closing one: every row up to the next quote is then
inside one cell, and nobody misses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from schemas.errors import DataError, printable
from schemas.store.storage import shown

_BOM = b"\xef\xbb\xbf"
_SHOWN = 60


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
