"""What the readers of files that have columns share: columns are the keys of a format (`datakit.io.forms.FORMS`),
or those of a row kind (`kind`). Identity is the files' content.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa

import schemas
from datakit.io.ids import PARTS
from datakit.io.jsonl import Columns, Dialogue, check_files, empty
from datakit.io.lines import Fault
from datakit.io.parquet_columns import raw_columns, wrong_rows
from datakit.io.parse import Key, Parsed
from datakit.io.rows import PLACE_COLUMNS, Rows, form_of
from datakit.io.sources import digests_of
from datakit.op import Context, Read, Result
from schemas import Column, Schema
from schemas.errors import ConfigError
from schemas.settings import suggestion
from schemas.storage import shown

Self = TypeVar("Self", bound="Columnar")
KINDS: dict[str, Schema] = {schema.name: schema for schema in vars(schemas).values() if isinstance(schema, Schema)}
"""Row kinds by name."""


@dataclass(frozen=True)
class Batch:
    """Rows of a file, their numbers in it from 1, and rows that could not be read."""

    table: pa.Table
    numbers: np.ndarray
    faults: list[Fault] = field(default_factory=list)


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(sorted(dict(self.columns).items())))
        if (self.format is None) == (self.kind is None):
            raise ConfigError("bad-setting", f"{self.name} needs a format or a kind", kept="nothing was started")
        if self.kind is not None and self.kind not in KINDS:
            told = f"there is no row kind {shown(self.kind)}{suggestion(self.kind, list(KINDS))}"
            raise ConfigError("unknown-kind", told, expected=", ".join(KINDS), kept="nothing was started")
        self._keys()
        check_files(self.name, self.files, self.digests)

    @property
    def rejects(self) -> tuple[Column, ...]:
        """Where a rejected row stood."""
        return PLACE_COLUMNS

    def gives(self, *inputs: Schema) -> Schema:
        """The row kind."""
        return KINDS[self.kind] if self.kind is not None else form_of(self.format or "", (), self.dialogue)[0].schema

    def pinned(self: Self) -> Self:
        """The same import with the digests of the files as they are now."""
        return self if self.digests else replace(self, digests=digests_of(self.files))

    def params(self) -> dict[str, Any]:
        """Settings with the files' digests in place of their names."""
        return {name: value for name, value in super(Columnar, self.pinned()).params().items() if name != "files"}

    def read(self, ctx: Context) -> Iterator[Result]:
        """One table a batch, files in the order given."""
        keys = self._keys()
        rows = Rows(self.gives(), self.source, self.dialogue)
        for url, digest in zip(self.files, self.pinned().digests, strict=True):
            count = 0
            for part in self.batches(url, digest, keys):
                raw = raw_columns(part.table, keys, url, count)
                yield self._result(rows, raw, part, url.rsplit("/", 1)[-1])
                count += raw.num_rows + len(part.faults)
            if not count:
                raise empty(url)

    @abstractmethod
    def batches(self, url: str, digest: str, keys: tuple[Key, ...]) -> Iterator[Batch]:
        """The file's rows in its own types, those columns that `keys` name."""

    def _keys(self) -> tuple[Key, ...]:
        if self.format is not None:
            return form_of(self.format, self.columns, self.dialogue)[1]  # type: ignore[arg-type]
        given = dict(self.columns)
        optional = set(PARTS)
        return tuple(
            Key(
                c.name,
                c.type,
                required=not c.nullable and c.name not in optional,
                mapped=given.get(c.name, ""),
            )
            for c in self.gives().columns
        )

    def _result(self, rows: Rows, raw: pa.Table, part: Batch, name: str) -> Result:
        numbers, wrong, faults = part.numbers, wrong_rows(raw, self._keys()), list(part.faults)
        if self.format is None:
            present = {
                c: raw[c].combine_chunks() for c in raw.column_names if raw[c].null_count < len(raw) or not len(raw)
            }
            return Result(*rows.finished(present, wrong, numbers, faults, name))
        good = np.ones(len(numbers), bool)
        for mask, reason in wrong:
            faults += [Fault(int(line), reason, "a value") for line in numbers[good & mask]]
            good &= ~mask
        form = form_of(self.format, (), self.dialogue)[0]
        return Result(*rows.of_records(form, Parsed(raw.filter(pa.array(good)), numbers[good], faults), name))
