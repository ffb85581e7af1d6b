"""What the readers of files that have columns share: columns are the keys of a format (`datakit.formats.forms.FORMS`),
or those of a row kind (`kind`). Identity is the files' content.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

import schemas
from datakit.formats.ids import PARTS
from datakit.formats.keys import TEXT, Key, Shape
from datakit.formats.leftover import carried, keys_at, left_counts, types_of
from datakit.formats.lines import Fault
from datakit.formats.parquet_columns import absent, check_columns, raw_columns, wrong_rows
from datakit.formats.parse import Parsed
from datakit.formats.reader import FormatReader
from datakit.formats.rows import Rows, kept_keys, parser_of
from datakit.formats.sources import base_name, empty
from datakit.op import Context, Result
from schemas import Schema
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest
from schemas.store.storage import shown

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
class Columnar(FormatReader):
    """Rows of `files`, either in a named `format` or already of a row `kind` (missing ids and optional
    columns are made).

    `columns` maps our names to the files' (`{"prompt": "question"}`); the rest is as in `Jsonl`.
    """

    format: str | None = None
    kind: str | None = None

    def __post_init__(self) -> None:
        if (self.format is None) == (self.kind is None):
            raise ConfigError("bad-setting", f"{self.name} needs a format or a kind", kept="nothing was started")
        if self.kind is not None and self.kind not in KINDS:
            raise ConfigError(
                "unknown-kind",
                f"there is no row kind {shown(self.kind)}",
                expected=", ".join(KINDS),
                kept="nothing was started",
                wrong=(self.kind,),
                nearest=nearest(self.kind, KINDS),
            )
        if self.format is None and self.keep:
            raise ConfigError("bad-setting", f"{self.name}: keep needs a format", kept="nothing was started")
        super().__post_init__()

    def gives(self, *inputs: Schema) -> Schema:
        return super().gives(*inputs) if self.kind is None else KINDS[self.kind]

    def kept_types(self) -> tuple[tuple[str, str], ...]:
        """As the columns have them, or what is inside of them."""
        parts = (
            carried(part.table, self.keep, url)
            for url, sha256 in zip(self.files, self.digests, strict=True)
            for part in self.batches(url, sha256, keys_at(self.keep), ())
        )
        return types_of(self.keep, parts)

    def read(self, ctx: Context) -> Iterator[Result]:
        """One table a batch, files in the order given."""
        pinned = self.pinned()
        keys, form = self._keys(), None if self.format is None else self._form
        kept = () if form is None else kept_keys(form, pinned.types)
        rows = pinned._rows(kept)
        roots = () if form is None else tuple(Key(name, TEXT, required=False) for name in form.roots)
        more = () if form is None else tuple(form.refused)
        for url, sha256 in zip(self.files, pinned.digests, strict=True):
            count = 0
            for part in self.batches(url, sha256, (*keys, *kept, *roots), more):
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

    def lacks(self, there: Collection[str]) -> bool:
        """Whether a file whose columns are `there` has nothing of what a row of the format needs."""
        if self.format is not None and self._form.records is not None:
            return set(self._form.roots).isdisjoint(there)
        return bool(absent(self._keys(), there))

    @abstractmethod
    def batches(self, url: str, sha256: str, keys: tuple[Key, ...], more: Sequence[str]) -> Iterator[Batch]:
        """The file's rows in its own types, those columns that `keys` or `more` name."""

    def _keys(self) -> tuple[Key, ...]:
        if self.kind is None:
            return super()._keys()
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
