"""What the readers of files that have columns share: columns are the keys of a format (`datakit.formats.forms.FORMS`),
or those of a row kind (`kind`). Identity is the files' content.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa

import schemas
from datakit.formats.advice import advice
from datakit.formats.forms import Form
from datakit.formats.ids import PARTS
from datakit.formats.keys import Key, Shape
from datakit.formats.leftover import carried, keys_at, left_counts, left_out, types_of
from datakit.formats.lines import Fault
from datakit.formats.parquet_columns import check_columns, raw_columns, wrong_rows
from datakit.formats.parse import Parsed
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
from datakit.formats.sources import base_name, check_files, empty, pinned_to_files
from datakit.op import Context, Read, Result
from schemas import Column, Schema
from schemas.errors import ConfigError, printable
from schemas.manifest import Manifest
from schemas.settings import suggestion
from schemas.store.storage import shown

Self = TypeVar("Self", bound="Columnar")
KINDS: dict[str, Schema] = {schema.name: schema for schema in vars(schemas).values() if isinstance(schema, Schema)}
"""Row kinds by name."""


@dataclass(frozen=True)
class Batch:
    """Rows of a file, their numbers in it from 1, and rows that could not be read; `others` are columns that were not
    asked for, with the rows that have a value there in the whole file, reported once.
    """

    table: pa.Table
    numbers: np.ndarray
    faults: list[Fault] = field(default_factory=list)
    others: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Columnar(Read):
    """Rows of `files`, either in a named `format` or already of a row `kind` (missing ids and optional
    columns are made).

    `columns` maps our names to the files' (`{"prompt": "question"}`); the rest is as in `Jsonl`.
    """

    max_rejected: ClassVar[int] = 0

    files: tuple[str, ...] = ()
    format: str | None = None
    kind: str | None = None
    digests: tuple[str, ...] = ()
    columns: Columns = ()
    dialogue: Dialogue = "plain"
    source: str | None = None
    keep: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    types: tuple[tuple[str, str], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(sorted(dict(self.columns).items())))
        if (self.format is None) == (self.kind is None):
            raise ConfigError("bad-setting", f"{self.name} needs a format or a kind", kept="nothing was started")
        if self.kind is not None and self.kind not in KINDS:
            message = f"there is no row kind {shown(self.kind)}{suggestion(self.kind, list(KINDS))}"
            raise ConfigError("unknown-kind", message, expected=", ".join(KINDS), kept="nothing was started")
        if self.format is None and self.keep:
            raise ConfigError("bad-setting", f"{self.name}: keep needs a format", kept="nothing was started")
        self._keys()
        check_files(self.name, self.files, self.digests)

    @property
    def rejects(self) -> tuple[Column, ...]:
        """Where a rejected row stood."""
        return PLACE_COLUMNS

    def gives(self, *inputs: Schema) -> Schema:
        """The row kind."""
        if self.kind is not None:
            return KINDS[self.kind]
        return schema_of(self._form, self.pinned().types) if self.keep else self._form.schema

    def advice(self, reason: str, detail: str) -> str:
        """The setting that would take such rows."""
        return advice(self._keys(), reason, detail)

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """What the files hold that was not read."""
        return left_out(made)

    def pinned(self: Self) -> Self:
        """The same import with the digests, and where they count the names, of the files as they are now, and the types
        of what is kept of them.
        """
        pinned = pinned_to_files(self)
        if self.keep and not self.types:
            parts = (
                carried(part.table, self.keep, url)
                for url, sha256 in zip(self.files, pinned.digests, strict=True)
                for part in self.batches(url, sha256, keys_at(self.keep), ())
            )
            pinned = replace(pinned, types=types_of(self.keep, parts))
        return pinned

    @property
    def _form(self) -> Form:
        return form_of(self.format or "", self.columns, self.dialogue)[0]  # type: ignore[arg-type]

    def params(self) -> dict[str, Any]:
        """Settings with the files' digests in place of their names."""
        return without_place(super(Columnar, self.pinned()).params(), None if self.format is None else self._form)

    def read(self, ctx: Context) -> Iterator[Result]:
        """One table a batch, files in the order given."""
        pinned = self.pinned()
        keys, form = self._keys(), None if self.format is None else self._form
        kept = () if form is None else kept_keys(form, pinned.types)
        rows = Rows(self.gives(), self.source, self.dialogue, kept, draw_of(self.seed))
        more = () if form is None else (*form.refused, *form.roots)
        for url, sha256 in zip(self.files, pinned.digests, strict=True):
            count = 0
            for part in self.batches(url, sha256, (*keys, *kept), more):
                if form is None:
                    raw = raw_columns(part.table, keys, url, count)
                    yield self._of_kind(rows, raw, part, base_name(url))
                else:
                    if form.records is None and not count:
                        check_columns(url, keys, [*part.table.column_names, *part.others])
                    parser = parser_of(form, keys, pinned.types, self.ignore)
                    parsed = parser.of_table(carried(part.table, self.keep, url), part.numbers)
                    unread = {printable(n): rows_ for n, rows_ in part.others.items() if rows_ and n not in self.ignore}
                    parsed.left.update(unread)
                    faults = [*part.faults, *parsed.faults]
                    whole = Parsed(parsed.table, parsed.numbers, faults, parsed.left)
                    yield Result(*rows.of_records(form, whole, base_name(url)), counts=left_counts(whole))
                count += part.table.num_rows + len(part.faults)
            if not count:
                raise empty(url)

    @abstractmethod
    def batches(self, url: str, sha256: str, keys: tuple[Key, ...], more: Sequence[str]) -> Iterator[Batch]:
        """The file's rows in its own types, those columns that `keys` or `more` name."""

    def _keys(self) -> tuple[Key, ...]:
        if self.format is not None:
            return form_of(self.format, self.columns, self.dialogue)[1]  # type: ignore[arg-type]
        given = dict(self.columns)
        optional = set(PARTS)
        return tuple(
            Key(
                c.name,
                Shape(str(c.type), c.type, lambda value, left: value),
                required=not c.nullable and c.name not in optional,
                mapped=given.get(c.name, ""),
            )
            for c in self.gives().columns
        )

    def _of_kind(self, rows: Rows, raw: pa.Table, part: Batch, name: str) -> Result:
        """Rows that have the columns of the row kind already."""
        present = {c: raw[c].combine_chunks() for c in raw.column_names if raw[c].null_count < len(raw) or not len(raw)}
        return Result(*rows.finished(present, wrong_rows(raw, self._keys()), part.numbers, list(part.faults), name))
