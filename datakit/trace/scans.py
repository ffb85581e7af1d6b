"""Ids looked up in the files of a workspace: one scan for all results of equal columns, in a child that is bounded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from datakit.catalog.sql_text import literal, name, path
from datakit.duck.child import SqlError, SqlProcess
from datakit.trace.row_ids import IdColumn, Rows
from schemas.errors import DataError, printable

MOST = 200_000
"""Rows of one answer about one row."""

_WANTED = "_wanted"
_NUMBER = "file_index"
_AT_ONCE = 400
"""Results that one statement reads."""

Id = tuple[str, str]
"""What a row is, and its id."""


@dataclass(frozen=True)
class Hit:
    """`count` rows of `rows` whose own id is `own`, in which the column `through` names the `id`."""

    rows: Rows
    own: str
    through: IdColumn
    id: str
    count: int


def source(files: Sequence[str]) -> str:
    """The rows of these files, for FROM."""
    return f"read_parquet([{', '.join(map(path, files))}], hive_partitioning = false)"


def hits(process: SqlProcess, all_rows: Sequence[Rows], asked_ids: Collection[Id]) -> list[Hit]:
    """Every place where one of `asked_ids` stands."""
    entities = {entity for entity, _ in asked_ids}
    groups: dict[Any, list[Rows]] = defaultdict(list)
    for one in all_rows:
        if one.files and any(column.entity in entities for column in one.ids):
            groups[one.columns, one.ids, one.own].append(one)
    searched = [(alike, column) for alike in _cut(groups.values()) for column in alike[0].ids]
    parts = [
        (alike, column, _search(alike, column, place))
        for place, (alike, column) in enumerate(searched)
        if column.entity in entities
    ]
    by_index = {(one.index, one.aside): one for one in all_rows}
    through = dict(enumerate(column for _, column in searched))
    matches: list[Hit] = []
    for start in range(0, len(parts), _AT_ONCE):
        text = "\nUNION ALL\n".join(sql for _, _, sql in parts[start : start + _AT_ONCE])
        counted = f"SELECT *, count(*) AS rows FROM ({text}) GROUP BY ALL LIMIT {MOST + 1}"
        for row in asked(process, counted, {_WANTED: _table(asked_ids)}).to_pylist():
            key = row["n"] >> 1, bool(row["n"] & 1)
            matches.append(Hit(by_index[key], row["own"], through[row["p"]], row["id"], row["rows"]))
        if len(matches) > MOST:
            raise _too_many()
    return matches


def values(process: SqlProcess, rows: Rows, columns: Mapping[str, str], ids: Collection[str]) -> list[dict[str, Any]]:
    """The `columns` (name -> SQL) of those of `rows` whose own id is one of `ids`, each with its `own` id."""
    chosen = "".join(f", {sql} AS c{place}" for place, sql in enumerate(columns.values()))
    own = name(rows.own.name)
    where = f"{own} IN (SELECT id FROM {_WANTED}) LIMIT {MOST + 1}"
    text = f"SELECT {own} AS own{chosen} FROM {source(rows.files)} WHERE {where}"
    table = asked(process, text, {_WANTED: _table([("", one) for one in ids])})
    if table.num_rows > MOST:
        raise _too_many()
    return table.rename_columns(["own", *columns]).to_pylist() if columns else table.to_pylist()


def asked(process: SqlProcess, text: str, tables: Mapping[str, pa.Table] | None = None) -> pa.Table:
    """The answer to a `text` of ours; `DataError` where files are not what their manifests say."""
    try:
        return process.table(text, tables)
    except SqlError as error:
        raise unreadable(error) from None


def unreadable(error: SqlError) -> DataError:
    """The error of files that are not what their manifests say."""
    return DataError(
        "sql-failed",
        f"the files cannot be read: {printable(error, 400)}",
        kept="everything; nothing was changed",
        next="bring back what it names, or remove that dataset",
    )


def _too_many() -> DataError:
    return DataError(
        "too-many-rows",
        f"more than {MOST:,} rows come of what was asked about",
        expected=f"at most {MOST:,}",
        kept="everything; nothing was changed",
        next="ask about one of them, or count them: quiver sql",
    )


def _cut(groups: Collection[list[Rows]]) -> Iterator[list[Rows]]:
    """The groups; those whose files have a column that is called as the number of a file is, one by one."""
    for alike in groups:
        single = any(column.name.lower() == _NUMBER for column in alike[0].columns)
        yield from ([one] for one in alike) if single else (alike,)


def _search(alike: Sequence[Rows], column: IdColumn, place: int) -> str:
    """The rows of `alike` that name wanted ids in `column`, each with which result it is of (`n`)."""
    numbers = [2 * one.index + one.aside for one in alike for _ in one.files]
    same = len(set(numbers)) == 1
    number = str(numbers[0]) if same else f"([{', '.join(map(str, numbers))}]::INTEGER[])[{_NUMBER}::INTEGER + 1]"
    where = f"IN (SELECT id FROM {_WANTED} WHERE entity = {literal(column.entity)})"
    files, own, at = source([file for one in alike for file in one.files]), name(alike[0].own.name), name(column.name)
    if column.several:
        unnested = f"SELECT {number} AS n, {own} AS own, unnest({at}) AS id FROM {files}"
        return f"SELECT n, own, {place} AS p, id FROM ({unnested}) WHERE id {where}"
    return f"SELECT {number} AS n, {own} AS own, {place} AS p, {at} AS id FROM {files} WHERE {at} {where}"


def _table(asked_ids: Collection[Id]) -> pa.Table:
    entities, ids = zip(*sorted(asked_ids), strict=True)
    return pa.table({"entity": pa.array(entities, pa.string()), "id": pa.array(ids, pa.string())})
