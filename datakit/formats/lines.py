"""Bytes to blocks of lines, one JSON object a line, each with its number in the file; memory holds one block.

A block is normal: no byte order mark, no carriage returns, no blank lines. A line over the limit is skipped
and counted. Files that are one JSON list give the same blocks (`datakit.formats.elements`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

BLOCK = 1 << 23
_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
_SAYS_SOMETHING = np.isin(np.arange(256), list(_BLANK), invert=True)
"""For each byte, whether a line that holds it is more than blank."""


@dataclass(frozen=True)
class Fault:
    """A row that was not taken: its line or its number in a list (from 1), the byte in it where known, the rule, and
    the row's text, cut.
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
    them; names that the file has beside its rows. Of a file that is one JSON list `numbers` are those of its elements,
    and `lines` says where each begins.
    """

    data: bytes
    numbers: np.ndarray
    faults: list[Fault] = field(default_factory=list)
    objects: bool = False
    beside: tuple[str, ...] = ()
    lines: Mapping[int, int] = field(default_factory=dict)


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
    if not data.strip(_BLANK):
        return Block(b"", np.empty(0, np.int64)), number + count
    begins, ends = _lines(data)
    some = np.flatnonzero(np.logical_or.reduceat(_SAYS_SOMETHING[np.frombuffer(data, np.uint8)], begins))
    spans = zip((number + some).tolist(), begins[some].tolist(), ends[some].tolist(), strict=True)
    lines = [(at, data[begin:end].strip(b" \t\r")) for at, begin, end in spans]
    faults = [_too_long(at, len(line), max_line, line) for at, line in lines if len(line) > max_line]
    lines = [(at, line) for at, line in lines if len(line) <= max_line]
    data = b"".join(line + b"\n" for _, line in lines)
    return Block(data, np.array([at for at, _ in lines], np.int64), faults), number + count


def are_objects(data: bytes) -> bool:
    """Whether every line begins with `{` and ends with `}`."""
    begins, ends = _lines(data)
    letters = np.frombuffer(data, np.uint8)
    if not len(ends):
        return False
    return bool((letters[begins] == ord("{")).all() and (letters[ends - 1] == ord("}")).all())


def _lines(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Where each line begins, and where its newline stands."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    return np.concatenate([[0], ends + 1])[: len(ends)], ends


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
            faults, lines = pending.faults + block.faults, {**pending.lines, **block.lines}
            block = replace(block, data=pending.data + block.data, numbers=numbers, faults=faults, lines=lines)
            pending = None
        if (len(block.numbers) + len(block.faults)) % 2:
            block, pending = _without_last(block)
        yield block
    if pending is not None:
        line = int(pending.numbers[0]) if len(pending.numbers) else pending.faults[0].line
        fault = Fault(line, "unpaired-line", "two lines a pair", pending.data[:200])
        yield Block(b"", np.empty(0, np.int64), [fault], lines=pending.lines)


def _without_last(block: Block) -> tuple[Block, Block]:
    last = max((fault.line for fault in block.faults), default=0)
    if len(block.numbers) and block.numbers[-1] > last:
        at = block.data.rfind(b"\n", 0, -1) + 1
        first = replace(block, data=block.data[:at], numbers=block.numbers[:-1])
        return first, Block(block.data[at:], block.numbers[-1:], lines=block.lines)
    others = [fault for fault in block.faults if fault.line != last]
    own = [fault for fault in block.faults if fault.line == last]
    return replace(block, faults=others), Block(b"", np.empty(0, np.int64), own, lines=block.lines)
