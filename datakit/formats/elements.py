"""A file that is one JSON list, or one object that holds its rows in a list, to blocks of lines: one element a line,
whose outer newlines become blanks. Memory holds one element and one block.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping

import numpy as np

from datakit.formats.lines import BLOCK, Block
from schemas.errors import DataError, counted, printable
from schemas.store.storage import shown

_SPACE = re.compile(r"[ \t\r\n]*")


def array_blocks(url: str, chunks: Iterator[bytes], max_line: int, size: int = BLOCK, key: str = "") -> Iterator[Block]:
    """Blocks of the elements of a file that is one JSON list, or one object that has it under `key`, numbered from 1,
    as many of them may share a line; the names of that object's other members are in the last block. `DataError` with
    line and byte where it is neither, where a name stands twice, and where another member is a list of objects too.
    """
    scan = _Elements(url, chunks, max_line, key)
    rows: list[bytes] = []
    lines: dict[int, int] = {}
    total = 0
    for number, (line, text) in enumerate(scan, 1):
        rows.append(text.replace("\n", " ").replace("\r", " ").encode("utf-8", "surrogatepass") + b"\n")
        lines[number] = line
        total += len(rows[-1])
        if total >= size:
            yield Block(b"".join(rows), np.array([*lines], np.int64), lines=lines)
            rows, lines, total = [], {}, 0
    beside = tuple(name for name in scan.members if name != key)
    if rows or beside:
        yield Block(b"".join(rows), np.array([*lines], np.int64), beside=beside, lines=lines)


class _Elements:
    """Iterates (line, text) over the elements of a JSON list, holding one element and one chunk."""

    def __init__(self, url: str, chunks: Iterator[bytes], max_line: int, key: str = "") -> None:
        self._url, self._chunks, self._max, self._key = url, chunks, max_line, key
        self.members: list[str] = []
        self._lists: dict[str, int] = {}
        self._text, self._at, self._line, self._byte = "", 0, 1, 0
        self._rest = b""
        self._decoder = json.JSONDecoder(strict=True, parse_int=str)  # where it ends is asked, not how much it is

    def __iter__(self) -> Iterator[tuple[int, str]]:
        self._more()
        if self._text.startswith("\ufeff"):
            self._step(1)
        if self._key:
            yield from self._of_object()
        else:
            yield from self._list()
        if self._peek():
            raise self._broken("nothing after the list", self._text[self._at :])

    def _of_object(self) -> Iterator[tuple[int, str]]:
        """The elements of the list under the key; every other member is passed."""
        self._expect("{")
        while True:
            name = self._member()
            if name == self._key:
                self._lists[name] = 0
                for element in self._list():
                    self._lists[name] += 1
                    yield element
            else:
                self._pass(name)
            if self._peek() == "}":
                self._step(self._at + 1)
                break
            self._expect(",")
        if len(self._lists) > 1:
            raise _several(self._url, self._lists)

    def _member(self) -> str:
        """The name of the next member."""
        self._peek()
        end = self._element()
        name = self._decoder.decode(self._text[self._at : end])
        if not isinstance(name, str):
            raise self._broken("a name in quotes", self._text[self._at :])
        if name in self.members:
            raise self._broken(f"{printable(name)} once", f"{printable(name)} again", "duplicate-key")
        self.members.append(name)
        self._step(end)
        self._expect(":")
        return name

    def _pass(self, name: str) -> None:
        """Pass the value of that member, a list by its elements."""
        if self._peek() != "[":
            self._step(self._element())
        elif count := sum(text.startswith("{") for _, text in self._list()):
            self._lists[name] = count

    def _list(self) -> Iterator[tuple[int, str]]:
        self._expect("[")
        if self._peek() == "]":
            self._step(self._at + 1)
            return
        while True:
            self._peek()
            line, end = self._line, self._element()
            text = self._text[self._at : end]
            self._step(end)
            yield line, text
            if self._peek() == "]":
                self._step(self._at + 1)
                return
            self._expect(",")

    def _element(self) -> int:
        blocks = 1
        while True:
            try:
                _, end = self._decoder.raw_decode(self._text, self._at)
                if end < len(self._text):
                    return end
                if not self._more():
                    raise self._broken("a list that ends", self._text[self._at :])
            except (json.JSONDecodeError, RecursionError) as error:
                # Twice as much text before each new try: a long element is not parsed once a chunk.
                blocks *= 2
                if not sum(self._more() for _ in range(blocks)):
                    raise self._broken(f"an element ({error})", self._text[self._at :]) from error
            if len(self._text) - self._at > 2 * self._max + (1 << 22):
                raise self._broken(f"elements of at most {self._max} bytes", self._text[self._at :])

    def _more(self) -> bool:
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        data = self._rest + chunk
        try:
            text, self._rest = data.decode(), b""
        except UnicodeDecodeError as error:
            if error.end < len(data) or error.reason != "unexpected end of data":
                raise self._broken("UTF-8", repr(data[error.start : error.start + 20])) from error
            text, self._rest = data[: error.start].decode(), data[error.start :]
        self._text = self._text[self._at :] + text
        self._at = 0
        return True

    def _step(self, to: int) -> None:
        passed = self._text[self._at : to]
        self._line += passed.count("\n")
        self._byte += len(passed.encode("utf-8", "surrogatepass"))
        self._at = to

    def _peek(self) -> str:
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None, "a pattern that matches nothing matches everywhere"
            self._step(match.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise self._broken(repr(character), self._text[self._at :])
        self._step(self._at + 1)

    def _broken(self, expected: str, actual: str, slug: str = "broken-json") -> DataError:
        return DataError(
            slug,
            f"{shown(self._url)} is not one JSON list",
            expected=expected,
            found=shown(actual[:80]) or "the end of the file",
            where=f"line {self._line}, byte {self._byte} of {shown(self._url)}",
            kept="nothing was published",
        )


def _several(url: str, lists: Mapping[str, int]) -> DataError:
    """The fault of an object of which nobody says which list is meant; the longest is suggested."""
    name = max(lists, key=lambda each: lists[each])
    code = "import json, sys; json.dump(json.load(open(sys.argv[1], encoding='utf-8'))[sys.argv[2]], sys.stdout)"
    command = f'python -c "{code}" {shlex.quote(url)} {shlex.quote(name)} > only-{shlex.quote(name)}.json'
    plain = url.endswith((".json", ".jsonl", ".ndjson")) and "://" not in url
    return DataError(
        "several-lists",
        f"{shown(url)} is one object with several lists of rows",
        expected="rows under one key of it, or one JSON list",
        found=", ".join(f"{printable(each)} ({counted(count, 'row')})" for each, count in lists.items()),
        kept="nothing was published",
        next=command if plain else f"write {printable(name)} alone into a file, and name that",
    )
