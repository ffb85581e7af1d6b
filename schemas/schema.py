"""What a row may be: an explicit Arrow schema with a name, a version, a key and a meaning for every column.

Writers and readers pass the same object. Schemas are open: an operation names the columns it needs (`requires`), other
columns pass through. `conform` brings an outside table to the declared types without ever losing a value; `check` adds
what Arrow cannot say (no nulls where none may be, finite numbers) and lists every fault at once.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import ConfigError, DataError, printable
from schemas.untrusted import once
from schemas.valid import require_valid

_METADATA_KEY = b"quiver.schema"
_WIDER = {pa.float16(): pa.float32()}
"""Types whose numbers are read as those of another one, which has all of them."""


@dataclass(frozen=True)
class Column:
    """One column: Arrow type, one-line meaning, whether it may be null, and (for floats) whether it must be finite."""

    name: str
    type: pa.DataType
    meaning: str
    nullable: bool = False
    finite: bool = False

    @property
    def field(self) -> pa.Field:
        """The column as an Arrow field."""
        return pa.field(self.name, self.type, nullable=self.nullable)


@dataclass(frozen=True)
class Schema:
    """A named, versioned row kind. `key` names the columns whose values are unique over a dataset.

    Columns can follow settings that a person gives: one that stands there twice is `ConfigError`.
    """

    name: str
    version: int
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_once(self.names, f"rows of {self.name}")
        assert set(self.key) <= set(self.names), f"schema {self.name}: key {self.key} is not among {self.names}"

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in the order in which they are stored."""
        return tuple(column.name for column in self.columns)

    @property
    def arrow(self) -> pa.Schema:
        """The Arrow schema, carrying this schema's own JSON as metadata."""
        return pa.schema([c.field for c in self.columns], metadata={_METADATA_KEY: json.dumps(self.to_json()).encode()})

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def adding(self, *columns: Column) -> Schema:
        """This schema with `columns` behind its own; a column of the same name is replaced in place."""
        _require_once([column.name for column in columns], f"columns beside rows of {self.name}")
        new = {column.name: column for column in columns}
        kept = tuple(new.pop(column.name, column) for column in self.columns)
        return replace(self, columns=kept + tuple(new.values()))

    def dropping(self, *names: str) -> Schema:
        """This schema without the named columns (and without its key, if one of them was part of it)."""
        columns = tuple(column for column in self.columns if column.name not in names)
        return replace(self, columns=columns, key=() if set(self.key) & set(names) else self.key)

    def selecting(self, *names: str) -> Schema:
        """This schema with only the named columns, in the order given."""
        unknown = [str(name) for name in names if name not in self]
        if unknown or len(set(names)) < len(names):
            raise ConfigError(
                "unknown-column" if unknown else "bad-setting",
                f"{self.name} has no column {', '.join(map(printable, unknown))}"
                if unknown
                else "a column is named twice",
                expected=", ".join(self.names),
                found=", ".join(printable(name) for name in names),
                kept="nothing was started",
            )
        columns = tuple(self[name] for name in names)
        return replace(self, columns=columns, key=self.key if set(self.key) <= set(names) else ())

    def renamed(self, name: str, *, version: int = 1, key: tuple[str, ...] | None = None) -> Schema:
        """The same columns as another row kind."""
        return Schema(name, version, self.columns, self.key if key is None else key)

    def widened(self) -> Schema:
        """This schema with float32 for float16 at every level."""
        fields = widened(self.arrow)
        return replace(self, columns=tuple(replace(one, type=fields.field(one.name).type) for one in self.columns))

    def requires(self, needed: Schema, who: str) -> None:
        """Raise `DataError` listing every column of `needed` that these rows lack or hold with another type, numbers of
        float16 aside, which are read as those of float32 that they are.
        """
        faults = []
        for column in needed.columns:
            if column.name not in self:
                faults.append(f"no column {column.name}: {column.type}")
            elif not reads_as(self[column.name].type, column.type):
                faults.append(f"{column.name} is {self[column.name].type}, needed {column.type}")
            elif self[column.name].nullable and not column.nullable:
                faults.append(f"{column.name} may be null")
        if faults:
            raise DataError(
                "schema",
                f"{who} cannot read rows of kind {self.name}: {'; '.join(faults)}",
                expected=f"{needed.name} with {', '.join(needed.names)}",
                found=f"{self.name} with {', '.join(self.names)}",
                kept="nothing was started",
            )

    def conform(self, table: pa.Table, where: str = "") -> pa.Table:
        """`table` with exactly these columns, in this order, cast without loss; `DataError` lists all faults."""
        faults, arrays, there = [], [], Counter(table.column_names)
        for column in self.columns:
            if not there[column.name]:
                if column.nullable:
                    arrays.append(pa.nulls(table.num_rows, column.type))
                else:
                    faults.append(f"no column {column.name}")
                continue
            if there[column.name] > 1:
                faults.append(f"{column.name} stands there twice")
                continue
            values = table[column.name]
            if values.type != column.type:
                try:
                    values = _cast(values, column.type)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
                    # A value would change; Arrow knows no such cast; its meaning would change (`_cast`).
                    faults.append(f"{column.name} is {values.type}, declared {column.type}")
                    continue
            arrays.append(values)
        if faults:
            raise DataError(
                "schema",
                f"rows do not fit {self.name} v{self.version}: {'; '.join(faults)}",
                expected=", ".join(self.names),
                found=", ".join(table.column_names),
                where=where,
            )
        return pa.Table.from_arrays(arrays, schema=self.arrow)

    def check(self, table: pa.Table, where: str = "") -> pa.Table:
        """`conform` of values that are what their types say (`require_valid`), then nulls and non-finite numbers;
        `DataError` lists all faults with the first rows at fault.
        """
        there = Counter(table.column_names)
        require_valid(table.select([name for name in self.names if there[name] == 1]), where)
        table = self.conform(table, where)
        faults = [fault for column in self.columns for fault in _value_faults(column, table)]
        if faults:
            slug, texts = faults[0][0], "; ".join(text for _, text in faults)
            raise DataError(slug, f"rows break {self.name} v{self.version}: {texts}", where=where)
        return table

    def require_known(self, table: pa.Table, where: str = "") -> None:
        """`DataError` where `table` is none, or has columns that are not named here."""
        if not isinstance(table, pa.Table):
            raise DataError(
                "no-table",
                f"rows of {self.name} are an Arrow table",
                found=type(table).__name__,
                where=where,
                kept="nothing was written",
                next="pyarrow.table(...) of a dict of columns or a pandas frame; Dataset.from_polars for polars",
            )
        extra = [name for name in table.column_names if name not in self]
        if extra:
            raise DataError(
                "unknown-columns",
                f"{self.name} v{self.version} has no columns {printable(', '.join(extra), 200)}",
                expected=", ".join(self.names),
                found=printable(", ".join(table.column_names), 200),
                where=where,
                kept="nothing was written",
                next="rows.select(schema.names), or schema.adding(Column(name, type, meaning))",
            )

    def require_unique(self, table: pa.Table, where: str = "") -> None:
        """`DataError` where two rows of `table` have the same key; fine for rows without one."""
        if not self.key:
            return
        key = [_grouped(table[name]) for name in self.key]
        places = pa.table([*key, pa.array(range(table.num_rows), pa.int64())], names=[*self.key, "at row"])
        groups = places.group_by(list(self.key)).aggregate([("at row", "min"), ("at row", "max"), ("at row", "count")])
        twice = groups.filter(pc.greater(groups["at row_count"], 1)).sort_by("at row_min")
        if twice.num_rows:
            names = ", ".join(printable(twice[name][0].as_py()) for name in self.key)
            raise DataError(
                "duplicate-id",
                f"{twice.num_rows} {', '.join(self.key)} stand in several rows, first {names} in row "
                f"{twice['at row_min'][0]} and row {twice['at row_max'][0]}",
                expected=f"rows of kind {self.name} with a {', '.join(self.key)} of their own",
                where=where,
                kept="nothing was written",
                next="mend those ids, or name a schema without a key: schema.renamed(name, key=())",
            )

    def to_json(self) -> dict[str, Any]:
        """A plain description: name, version, key and columns with their types as text."""
        columns = [
            {"name": c.name, "type": str(c.type), "nullable": c.nullable, "finite": c.finite, "meaning": c.meaning}
            for c in self.columns
        ]
        return {"name": self.name, "version": self.version, "key": list(self.key), "columns": columns}

    @staticmethod
    def from_json(data: dict[str, Any], arrow: pa.Schema) -> Schema:
        """Inverse of `to_json`; types come from `arrow`, the schema stored in the files themselves. `ValueError` for a
        column that is described twice.
        """
        once([(c["name"], c) for c in data["columns"]])
        columns = tuple(
            Column(c["name"], arrow.field(c["name"]).type, c["meaning"], c["nullable"], c["finite"])
            for c in data["columns"]
        )
        return Schema(data["name"], data["version"], columns, tuple(data["key"]))

    @staticmethod
    def of_arrow(arrow: pa.Schema, name: str = "rows") -> Schema:
        """The schema stamped on an Arrow schema by our writer, or a nameless one made of its fields."""
        stamped = (arrow.metadata or {}).get(_METADATA_KEY)
        if stamped is not None:
            return Schema.from_json(json.loads(stamped), arrow)
        return Schema(name, 1, tuple(Column(f.name, f.type, "", f.nullable) for f in arrow))

    def example(self, rows: int = 3) -> pa.Table:
        """A small valid table: distinct key values, short texts, small numbers."""
        arrays = [pa.array([_value(c.type, i, c.name) for i in range(rows)], c.type) for c in self.columns]
        return pa.Table.from_arrays(arrays, schema=self.arrow)

    def empty(self) -> pa.Table:
        """A table of this schema without rows."""
        return self.arrow.empty_table()


