"""Shards of many datasets as one SELECT: rows below rows, columns by name, and of which dataset each row is.

Shards of equal columns are read by one `read_parquet`; what is said of a dataset is looked up by the number of the
file, so that a condition on it leaves files closed. Columns of one name and several types raise where they are read,
instead of being cast; so does every query that reaches a dataset whose files are not as its manifest says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from datakit.catalog.made import ColumnText
from datakit.catalog.sql_text import literal, name, path
from datakit.catalog.workspace import Entry

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

AT = '"place inside"'
"""In SQL, the number of the element that a row of a part is."""

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
    """The rows of some files of a dataset: their fields, and what its labels are; with `inside`, a column of lists, a
    row for each element, whose number (from 1) fields find as `AT`.
    """

    entry: Entry
    files: tuple[str, ...]
    fields: tuple[Field, ...]
    labels: Mapping[str, str | int | None]
    inside: str = ""


@dataclass(frozen=True)
class View:
    """A view: its SELECT, its meaning, of its columns by name the meaning, and the type where files hold them; and the
    places of the datasets whose files it reads.
    """

    sql: str
    meaning: str
    columns: Mapping[str, str]
    kinds: Mapping[str, str] = field(default_factory=dict)
    reads: frozenset[str] = frozenset()


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
    kinds = {one.name: one.kind for one in fields.values()} | {label: kind for label, (kind, _) in LABELS.items()}
    whole = [part for part in parts if not part.entry.damage]
    branches = [_branch(shape, several, kinds, broken) for shape, several in _alike(whole)]
    branches += [_damaged(part, kinds) for part in parts if part.entry.damage]
    nothing = f"SELECT {_selected({}, kinds)} WHERE false"
    texts = {one.name: one.meaning for one in fields.values()} | {label: text for label, (_, text) in LABELS.items()}
    places = frozenset(part.entry.place for part in parts)
    return View("\nUNION ALL\n".join(branches or [nothing]), meaning, texts, kinds, places)


def _selected(values: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    """All columns in their order; those that have none of `values` are null. Names are compared in small letters."""
    return ", ".join(f"{values.get(one.lower(), f'NULL::{kind}')} AS {name(one)}" for one, kind in kinds.items())


def _damaged(part: Part, kinds: Mapping[str, str]) -> str:
    """A row that no query gets: the fault of the dataset instead. Nothing but its labels is known of it, so that only
    a condition on these passes it by.
    """
    fault = f"error({literal(f'{part.entry.place} is not what its manifest says: {part.entry.damage}')})"
    values = {one.lower(): f"{fault}::{kind}" for one, kind in kinds.items()}
    values |= {label: _literal(value, kinds[label]) for label, value in part.labels.items()}
    return f"SELECT {_selected(values, kinds)} WHERE {fault} IS NULL"


def _alike(parts: Sequence[Part]) -> Iterator[tuple[Sequence[Field], Sequence[Part]]]:
    """The parts whose files are read together: those of equal fields."""
    shapes: dict[tuple[tuple[Field, ...], str], list[Part]] = {}
    for part in parts:
        if part.files:
            shapes.setdefault((part.fields, part.inside), []).append(part)
    for (shape, _), alike in shapes.items():
        single = any(one.value.strip('"').lower() == _NUMBER for one in shape)
        yield from ((shape, several) for several in ([[part] for part in alike] if single else [alike]))


def _branch(shape: Sequence[Field], parts: Sequence[Part], kinds: Mapping[str, str], faults: Mapping[str, str]) -> str:
    known = {one.lower(): kind for one, kind in kinds.items()}
    values: dict[str, str] = {}
    for one in shape:
        key = one.name.lower()
        values[key] = f"error({literal(faults[key])})::{known[key]}" if key in faults else one.value
    for label in parts[0].labels:
        listed = [_literal(part.labels[label], kinds[label]) for part in parts for _ in part.files]
        same = len(set(listed)) == 1
        texts = f"([{', '.join(listed)}]::{kinds[label]}[])[{_NUMBER}::INTEGER + 1]"
        values[label] = listed[0] if same else texts
    files = ", ".join(path(file) for part in parts for file in part.files)
    source = f"read_parquet([{files}], hive_partitioning = false)"
    if inside := parts[0].inside:
        each = f"unnest(range(1, len({name(inside)}) + 1)) AS {AT}"
        source = f"(SELECT *, {_NUMBER}, {each} FROM {source})"
    return f"SELECT {_selected(values, kinds)}\nFROM {source}"


def _literal(value: str | int | None, kind: str) -> str:
    return f"NULL::{kind}" if value is None else str(value) if isinstance(value, int) else literal(value)
