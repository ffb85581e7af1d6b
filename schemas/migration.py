"""Datasets written under an earlier version of a row kind, read as the kind is now.

Before version 2 a turn was role and content alone, and rows had no `tools`; before version 3 preferences did not say
which samples their answers were drawn as. Such files are read with nulls in the new places. Files, digests and keys
stay what they are, and so do the ids of rows: a null part does not enter an id.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from schemas.rows.conversation import MESSAGES, TOOLS
from schemas.rows.preferences import PAIR_LINEAGE, PREFERENCES
from schemas.schema import Column, Schema, same_type

_LINEAGE = tuple(column.name for column in PAIR_LINEAGE)
_TWO_FIELDS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def migrated(schema: Schema) -> Schema:
    """`schema` as it would be written today; the same object where nothing changed."""
    return _with_pair_lineage(_with_whole_turns(schema))


def holds(stored: Schema, schema: Schema) -> bool:
    """Whether a file of the columns `stored`, of whatever version, holds the rows of `schema`, a migrated one."""
    now = _with_whole_turns(stored)
    needed = (column for column in schema.columns if column.name in now or column.name not in _LINEAGE)
    return [(column.name, column.type) for column in needed] == [(column.name, column.type) for column in now.columns]


def _with_pair_lineage(schema: Schema) -> Schema:
    """Preferences of version 2 as version 3 has them."""
    older = schema.name == PREFERENCES.name and schema.version == 2 and "rejected_reward" in schema
    if not older or any(name in schema for name in _LINEAGE):
        return schema
    at = schema.names.index("rejected_reward") + 1
    return replace(schema, version=3, columns=(*schema.columns[:at], *PAIR_LINEAGE, *schema.columns[at:]))


def _with_whole_turns(schema: Schema) -> Schema:
    if not any(map(_is_of_two_fields, (column.type for column in schema.columns))):
        return schema
    columns: list[Column] = []
    for column in schema.columns:
        old = _is_of_two_fields(column.type)
        columns.append(replace(column, type=MESSAGES) if old else column)
        if old and column.name == "messages" and TOOLS.name not in schema:
            columns.append(TOOLS)
    return Schema(schema.name, schema.version + 1, tuple(columns), schema.key)


def _is_of_two_fields(kind: pa.DataType) -> bool:
    return kind.num_fields == 1 and same_type(kind, _TWO_FIELDS)


def conformed(table: pa.Table, schema: Schema) -> pa.Table:
    """`table`, as it was written, with the columns of `schema`, a selection of its migrated schema, in that order."""
    columns = []
    for column in schema.columns:
        if column.name not in table.column_names:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, column.type)]))
        else:
            values = table[column.name]
            columns.append(values.cast(column.type) if _is_of_two_fields(values.type) else values)
    return pa.Table.from_arrays(columns, schema=schema.arrow)
