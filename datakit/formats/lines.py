"""Bytes to blocks of lines, one JSON object a line, each with its number in the file; memory holds one block.

A block is normal: no byte order mark, no carriage returns, no blank lines. A line over the limit is skipped
and counted. An array file (one JSON list) gives the same blocks: its elements' outer newlines become blanks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from schemas.errors import DataError
from schemas.store.storage import shown

BLOCK = 1 << 23
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Fault:
    """A row that was not taken: its line (from 1), the byte in it where known, the rule, and the row's text,
    cut.
    """

    line: int
    reason: str
    rule: str
    text: bytes = b""
    byte: int | None = None
    value: float | None = None


@dataclass(frozen=True)
class Block:
    """Lines that end in one newline each, their numbers in the file, and lines that were too long to be among
    them.
    """

    data: bytes
    numbers: np.ndarray
    faults: list[Fault] = field(default_factory=list)
    objects: bool = False


def blocks(chunks: Iterator[bytes], max_line: int, size: int = BLOCK) -> Iterator[Block]:
    """Blocks of about `size` bytes of a file with one object a line."""
    number, skipped, cut = 1, 0, b""
    whole: list[bytes] = []
    tail: list[bytes] = []
    for index, chunk in enumerate(chunks):
        start = len(_BOM) if index == 0 and chunk.startswith(_BOM) else 0
        if skipped:
            start = chunk.find(b"\n") + 1
            skipped += start - 1 if start else len(chunk)
            if not start:
                continue
            yield _nothing_but(_too_long(number, skipped, max_line, cut))
            number, skipped = number + 1, 0
        end = chunk.rfind(b"\n") + 1
        if end > start:
            whole += [*tail, chunk[start:end]]
            tail, start = [], end
        tail.append(chunk[start:])
        over = sum(map(len, tail)) > max_line
        if whole and (over or sum(map(len, whole)) >= size):
            block, number = _block(b"".join(whole), number, max_line)
            whole = []
            yield block
        if over:
            skipped, cut, tail = sum(map(len, tail)), b"".join(tail)[:200], []
    if whole or any(tail):
        last = b"".join([*whole, *tail])
        yield _block(last if last.endswith(b"\n") else last + b"\n", number, max_line)[0]
    elif skipped:
        yield _nothing_but(_too_long(number, skipped, max_line, cut))


def _nothing_but(fault: Fault) -> Block:
    return Block(b"", np.empty(0, np.int64), [fault])


def _block(data: bytes, number: int, max_line: int) -> tuple[Block, int]:
    """The block of lines from `number` on, and the number of the line behind it."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    count = data.count(b"\n")
    if are_objects(data) and _longest_fits(data, max_line):
        return Block(data, np.arange(number, number + count), objects=True), number + count
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
    begins = np.concatenate([[0], ends[:-1] + 1])
    some = np.flatnonzero(ends > begins)
    spans = zip((number + some).tolist(), begins[some].tolist(), ends[some].tolist(), strict=True)
    lines = [(at, data[begin:end].strip(b" \t\r")) for at, begin, end in spans]
    faults = [_too_long(at, len(line), max_line, line) for at, line in lines if len(line) > max_line]
    lines = [(at, line) for at, line in lines if line and len(line) <= max_line]
    data = b"".join(line + b"\n" for _, line in lines)
    return Block(data, np.array([at for at, _ in lines], np.int64), faults), number + count


def are_objects(data: bytes) -> bool:
    """Whether every line begins with `{` and ends with `}`."""
    return all(line[:1] == b"{" and line[-1:] == b"}" for line in data[:-1].split(b"\n"))


def _longest_fits(data: bytes, max_line: int) -> bool:
    """Whether no line can be over the limit: cheap where the block itself is smaller."""
    if len(data) <= max_line:
        return True
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
    return bool(np.diff(ends, prepend=-1).max() - 1 <= max_line)


def _too_long(line: int, length: int, max_line: int, text: bytes) -> Fault:
    return Fault(line, "line-too-long", f"{max_line} bytes", text[:200], value=float(length))


