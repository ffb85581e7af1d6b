"""JSON Lines (and JSON files of one list) to rows: NeMo-Aligner's formats and today's plain ones, by name.

A file is read in blocks, so memory does not grow with it; compression is seen by content. Types are declared by the
format, never sniffed. A record that does not fit goes to the rejected rows with file, line, byte and rule; by
default none may. Identity is the files' content: moving or renaming a file changes no id, no row and no task
key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar, Literal

from datakit.formats.advice import advice
from datakit.formats.compression import beginning, plain
from datakit.formats.forms import FORMS
from datakit.formats.layouts import json_layout
from datakit.formats.leftover import left_counts, left_out, types_in
from datakit.formats.lines import Block, array_blocks, blocks, even
from datakit.formats.rows import (
    PLACE_COLUMNS,
    Columns,
    Dialogue,
    Rows,
    draw_of,
    form_of,
    kept_keys,
    parser_of,
    schema_of,
    without_place,
)
from datakit.formats.sources import ahead, base_name, check_files, checked, empty, opened, pinned_to_files
from datakit.op import Context, Read, Result
from schemas import Column, Schema
from schemas.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Jsonl(Read):
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
    version: ClassVar[int] = 2
    max_rejected: ClassVar[int] = 0

    files: tuple[str, ...] = ()
    format: str
    digests: tuple[str, ...] = ()
    layout: Literal["auto", "lines", "array", "object"] = "auto"
    columns: Columns = ()
    dialogue: Dialogue = "plain"
    source: str | None = None
    keep: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    types: tuple[tuple[str, str], ...] = ()
    max_line: int = 1 << 24
    seed: int = 0

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
        form = form_of(self.format, self.columns, self.dialogue)[0]  # type: ignore[arg-type]
        return schema_of(form, self.pinned().types) if self.keep else form.schema

    def advice(self, reason: str, detail: str) -> str:
        """The setting that would take such rows."""
        keys = form_of(self.format, self.columns, self.dialogue)[1]  # type: ignore[arg-type]
        return advice(keys, reason, detail)

    def notes(self, manifest: Manifest) -> tuple[str, ...]:
        """What the files hold that was not read."""
        return left_out(manifest)

    def pinned(self) -> Jsonl:
        """The same import with the digests, and where they count the names, of the files as they are now, and the types
        of what is kept of them.
        """
        pinned = pinned_to_files(self)
        if self.keep and not self.types:
            lines = chain.from_iterable(
                pinned._blocks(url, sha256) for url, sha256 in zip(self.files, pinned.digests, strict=True)
            )
            pinned = replace(pinned, types=types_in(self.keep, lines))
        return pinned

    def params(self) -> dict[str, Any]:
        """Settings with the files' digests in place of their names."""
        return without_place(super(Jsonl, self.pinned()).params(), FORMS[self.format])

    def read(self, ctx: Context) -> Iterator[Result]:
        """One table a block, files in the order given; `DataError` for a file without a single record."""
        pinned = self.pinned()
        form, keys = form_of(self.format, self.columns, self.dialogue)  # type: ignore[arg-type]
        parser = parser_of(form, keys, pinned.types, self.ignore)
        rows = Rows(
            schema_of(form, pinned.types), self.source, self.dialogue, kept_keys(form, pinned.types), draw_of(self.seed)
        )
        for url, sha256 in zip(self.files, pinned.digests, strict=True):
            some = False
            for parsed in ahead(parser.parse(block) for block in self._blocks(url, sha256)):
                some = some or bool(len(parsed.numbers) or parsed.faults)
                yield Result(*rows.of_records(form, parsed, base_name(url)), counts=left_counts(parsed))
            if not some:
                raise empty(url)

    def _blocks(self, url: str, sha256: str) -> Iterator[Block]:
        with opened(url) as stream:
            form, keys = form_of(self.format, self.columns, self.dialogue)  # type: ignore[arg-type]
            chunks = plain(url, checked(url, stream, sha256))
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
