"""Packs as the rows inside: several sequences lie end to end in one, and each was a row of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from datakit.catalog.sql_text import name
from datakit.catalog.stacked import AT, Field, Part
from schemas.rows.tokens import PACKED_PAIRS, PACKS, PAIRS, SOURCES, TOKENS, sequence_columns

_ROWS = {PACKS.name: (TOKENS, "sample_ids"), PACKED_PAIRS.name: (PAIRS, "pair_ids")}
"""Of each kind of packs the kind of its rows, and the column of their ids."""


def unpacked(part: Part) -> Part:
    """The rows inside `part`, each with the `pack_id` of its pack; itself where it holds no packs."""
    if part.entry.made.rows_kind not in _ROWS:
        return part
    rows, ids = _ROWS[part.entry.made.rows_kind]
    sequences = [sequence_columns(column) for column in rows.names if column.endswith("_ids")]
    lengths = {column: one.lengths for one in sequences for column in (one.ids, one.mask)}
    fields = _fields(part, {ids: rows.key[0], SOURCES.name: "source"}, lengths)
    return replace(part, fields=tuple(fields), inside=ids)


def _fields(part: Part, singular: Mapping[str, str], lengths: Mapping[str, str]) -> Iterator[Field]:
    """The fields of a row: of lists with an element for each row that element, of sequences its piece, and the pack."""
    for one in part.fields:
        if one.name in lengths:
            yield replace(one, value=_piece(one.name, lengths[one.name]))
        elif one.name not in lengths.values():
            several = one.kind.endswith("[]")
            own = replace(one, name=singular.get(one.name, one.name))
            yield replace(own, kind=one.kind[:-2], value=f"({one.value})[{AT}]") if several else own


def _piece(column: str, lengths: str) -> str:
    """The elements of a list of a pack that are of the row at `AT`."""
    before = f"coalesce(list_sum({name(lengths)}[:{AT} - 1]), 0)::BIGINT"
    return f"{name(column)}[{before} + 1 : {before} + {name(lengths)}[{AT}]]"
