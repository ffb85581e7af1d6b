"""Which columns hold ids of rows, in every result of a workspace: a row's own, and those of what it was made of.

A column says by the end of its name what it names: `chosen_sample_id` and `sample_ids` hold samples. The row's own id
is its key; where a result has lost its key, because rows may repeat, the narrowest id that it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datakit.catalog.lineage import Lineage
from datakit.catalog.made import ColumnText
from datakit.catalog.workspace import Entry
from schemas.rows.records import RECORDS

PACK = "pack_id"
ENTITIES = (PACK, "pair_id", "sample_id", "prompt_id")
"""What rows are, the narrower first."""

_ROW = RECORDS.key[0]


@dataclass(frozen=True)
class IdColumn:
    """A column of ids: which `entity` these name, and whether each cell is a list of `several`."""

    name: str
    entity: str
    several: bool = False


@dataclass(frozen=True)
class Rows:
    """The rows of a result, or those set `aside` when it was made: their files, columns and ids; `own` is the row's."""

    index: int
    """Which entry of the workspace it is."""
    entry: Entry
    aside: bool
    columns: tuple[ColumnText, ...]
    ids: tuple[IdColumn, ...]
    own: IdColumn

    @property
    def files(self) -> list[str]:
        """Absolute paths of the files that hold rows."""
        listed = self.entry.made.rejected if self.aside else self.entry.made.files
        return [f"{self.entry.root}/{self.entry.place}/{path}" for path, rows, _ in listed if rows]

    @property
    def records(self) -> bool:
        """Whether they are what a training saw."""
        return self.entry.made.rows_kind == RECORDS.name


def rows_with_ids(lineage: Lineage) -> list[Rows]:
    """All rows of a workspace that have an id, those set aside too."""
    matches = []
    for index, entry in enumerate(lineage.entries):
        for aside in (False, True) if entry.made.kind == "dataset" else ():
            columns = entry.made.rejected_columns if aside else entry.made.columns
            ids = _ids(columns, () if aside else entry.made.row_key)
            own = _own(ids, () if aside else entry.made.row_key)
            if own is not None:
                matches.append(Rows(index, entry, aside, columns, ids, own))
    plain = {one.index: one.own.entity for one in matches if not one.aside and not one.records}
    return [_of_data(one, lineage, plain) if one.own.name == _ROW else one for one in matches]


def _ids(columns: Sequence[ColumnText], key: Sequence[str]) -> tuple[IdColumn, ...]:
    matches = []
    for column in columns:
        if column.stored != column.kind:
            continue
        if column.kind == "VARCHAR" and (column.name.endswith("_id") or [column.name] == [*key]):
            matches.append(IdColumn(column.name, _entity(column.name)))
        elif column.kind == "VARCHAR[]" and column.name.endswith("_ids"):
            matches.append(IdColumn(column.name, _entity(column.name[:-1]), several=True))
    return tuple(matches)


def _entity(name: str) -> str:
    return next((one for one in ENTITIES if name == one or name.endswith(f"_{one}")), name)


def _own(ids: Sequence[IdColumn], key: Sequence[str]) -> IdColumn | None:
    plain = {one.name: one for one in ids if not one.several}
    return next((plain[name] for name in (*key[:1], *ENTITIES) if name in plain), None)


def _of_data(records: Rows, lineage: Lineage, plain: dict[int, str]) -> Rows:
    """Records whose key could not have the name that it has in the data: they name what the data's own id does."""
    data = [lineage.entries.index(one) for one in lineage.inputs(records.entry, "data")]
    entity = next((plain[index] for index in data if index in plain), _ROW)
    own = IdColumn(_ROW, entity)
    others = tuple(one for one in records.ids if one.name != _ROW)
    return Rows(records.index, records.entry, records.aside, records.columns, (own, *others), own)
