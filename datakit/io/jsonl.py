"""JSON Lines (and JSON files of one list) to rows: NeMo-Aligner's formats and today's plain ones, by name.

A file is read in blocks, so memory does not grow with it; compression is seen by content. Types are declared by the
format, never sniffed. A record that does not fit goes to the rejected rows with file, line, byte and rule; by
default none may. Identity is the files' content: moving or renaming a file changes no id, no row and no task
key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Literal

from datakit.formats.compression import beginning, plain
from datakit.formats.elements import array_blocks
from datakit.formats.layouts import json_layout
from datakit.formats.leftover import left_counts, types_in
from datakit.formats.lines import Block, blocks, even
from datakit.formats.reader import FormatReader
from datakit.formats.rows import kept_keys, parser_of
from datakit.formats.sources import ahead, base_name, checked, empty, opened
from datakit.op import Context, Result


@dataclass(frozen=True, kw_only=True)
class Jsonl(FormatReader):
    """Rows of `files` in a named `format` (see `datakit.formats.forms.FORMS`).

    `columns` maps the format's keys to the names the files use (`{"prompt": "question"}`), or to dotted paths into
    nested objects (`{"prompt": "task.input"}`). `keep` names other keys, or paths, that become columns; `ignore` those
    that are left out on purpose. `dialogue` says how texts that hold several turns are written. `source` fills the
    source column; without it that is the name of the row's file. `layout` is `array` for files that are one JSON list,
    `object` for those that hold it under a key of one object, `auto`: as the first bytes say. `max_line` bounds a
    record in bytes. `seed` is that of formats which draw (`dolly`). `digests` (SHA-256 of each file), `names` of the
    files and `types` of kept keys are taken from the files where not given.
    """

    name: ClassVar[str] = "io.jsonl"
    version: ClassVar[int] = 4
    format: str
    layout: Literal["auto", "lines", "array", "object"] = "auto"
    max_line: int = 1 << 24

    def kept_types(self) -> tuple[tuple[str, str], ...]:
        """As the lines have them."""
        lines = (self._blocks(url, sha256) for url, sha256 in zip(self.files, self.digests, strict=True))
        return types_in(self.keep, chain.from_iterable(lines))

    def read(self, ctx: Context) -> Iterator[Result]:
        """One table a block, files in the order given; `DataError` for a file without a single record."""
        pinned = self.pinned()
        form = self._form
        parser = parser_of(form, self._keys(), pinned.types, self.ignore)
        rows = pinned._rows(kept_keys(form, pinned.types))
        for url, sha256 in zip(self.files, pinned.digests, strict=True):
            some = False
            for parsed in ahead(parser.parse(block) for block in self._blocks(url, sha256)):
                some = some or bool(len(parsed.numbers) or parsed.faults)
                yield Result(*rows.of_records(form, parsed, base_name(url)), counts=left_counts(parsed))
            if not some:
                raise empty(url)

    def _blocks(self, url: str, sha256: str) -> Iterator[Block]:
        with opened(url) as stream:
            chunks = plain(url, checked(url, stream, sha256))
            head, whole = beginning(chunks)
            names = {*(name for key in self._keys() for name in key.roots), *self._form.roots}
            layout, key = json_layout(head, whole, names)
            chunks = chain([head], chunks) if head else chunks
            if self.layout in ("lines", "array"):
                layout = self.layout
            if layout == "lines":
                parts = blocks(chunks, self.max_line)
            else:
                parts = array_blocks(url, chunks, self.max_line, key=key if layout == "object" else "")
            yield from even(parts) if self._form.pairs else parts
