"""Shards of many datasets as one SELECT: rows below rows, columns by name, and of which dataset each row is.

Shards of equal columns are read by one `read_parquet`; what is said of a dataset is looked up by the number of the
file, so that a condition on it leaves files closed. Columns of one name and several types raise where they are read,
instead of being cast; so does every query that reaches a dataset whose files are not as its manifest says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from datakit.catalog.sql_text import literal, name, path
from datakit.catalog.workspace import ColumnText, Entry

LABELS: Mapping[str, tuple[str, str]] = {
    "recipe": ("VARCHAR", "the first folder of the dataset's place"),
    "experiment": ("VARCHAR", "the folders behind the recipe's"),
    "iteration": ("INTEGER", "which iteration of the recipe made it"),
    "stage": ("VARCHAR", "the last part of the dataset's name"),
    "dataset": ("VARCHAR", "the dataset's name: its place without the key behind it"),
    "variant": ("VARCHAR", "the first characters of its task key: other settings, another variant"),
    "op": ("VARCHAR", "the operation that made it"),
    "policy": ("VARCHAR", "the checkpoint that gave the answers: its place, or the first characters of its key"),
}
"""What stands beside the columns of the rows: type and meaning."""

_NUMBER = "file_index"


@dataclass(frozen=True)
class Field:
    """A column of a view: its name, type and meaning, and its value as SQL over the columns of a file."""

    name: str
    kind: str
    meaning: str
    value: str


@dataclass(frozen=True)
class Part:
    """The rows of some files of a dataset: their fields, and what its labels are."""

    entry: Entry
    files: tuple[str, ...]
    fields: tuple[Field, ...]
    labels: Mapping[str, str | int | None]


@dataclass(frozen=True)
class View:
    """A view: its SELECT, its meaning, and the meaning of its columns by name."""

    sql: str
    meaning: str
    columns: Mapping[str, str]


def fields_of(columns: Sequence[ColumnText]) -> tuple[Field, ...]:
    """The columns of a dataset as they are; one that is called like a label has `row_` before its name."""
    return tuple(
        Field(f"row_{one.name}" if one.name.lower() in LABELS else one.name, one.kind, one.meaning, _value(one))
        for one in columns
    )


def _value(column: ColumnText) -> str:
    if not column.stored:
        return f"NULL::{column.kind}"
    return name(column.name) if column.stored == column.kind else f"{name(column.name)}::{column.kind}"


def stacked(base: Sequence[Field], parts: Sequence[Part], meaning: str) -> View:
    """The rows of all `parts`, with the fields of `base` first; without any, a view of these that holds no row."""
    fields: dict[str, Field] = {one.name.lower(): one for one in base}
    named: dict[str, str] = {}
    faults: dict[str, str] = {}
    for part in parts:
        own: set[str] = set()
        for one in part.fields:
            key = one.name.lower()
            there = fields.setdefault(key, one)
            if key in own:
                faults[key] = f"{one.name}: {part.entry.place} has columns that differ in case alone"
            elif there.kind != one.kind:
                first = f"in {named[key]}" if key in named else "as a rule"
                faults.setdefault(key, f"{one.name}: {there.kind} {first}, {one.kind} in {part.entry.place}")
            own.add(key)
            named.setdefault(key, part.entry.place)
    broken = {key: f"{fault}; read one of them as a file" for key, fault in faults.items()}
    branches = [
        _nothing([*fields.values()]),
        *_branches([part for part in parts if not part.entry.damage], fields, broken),
    ]
    branches += [_damaged(part) for part in parts if part.entry.damage]
    texts = {one.name: one.meaning for one in fields.values()} | {label: text for label, (_, text) in LABELS.items()}
    return View("\nUNION ALL BY NAME\n".join(branches), meaning, texts)


def _nothing(fields: Sequence[Field]) -> str:
    """No row, and all columns in their order."""
    given = [(one.name, one.kind) for one in fields] + [(label, kind) for label, (kind, _) in LABELS.items()]
    return f"SELECT {', '.join(f'NULL::{kind} AS {name(text)}' for text, kind in given)} WHERE false"


def _damaged(part: Part) -> str:
    """A row that no query gets: the fault of the dataset instead."""
    fault = literal(f"{part.entry.place} is not what its manifest says: {part.entry.damage}")
    labels = ", ".join(f"{_literal(label, value)} AS {name(label)}" for label, value in part.labels.items())
    return f"SELECT {labels} WHERE error({fault}) IS NULL"


def _branches(parts: Sequence[Part], fields: Mapping[str, Field], faults: Mapping[str, str]) -> Iterator[str]:
    order = {shape: number for number, shape in enumerate(dict.fromkeys(part.fields for part in parts))}
    for shape, same in groupby(sorted(parts, key=lambda part: order[part.fields]), key=lambda part: part.fields):
        alike = [part for part in same if part.files]
        single = any(one.value.strip('"').lower() == _NUMBER for one in shape)
        for several in [[part] for part in alike] if single else [alike] if alike else []:
            yield _branch(shape, several, fields, faults)


def _branch(
    shape: Sequence[Field], parts: Sequence[Part], fields: Mapping[str, Field], faults: Mapping[str, str]
) -> str:
    columns, done = [], set()
    for one in shape:
        key = one.name.lower()
        if key not in done:
            raised = f"error({literal(faults.get(key))})::{fields[key].kind}"
            columns.append(f"{raised if key in faults else one.value} AS {name(fields[key].name)}")
        done.add(key)
    for label in parts[0].labels:
        values = [_literal(label, part.labels[label]) for part in parts for _ in part.files]
        kind = LABELS.get(label, ("VARCHAR", ""))[0]
        same = len(set(values)) == 1
        listed = values[0] if same else f"([{', '.join(values)}]::{kind}[])[{_NUMBER}::INTEGER + 1]"
        columns.append(f"{listed} AS {name(label)}")
    files = ", ".join(path(file) for part in parts for file in part.files)
    return f"SELECT {', '.join(columns)}\nFROM read_parquet([{files}], hive_partitioning = false)"


def _literal(label: str, value: str | int | None) -> str:
    kind = LABELS.get(label, ("VARCHAR", ""))[0]
    return f"NULL::{kind}" if value is None else str(value) if isinstance(value, int) else literal(value)
