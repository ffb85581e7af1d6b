"""Which rows fed a checkpoint: those of its data, what each of them had passed on the way, and in which steps it was
learnt with which weight and loss.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datakit.catalog.sql_text import literal, name
from datakit.catalog.trained_on import trainings
from datakit.catalog.workspace import Entry
from datakit.duck.child import SqlError, SqlProcess
from datakit.trace.row_ids import PACK, IdColumn, Rows
from datakit.trace.row_trace import Tracer
from datakit.trace.scans import asked, source, unreadable
from schemas.errors import DataError
from schemas.run_layout import RECORDS_END

_CHOOSES = ("filter.", "blend.", "sql.", "generate.", "io.", "notebook.")
"""Families whose operations say which rows there are."""


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A result on the way to a checkpoint's data, and how many of the rows in it came to be learnt (or rows were made
    of that were).
    """

    entry: Entry
    rows: int
    same: bool
    """Whether they are the rows of the data, under the same ids."""


class Fed:
    """The rows of the data of `checkpoint`, asked for when they are wanted."""

    def __init__(self, tracer: Tracer, process: SqlProcess, checkpoint: Entry) -> None:
        self.checkpoint, self._process = checkpoint, process
        places = {entry.place: index for index, entry in enumerate(tracer.lineage.entries)}
        at = {one.index: one for one in tracer.rows if not one.aside}
        matches = [one for one in trainings(tracer.lineage, places[checkpoint.place]) if one.role == "data"]
        self._online = any(one.online for one in matches)
        self._data = next((at[one.data] for one in matches if one.data in at), None)
        self._records = at.get(places.get(f"{checkpoint.place}{RECORDS_END}", -1))
        self._lineage, self._at, self._places = tracer.lineage, at, places
        if self._data is None:
            raise DataError(
                "rows-gone",
                f"the rows that {checkpoint.name} was trained on are not there",
                found=next((url for role, url, *_ in checkpoint.made.parents if role == "data"), "no data"),
                where=checkpoint.place,
                kept="everything; nothing was changed",
                next="quiver ls --all",
            )

    @property
    def data(self) -> Rows:
        """The rows that it was trained on."""
        assert self._data is not None
        return self._data

    @property
    def key(self) -> str:
        """What its rows are known by: the id of the data, or of packs that of the rows inside."""
        return self._row.entity if self._row.several else self._row.name

    @property
    def _row(self) -> IdColumn:
        own = self.data.own
        return next((one for one in self.data.ids if one.several and own.entity == PACK), own)

    @property
    def _row_ids(self) -> str:
        at = name(self._row.name)
        return f"SELECT {f'unnest({at})' if self._row.several else at} AS id FROM {source(self.data.files)}"

    @property
    def online(self) -> bool:
        """Whether these are prompts, answered while it ran."""
        return self._online

    def totals(self) -> Mapping[str, Any]:
        """How many `rows` there are, of how many ids; how many `records` of how many steps, of how many ids."""
        text = f"SELECT count(*) AS rows, count(DISTINCT id) AS ids FROM ({self._row_ids})"
        totals: dict[str, Any] = asked(self._process, text).to_pylist()[0]
        if self._records is not None:
            own = name(self._records.own.name)
            text = f"""SELECT count(*) AS records, count(DISTINCT step) AS steps, count(DISTINCT {own}) AS learnt
                FROM {source(self._records.files)}"""
            totals |= asked(self._process, text).to_pylist()[0]
        return totals

    def passed(self) -> list[Passed]:
        """The results that its rows came through, first those in which they came to be, without those that change
        nothing of which rows there are.
        """
        matches, ids = [], self._ids()
        for rows, same in self._way():
            asked_ids = ids.get(rows.own.entity)
            if asked_ids is None or not rows.entry.made.op.startswith(_CHOOSES):
                continue
            own = name(rows.own.name)
            text = f"SELECT count(DISTINCT {own}) AS rows FROM {source(rows.files)} WHERE {own} IN ({asked_ids})"
            count = asked(self._process, text).to_pylist()[0]["rows"] if rows.files else 0
            if count:
                matches.append(Passed(entry=rows.entry, rows=count, same=same))
        return matches

    def rows(self, passed: list[Passed]) -> Iterator[dict[str, Any]]:
        """Every id of its data, in order: by which `key`, how often it stands there (`count`), the results it `passed`,
        the `steps` that learnt it, and of each the `weights` and `losses`; no list where there are no records. Answers
        that an online run drew stand behind its prompts, by a key of their own.
        """
        at = self._at
        places = [one for one in passed if one.same]
        through = ", ".join(
            f"CASE WHEN id IN (SELECT {name(rows.own.name)} FROM {source(rows.files)}) "
            f"THEN {literal(one.entry.place)} END"
            for one in places
            for rows in (at[self._places[one.entry.place]],)
        )
        entity = self._row.entity
        learnt = """SELECT NULL::VARCHAR AS key, NULL::VARCHAR AS id, NULL::INTEGER[] AS steps,
            NULL::DOUBLE[] AS weights, NULL AS losses"""
        if self._records is not None and self._records.files:
            key = name(self._records.own.name)
            learnt = f"""SELECT {literal(self._records.own.entity)} AS key, {key} AS id,
                list(step ORDER BY step, epoch) AS steps, list(weight ORDER BY step, epoch) AS weights,
                list(loss ORDER BY step, epoch) AS losses FROM {source(self._records.files)} GROUP BY {key}"""
        data = f"SELECT {literal(entity)} AS key, id, count(*) AS count FROM ({self._row_ids}) GROUP BY id"
        text = f"""WITH data AS ({data}), learnt AS ({learnt})
            SELECT key, id, coalesce(count, 0) AS count,
            [one FOR one IN [{through}]::VARCHAR[] IF one IS NOT NULL] AS passed, steps, weights, losses
            FROM data FULL JOIN learnt USING (key, id) WHERE id IS NOT NULL
            ORDER BY key <> {literal(entity)}, id"""
        try:
            for batch in self._process.ask(text):
                yield from batch.to_pylist()
        except SqlError as error:
            raise unreadable(error) from None

    def _way(self) -> list[tuple[Rows, bool]]:
        """All that the data was made of, and itself, the first made first; whether its rows have the data's ids."""
        inside, waiting = {self.data.index}, [self.data.index]
        while waiting:
            parents = self._lineage.parents(self._lineage.entries[waiting.pop()])
            above = {self._places[one.place] for one in parents} - inside
            inside |= above
            waiting += above
        way = [self._at[index] for index in self._lineage.ordered() if index in inside and index in self._at]
        return [(rows, rows.own.entity == self._row.entity) for rows in way if not rows.records]

    def _ids(self) -> dict[str, str]:
        """SQL of the ids of each entity that rows of the data are, or were made of."""
        parts: dict[str, list[str]] = defaultdict(list)
        if self.data.files:
            parts[self.data.own.entity].append(f"SELECT {name(self.data.own.name)} FROM {source(self.data.files)}")
        for rows, _ in reversed(self._way()):
            asked_ids = parts.get(rows.own.entity)
            if not asked_ids or not rows.files:
                continue
            for column in rows.ids:
                if column.entity != rows.own.entity:
                    at = f"unnest({name(column.name)})" if column.several else name(column.name)
                    known = " UNION ".join(asked_ids)
                    where = f"{name(rows.own.name)} IN ({known})"
                    text = f"SELECT {at} FROM {source(rows.files)} WHERE {where}"
                    if not parts[column.entity] or rows.entry.made.op.startswith(_CHOOSES):
                        parts[column.entity].append(text)
        return {entity: " UNION ".join(several) for entity, several in parts.items() if several}