def _require_once(names: Sequence[str], what: str) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(
            "bad-setting",
            f"{what} would have a column twice: {', '.join(map(printable, twice))}",
            expected="settings that name columns of their own, and none that is read or made already",
            found=printable(", ".join(names), 200),
            kept="nothing was started",
            next="name another column",
        )


def common(schemas: Iterable[Schema]) -> Schema:
    """The columns that all `schemas` share by name and type (nullable if any is), named after the first."""
    first, *others = schemas
    columns = []
    for column in first.columns:
        if all(column.name in other and same_type(other[column.name].type, column.type) for other in others):
            nullable = column.nullable or any(other[column.name].nullable for other in others)
            columns.append(replace(column, nullable=nullable))
    names = {column.name for column in columns}
    return Schema(first.name, first.version, tuple(columns), first.key if set(first.key) <= names else ())


def _plain(kind: pa.DataType, numbers: Mapping[pa.DataType, pa.DataType] = MappingProxyType({})) -> pa.DataType:
    """`kind` with large and view variants made plain, and those of `numbers` by others, at every level; nested
    nullability is ignored.
    """
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(_plain(kind.value_type, numbers))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _plain(field.type, numbers)) for field in kind])
    return numbers.get(kind, kind)


def widened(arrow: pa.Schema) -> pa.Schema:
    """`arrow` with float32 for float16 at every level, for readers without it; the same object where there is none."""
    fields = [
        field if (kind := _plain(field.type, _WIDER)) == _plain(field.type) else field.with_type(kind)
        for field in arrow
    ]
    return arrow if fields == [*arrow] else pa.schema(fields, metadata=arrow.metadata)


