"""What became of one row: where it came to be, what was measured of it, what dropped it, which steps learnt from it.

An event is a fact of one result: the row stands in it, or was set aside when it was made, or stands in what it was made
of and not in it. Rows that were made of the row (answers to a prompt, pairs of a sample) are followed as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from datakit.catalog.lineage import Lineage
from datakit.catalog.sql_text import name
from datakit.catalog.trained_on import Training, trainings
from datakit.catalog.workspace import Entry, Workspace
from datakit.duck.child import SqlProcess
from datakit.trace.row_ids import PACK, Rows, rows_with_ids
from datakit.trace.scans import Hit, Id, hits, values
from schemas.errors import ConfigError, DataError, printable
from schemas.run_layout import RECORDS_END

Kind = Literal["created", "kept", "dropped", "left out", "trained", "not reached", "no records", "asked", "validated"]
"""`created`: no input of the result holds it. `left out`: an input does, and the result neither holds nor rejected it.
Of a checkpoint whose data hold it: `trained` in steps that the records name, `not reached` by any of its steps, `no
records` of what it was; `asked` as a prompt of an online run; `validated`: it was judged by the row.
"""

_DEEPEST = 20
_TEXT = 300
"""Characters of a text that an event shows."""
_NUMBERS = ("BIGINT", "INTEGER", "SMALLINT", "TINYINT", "DOUBLE", "FLOAT", "BOOLEAN")


@dataclass(frozen=True, kw_only=True)
class Event:
    """One fact about one row. `count` rows of the result have its id (0: none); `made_of` is why a row is followed that
    another one's id asked for: the columns that name it, with the ids; `values` are its columns that no input has, for
    a rejected row reason, value and threshold; `steps` are its records, one for each time.
    """

    entry: Entry
    kind: Kind
    row: Id
    count: int = 0
    made_of: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    steps: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Trace:
    """What became of `row`: events in the order of the graph; `unread` are results with ids whose files are damaged."""

    row: Id
    events: Sequence[Event]
    unread: Mapping[str, str]


class Tracer:
    """Follows rows through a workspace; `process` is a child that may read its files."""

    def __init__(self, workspace: Workspace, process: SqlProcess) -> None:
        self._process, self.lineage = process, Lineage(workspace.entries)
        listed = rows_with_ids(self.lineage)
        self.rows = [one for one in listed if not one.entry.damage]
        self.unread = {one.entry.place: one.entry.damage for one in listed if one.entry.damage}
        self._at = {(one.index, one.aside): one for one in self.rows}
        self._index = {entry.place: index for index, entry in enumerate(workspace.entries)}

    def identified(self, row: str, key: str = "") -> Id:
        """What `row` is the id of (`key` says it); `ConfigError` where nothing has that id, or several things do."""
        entities = {column.entity for one in self.rows for column in one.ids}
        asked_ids = {(entity, row) for entity in ([key] if key else entities)}
        may = bool(entities) and not any("\ud800" <= character <= "\udfff" for character in row)  # UTF-8 writes no such
        there = sorted({hit.through.entity for hit in hits(self._process, self.rows, asked_ids)}) if may else []
        if len(there) == 1:
            return there[0], row
        shown = printable(row, 100)
        if there:
            raise ConfigError(
                "ambiguous-row",
                f"{shown} is the id of rows of several kinds",
                expected=f"--key: one of {', '.join(map(printable, there))}",
                found=shown,
                kept="nothing was changed",
                next=f"--key {printable(there[0])}",
            )
        raise ConfigError(
            "unknown-row",
            f"no row has the id {shown}{f' in a column of {printable(key)}' if key else ''}",
            expected="a sample_id, prompt_id, pair_id or another id, or the name of a checkpoint",
            found=shown,
            kept="nothing was changed",
            next='quiver sql "SELECT sample_id, value FROM rewards ORDER BY value LIMIT 5"',
        )

    def trace(self, row: Id) -> Trace:
        """Everything that became of `row`."""
        matches, followed = self._followed({row})
        return Trace(row, [*self._events(matches, followed)], self.unread)

    def holding(self, rows: set[Id]) -> dict[int, set[Id]]:
        """The entries, by index, whose rows are `rows` or were made of them, each with these; rejected ones are not
        among them.
        """
        matches, followed = self._followed(rows)
        by_entry: dict[int, set[Id]] = defaultdict(set)
        for hit in matches:
            own = hit.rows.own.entity, hit.own
            if own in followed and not hit.rows.aside:
                by_entry[hit.rows.index].add(own)
        return by_entry

    def _followed(self, rows: set[Id]) -> tuple[list[Hit], set[Id]]:
        """All places where `rows` are named, or rows that were made of them; and which rows these are."""
        followed, asking, matches = set(rows), set(rows), list[Hit]()
        for _ in range(_DEEPEST):
            more = hits(self._process, self.rows, asking)
            matches += more
            made = {(one.rows.own.entity, one.own) for one in more if one.own is not None}
            asking = made - followed
            followed |= asking
            if not asking:
                return matches, followed
        raise DataError(
            "too-many-rows",
            f"rows are made of rows more than {_DEEPEST} times",
            kept="everything; nothing was changed",
            next="quiver ls",
        )

    def _events(self, matches: Sequence[Hit], followed: set[Id]) -> Iterator[Event]:
        own: dict[tuple[int, bool], dict[Id, int]] = defaultdict(dict)
        named: dict[tuple[int, bool], dict[Id, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
        for hit in matches:
            place, row = (hit.rows.index, hit.rows.aside), (hit.rows.own.entity, hit.own)
            if hit.through == hit.rows.own:
                own[place][row] = hit.count
            else:
                named[place][row][hit.through.name] = hit.id
        for index in self.lineage.ordered():
            entry = self.lineage.entries[index]
            if entry.made.kind == "dataset":
                if (index, False) in self._at and not self._at[index, False].records:
                    yield from self._standing(index, own, named)
                    yield from self._missing(index, own, named)
            elif entry.made.kind == "checkpoint":
                yield from self._learnt(index, own)

    def _standing(self, index: int, own: Any, named: Any) -> Iterator[Event]:
        """The rows of a result, and those set aside."""
        entry, above = self.lineage.entries[index], self._above(index)
        inputs = {row for one in above for row in own[one, False]}
        for aside in (False, True):
            rows = own.get((index, aside), {})
            if not rows:
                continue
            shown = self._values(self._at[index, aside], rows, above)
            for row, count in rows.items():
                kind: Kind = "dropped" if aside else "kept" if row in inputs else "created"
                made_of = named[index, aside][row] if kind == "created" else {}
                yield Event(entry=entry, kind=kind, row=row, count=count, made_of=made_of, values=shown.get(row[1], {}))

    def _missing(self, index: int, own: Any, named: Any) -> Iterator[Event]:
        """The rows that an input of a result holds, and the result does not, though it knows rows of this kind."""
        known = {column.entity for column in self._at[index, False].ids}
        there = {row for aside in (False, True) for row in own.get((index, aside), ())}
        columns = {(column.name, aside): column.entity for aside in (False, True) if (index, aside) in self._at
                   for column in self._at[index, aside].ids}  # fmt: skip
        for aside in (False, True):
            for several in named.get((index, aside), {}).values():
                there |= {(columns[column, aside], one) for column, one in several.items()}
        inputs = dict.fromkeys(row for above in self._above(index) for row in own.get((above, False), ()))
        for row in inputs:
            if row[0] in known and row not in there:
                yield Event(entry=self.lineage.entries[index], kind="left out", row=row)

    def _learnt(self, index: int, own: Any) -> Iterator[Event]:
        """What a training made of the rows in its data."""
        for training in trainings(self.lineage, index):
            entry = self.lineage.entries[index]
            counts = own.get((training.data, False), {}) if training.data is not None else {}
            rows = dict.fromkeys(counts)
            records = self._index.get(f"{entry.place}{RECORDS_END}") if training.role == "data" else None
            steps: dict[str, list[dict[str, Any]]] = defaultdict(list)
            packs: set[Id] = set()
            if records is not None and (records, False) in self._at:
                saw = own.get((records, False), {})
                packs = {row for row in rows if row[0] == PACK}  # records are of the rows inside
                rows = {row: None for row in rows if not (saw and row in packs)} | dict.fromkeys(saw)
                if saw:
                    for record in self._records(self._at[records, False], saw):
                        steps[record.pop("own")].append(record)
            for row in rows:
                kind = _kind_of(training, bool(steps.get(row[1])), row not in packs and self._whole(records))
                yield Event(entry=entry, kind=kind, row=row, count=counts.get(row, 0), steps=steps.get(row[1], ()))

    def _whole(self, records: int | None) -> bool:
        """Whether there are records of every step."""
        if records is None or (records, False) not in self._at:
            return False
        return self.lineage.entries[records].made.facts.get("missing_steps") == []

    def _above(self, index: int) -> list[int]:
        """The inputs of a result that hold rows."""
        inputs = (self._index[one.place] for one in self.lineage.parents(self.lineage.entries[index]))
        return [one for one in dict.fromkeys(inputs) if (one, False) in self._at]

    def _values(self, rows: Rows, ids: Mapping[Id, int], above: Sequence[int]) -> dict[str, dict[str, Any]]:
        """What rows have that no input of theirs has, by own id; of rejected ones the reason."""
        known = {column.name for index in above for column in self._at[index, False].columns}
        ours = {"reason", "value", "threshold"} if rows.aside else {column.name for column in rows.columns} - known
        ours -= {column.name for column in rows.ids}
        chosen = {one.name: _shown(one.name, one.kind) for one in rows.columns if one.name in ours and one.stored}
        kept = {column: sql for column, sql in chosen.items() if sql}
        if not kept:
            return {}
        read = values(self._process, rows, kept, [one for _, one in ids])
        return {one["own"]: {column: one[column] for column in kept} for one in read}

    def _records(self, rows: Rows, ids: Mapping[Id, int]) -> list[dict[str, Any]]:
        chosen = {one.name: name(one.name) for one in rows.columns if one.kind in _NUMBERS and one.stored}
        read = values(self._process, rows, chosen, [one for _, one in ids])
        return sorted(read, key=lambda one: (one["own"], one.get("step") or 0, one.get("epoch") or 0))


def _shown(column: str, kind: str) -> str:
    """A column as an event shows it; empty for one that it does not show."""
    if kind in _NUMBERS:
        return name(column)
    return f"left({name(column)}, {_TEXT})" if kind == "VARCHAR" else ""


def _kind_of(training: Training, recorded: bool, whole: bool) -> Kind:
    if training.role == "validation":
        return "validated"
    if recorded:  # of an online run: an answer that it drew
        return "trained"
    if training.online:
        return "asked"
    return "not reached" if whole else "no records"