def even(parts: Iterator[Block]) -> Iterator[Block]:
    """The same lines in blocks that hold whole pairs; a last line without a partner becomes a fault."""
    pending: Block | None = None
    for part in parts:
        block = part
        if pending is not None:
            numbers = np.concatenate([pending.numbers, block.numbers])
            block, pending = Block(pending.data + block.data, numbers, pending.faults + block.faults), None
        if (len(block.numbers) + len(block.faults)) % 2:
            block, pending = _without_last(block)
        yield block
    if pending is not None:
        line = int(pending.numbers[0]) if len(pending.numbers) else pending.faults[0].line
        yield Block(b"", np.empty(0, np.int64), [Fault(line, "unpaired-line", "two lines a pair", pending.data[:200])])


def _without_last(block: Block) -> tuple[Block, Block]:
    last = max((fault.line for fault in block.faults), default=0)
    if len(block.numbers) and block.numbers[-1] > last:
        at = block.data.rfind(b"\n", 0, -1) + 1
        first = Block(block.data[:at], block.numbers[:-1], block.faults)
        return first, Block(block.data[at:], block.numbers[-1:])
    others = [fault for fault in block.faults if fault.line != last]
    own = [fault for fault in block.faults if fault.line == last]
    return Block(block.data, block.numbers, others), Block(b"", np.empty(0, np.int64), own)


def array_blocks(url: str, chunks: Iterator[bytes], max_line: int, size: int = BLOCK, key: str = "") -> Iterator[Block]:
    """Blocks of the elements of a file that is one JSON list, or one object that has it under `key`; `DataError` with
    line and byte where it is not one.
    """
    scan = _Elements(url, chunks, max_line, key)
    rows: list[bytes] = []
    numbers: list[int] = []
    total = 0
    for number, text in scan:
        rows.append(text.replace("\n", " ").replace("\r", " ").encode("utf-8", "surrogatepass") + b"\n")
        numbers.append(number)
        total += len(rows[-1])
        if total >= size:
            yield Block(b"".join(rows), np.array(numbers, np.int64))
            rows, numbers, total = [], [], 0
    if rows:
        yield Block(b"".join(rows), np.array(numbers, np.int64))


class _Elements:
    """Iterates (line, text) over the elements of a JSON list, holding one element and one chunk."""

    def __init__(self, url: str, chunks: Iterator[bytes], max_line: int, key: str = "") -> None:
        self._url, self._chunks, self._max, self._key = url, chunks, max_line, key
        self._text, self._at, self._line, self._byte = "", 0, 1, 0
        self._rest = b""
        self._decoder = json.JSONDecoder(strict=True, parse_int=str)  # where it ends is asked, not how much it is

    def __iter__(self) -> Iterator[tuple[int, str]]:
        self._more()
        if self._text.startswith("\ufeff"):
            self._step(1)
        if self._key:
            self._enter()
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
                break
            self._expect(",")
        if self._key:
            self._leave()
        if self._peek():
            raise self._broken("nothing after the list", self._text[self._at :])

    def _enter(self) -> None:
        """Pass an object's members up to the list."""
        self._expect("{")
        while self._member() != self._key:
            self._peek()
            self._step(self._element())
            self._expect(",")

    def _leave(self) -> None:
        """Pass an object's members behind the list."""
        while self._peek() == ",":
            self._step(self._at + 1)
            self._member()
            self._peek()
            self._step(self._element())
        self._expect("}")

    def _member(self) -> object:
        self._peek()
        end = self._element()
        name = self._decoder.decode(self._text[self._at : end])
        self._step(end)
        self._expect(":")
        return name

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

    def _broken(self, expected: str, actual: str) -> DataError:
        return DataError(
            "broken-json",
            f"{shown(self._url)} is not one JSON list",
            expected=expected,
            found=shown(actual[:80]) or "the end of the file",
            where=f"line {self._line}, byte {self._byte} of {shown(self._url)}",
            kept="nothing was published",
        )