def same_type(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two types differ at most in large or view variants and in the names of list items."""
    return one == other or bool(_plain(one) == _plain(other))


def reads_as(kind: pa.DataType, needed: pa.DataType) -> bool:
    """Whether columns of `kind` are read where `needed` is asked for: the same type, or with float16 for float32."""
    return same_type(kind, needed) or same_type(_plain(kind, _WIDER), needed)


def _cast(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A safe cast that refuses what would change a value's meaning (text to number, number to bool)."""
    families = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    number = any(test(values.type) for test in families[:2]) and any(test(kind) for test in families[:2])
    if not (same_type(values.type, kind) or number or pa.types.is_null(values.type) or pa.types.is_nested(kind)):
        raise pa.ArrowTypeError(f"{values.type} is not {kind}")
    if pa.types.is_nested(kind) and not (pa.types.is_nested(values.type) or pa.types.is_null(values.type)):
        raise pa.ArrowTypeError(f"{values.type} is not {kind}")
    return values.cast(kind, safe=True)


def _grouped(values: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """A key column as what Arrow can group by: lists and structs as their text."""
    return pa.array(map(repr, values.to_pylist()), pa.string()) if pa.types.is_nested(values.type) else values


def _value_faults(column: Column, table: pa.Table) -> list[tuple[str, str]]:
    values = table[column.name]
    faults = []
    if not column.nullable and values.null_count:
        row = pc.index(pc.is_null(values), True).as_py()
        faults.append(("null", f"{column.name} is null in {values.null_count} of {len(values)} rows, first row {row}"))
    if column.finite:
        bad = pc.and_kleene(pc.is_valid(values), pc.invert(pc.is_finite(values)))
        count = pc.sum(bad).as_py() or 0
        if count:
            row = pc.index(bad, True).as_py()
            name = printable(table.column(0)[row].as_py())
            text = f"{column.name} is not finite in {count} of {len(values)} rows, first row {row} ({name})"
            faults.append(("not-finite", text))
    return faults


def _value(kind: pa.DataType, row: int, name: str) -> Any:
    if pa.types.is_string(kind):
        return "[]" if name == "tools" else f"{name} {row}"
    if pa.types.is_floating(kind):
        return row / 2
    if pa.types.is_boolean(kind):
        return row % 2 == 0
    if pa.types.is_list(kind):
        inner = kind.value_type
        if pa.types.is_struct(inner) and {"role", "content"} <= {f.name for f in inner}:
            return [{"role": "user", "content": f"question {row}"}]
        if pa.types.is_int8(inner):  # a loss mask
            return [0, 1, 1]
        return [_value(inner, row + i, name) for i in range(1 if pa.types.is_struct(inner) else 3)]
    if pa.types.is_struct(kind):
        return {field.name: _value(field.type, row, field.name) for field in kind}
    return row + 1


def with_columns(rows: pa.Table, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """`rows` with these columns: in the place of one of that name, or at the end."""
    return pa.table({**dict(zip(rows.column_names, rows.columns, strict=True)), **columns})
