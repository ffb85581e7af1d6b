"""JSON Lines (and JSON files of one list) to rows: NeMo-Aligner's formats and today's plain ones, by name.

A file is read in blocks, so memory does not grow with it; compression is seen by content. Types are declared by the
format, never sniffed. A record that does not fit goes to the rejected rows with file, line, byte and rule; by
default none may. Identity is the files' content: moving or renaming a file changes no id, no row and no task
key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar, Literal, TypeVar

from datakit.io.compression import beginning, plain
from datakit.io.layouts import json_layout
from datakit.io.lines import Block, array_blocks, blocks, even
from datakit.io.parse import parse
from datakit.io.rows import PLACE_COLUMNS, Rows, form_of
from datakit.io.sources import checked, digests_of, opened
from datakit.op import Context, Read, Result
from schemas import Column, Schema
from schemas.errors import ConfigError, DataError
from schemas.storage import shown

T = TypeVar("T")
Dialogue = Literal["plain", "extra_id", "hh"]
Columns = Mapping[str, str] | tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Jsonl(Read):
    """Rows of `files` in a named `format` (see `datakit.io.forms.FORMS`).

    `columns` maps the format's keys to the names the files use (`{"prompt": "question"}`). `dialogue` says
    how texts that hold several turns are written. `source` fills the source column. `layout` is `array` for
    files that are one JSON list, `object` for those that hold it under a key of one object, `auto`: as the first
    bytes say. `max_line` bounds a record in bytes. `digests` (SHA-256 of each file) are taken where not given.
    """

    name: ClassVar[str] = "io.jsonl"
    max_rejected: ClassVar[int] = 0

    files: tuple[str, ...] = ()
    format: str
    digests: tuple[str, ...] = ()
    layout: Literal["auto", "lines", "array", "object"] = "auto"
    columns: Columns = ()
    dialogue: Dialogue = "plain"
    source: str | None = None
    max_line: int = 1 << 24

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(sorted(dict(self.columns).items())))
        form_of(self.format, self.columns, self.dialogue)  # type: ignore[arg-type]
        check_files(self.name, self.files, self.digests)

    @property
    def rejects(self) -> tuple[Column, ...]:
        """Where a rejected row stood, and what it was."""
        return PLACE_COLUMNS

    def gives(self, *inputs: Schema) -> Schema:
        """The row kind of the format."""
        return form_of(self.format, self.columns, self.dialogue)[0].schema  # type: ignore[arg-type]

    def pinned(self) -> Jsonl:
        """The same import with the digests of the files as they are now."""
        return self if self.digests else replace(self, digests=digests_of(self.files))

    def params(self) -> dict[str, Any]:
        """Settings with the files' digests in place of their names."""
        return {name: value for name, value in super(Jsonl, self.pinned()).params().items() if name != "files"}

    def read(self, ctx: Context) -> Iterator[Result]:
        """One table a block, files in the order given; `DataError` for a file without a single record."""
        form, keys = form_of(self.format, self.columns, self.dialogue)  # type: ignore[arg-type]
        rows = Rows(form.schema, self.source, self.dialogue)
        for url, digest in zip(self.files, self.pinned().digests, strict=True):
            some = False
            name = url.rsplit("/", 1)[-1]
            for parsed in ahead(parse(block, keys) for block in self._blocks(url, digest)):
                some = some or bool(len(parsed.numbers) or parsed.faults)
                yield Result(*rows.of_records(form, parsed, name))
            if not some:
                raise empty(url)

    def _blocks(self, url: str, digest: str) -> Iterator[Block]:
        with opened(url) as stream:
            form, keys = form_of(self.format, self.columns, self.dialogue)  # type: ignore[arg-type]
            chunks = plain(url, checked(url, stream, digest))
            head, whole = beginning(chunks)
            names = {name for key in keys for full in key.names for name in (full, full.partition(".")[0])}
            layout, key = json_layout(head, whole, names)
            chunks = chain([head], chunks) if head else chunks
            if self.layout in ("lines", "array"):
                layout = self.layout
            if layout == "lines":
                parts = blocks(chunks, self.max_line)
            else:
                parts = array_blocks(url, chunks, self.max_line, key=key if layout == "object" else "")
            yield from even(parts) if form.pairs else parts


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one worked out in a thread while the last is used (reading and parsing hold no
    lock).
    """
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item


def check_files(who: str, files: tuple[str, ...], digests: tuple[str, ...]) -> None:
    """`ConfigError` unless there are files or digests, and as many digests as files where both are given."""
    if digests and files and len(digests) != len(files):
        raise ConfigError(
            "bad-setting", f"{who}: {len(files)} files and {len(digests)} digests", kept="nothing was started"
        )
    if not files and not digests:
        raise ConfigError("bad-setting", f"{who} names no files", expected="at least one", kept="nothing was started")


def empty(url: str) -> DataError:
    """The fault of a file without records."""
    return DataError(
        "empty-input", f"{shown(url)} holds no record", expected="at least one", kept="nothing was published"
    )
