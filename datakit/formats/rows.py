"""Records to rows: build the row kind's columns, give ids, and set aside what cannot stay, with place and
reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat
from datakit.columns.unique import hashes
from datakit.formats.forms import FORMS, Form
from datakit.formats.ids import PARTS, Occurrences, content_ids
from datakit.formats.keys import KEPT, Key
from datakit.formats.lines import Fault
from datakit.formats.parse import Parsed, Parser
from datakit.op import REJECTION_COLUMNS
from schemas import Column, Schema
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest

Dialogue = Literal["plain", "extra_id", "hh"]
"""How the texts of a file are written: as they are, or whole dialogues in one text."""

Columns = Mapping[str, str] | tuple[tuple[str, str], ...]
"""Names that a format's keys have in a file."""

PLACE_COLUMNS = (
    Column("place", pa.string(), "file name and line of the row", nullable=True),
    Column("line", pa.int64(), "the line, or row, in that file, from 1", nullable=True),
    Column("byte", pa.int64(), "where in the line, from 0, if that is known", nullable=True),
    Column("text", pa.string(), "the row as it was, cut", nullable=True),
)
"""What a rejected row of a reader carries besides the columns it got to."""


def named_form(name: str) -> Form:
    """The format of that name; `ConfigError` where there is none."""
    if name in FORMS:
        return FORMS[name]
    near = nearest(name, FORMS)
    raise ConfigError(
        "unknown-format",
        f"there is no format {printable(name)}",
        expected=", ".join(FORMS),
        kept="nothing was started",
        next=f"--format {near}" if near else "quiver formats",
        wrong=(name,),
        nearest=near,
    )


def form_of(name: str, columns: Sequence[tuple[str, str]], dialogue: str) -> tuple[Form, tuple[Key, ...]]:
    """The format of that name and its keys under the names that `columns` gives them; `ConfigError` for
    unknown names.
    """
    form = named_form(name)
    if dialogue not in form.dialogues:
        message = f"format {name} does not read {printable(dialogue)} texts"
        able = next(
            (other for other, one in FORMS.items() if dialogue in one.dialogues and one.schema == form.schema), ""
        )
        raise ConfigError(
            "bad-setting",
            message,
            expected=f"--dialogue {' or '.join(form.dialogues)}",
            found=printable(dialogue),
            kept="nothing was started",
            next=f"--format {able}" if able else f"quiver formats {name}",
        )
    known = [name for key in form.keys for name in (key.name, *key.aliases)]
    for column, name_there in columns:
        if not isinstance(name_there, str) or not name_there:
            message = f"columns: {column} is {printable(name_there)}, which is no name of a key"
            raise ConfigError("bad-setting", message, expected='names of keys, as in {"prompt": "question"}')
        if column not in known:
            raise ConfigError(
                "unknown-key",
                f"format {name} has no {printable(column)}",
                expected=", ".join(known),
                kept="nothing was started",
                wrong=(column,),
                nearest=nearest(column, known),
            )
    given = dict(columns)
    mapped = {
        key.name: next((given[name] for name in (key.name, *key.aliases) if name in given), "") for key in form.keys
    }
    return form, tuple(replace(key, mapped=mapped[key.name]) for key in form.keys)


def kept_keys(form: Form, types: Sequence[tuple[str, str]]) -> tuple[Key, ...]:
    """The keys that are carried along, by path and name of type (`datakit.formats.keys.KEPT`); their names are the
    columns', with `file_` before one that the row kind has already.
    """
    plain = [(path.replace(".", "_"), path, kind) for path, kind in types]
    taken = {name for name, _, _ in plain if name in form.schema}
    return tuple(
        Key(f"file_{name}" if name in taken else name, KEPT[kind], required=False, mapped=path, carried=True)
        for name, path, kind in plain
    )


def schema_of(form: Form, types: Sequence[tuple[str, str]]) -> Schema:
    """The row kind of the format with the columns that are carried along."""
    keys = kept_keys(form, types)
    return form.schema.adding(*(Column(k.name, k.shape.type, f"{k.mapped} of the file", nullable=True) for k in keys))


def parser_of(form: Form, keys: tuple[Key, ...], types: Sequence[tuple[str, str]], ignored: Sequence[str]) -> Parser:
    """The reader of the format's records."""
    return Parser(
        keys=(*keys, *kept_keys(form, types)),
        refused=form.refused,
        ignored=tuple(ignored),
        bare=form.bare,
        records=form.records,
        read=form.roots,
    )


def without_place(params: dict[str, Any], form: Form | None) -> dict[str, Any]:
    """Settings of a reader that count: not where its files lie, nor the seed of a format that draws nothing."""
    seedless = form is None or form.draws is None
    return {name: value for name, value in params.items() if name != "files" and not (name == "seed" and seedless)}


def draw_of(seed: int) -> np.random.RandomState:
    """The generator of one import: NumPy's legacy one, which NeMo's scripts draw from; `ConfigError` for a seed that it
    does not take.
    """
    if not 0 <= seed < 1 << 32:
        raise ConfigError("bad-setting", f"seed: {seed}", expected="0 .. 2**32 - 1", kept="nothing was started")
    return np.random.RandomState(seed)


@dataclass
class Rows:
    """Turns parsed records of one import into rows, file after file; remembers ids so that keys stay
    unique.
    """

    schema: Schema
    source: str | None = None
    dialogue: str = "plain"
    carried: tuple[Key, ...] = ()
    draw: np.random.RandomState = field(default_factory=lambda: np.random.RandomState(0))
    met: Occurrences = field(default_factory=Occurrences)
    asked: Occurrences = field(default_factory=Occurrences)

    def of_records(self, form: Form, parsed: Parsed, name: str) -> tuple[pa.Table, pa.Table | None]:
        """Rows and rejected rows of records of file `name`."""
        raw, numbers, faults = parsed.table, parsed.numbers, parsed.faults
        if form.pairs:
            raw, numbers, faults = _whole_pairs(raw, numbers, faults)
        if form.draws is not None:
            raw = form.draws(raw, self.draw)
        built = form.build(raw, form.usual if self.dialogue == "plain" else self.dialogue)
        columns = dict(built.columns)
        firsts = np.arange(0, raw.num_rows, 2 if form.pairs else 1)
        columns |= {key.name: flat(raw[key.column]).take(pa.array(firsts)) for key in self.carried}
        if "dataset" in raw.column_names:
            columns["source"] = raw["dataset"].combine_chunks()
        return self.finished(columns, built.faults, numbers[::2] if form.pairs else numbers, faults, name, parsed.lines)

    def finished(
        self,
        columns: dict[str, pa.Array],
        wrong: list[tuple[np.ndarray, str]],
        numbers: np.ndarray,
        faults: list[Fault],
        name: str,
        lines: Mapping[int, int] | None = None,
    ) -> tuple[pa.Table, pa.Table | None]:
        """Rows of `columns` with ids and source, without those that `wrong` marks (the first reason counts) and
        those whose given key an earlier row had. `lines` says where the elements begin that `numbers` count.
        """
        table = pa.table(columns)
        good = np.ones(len(numbers), bool)
        reasons = np.full(len(numbers), "", object)
        for mask, reason in wrong:
            reasons[good & mask] = reason
            good &= ~mask
        if self.schema.key and set(self.schema.key) <= set(columns):
            again = np.flatnonzero(good)[self.met.again(hashes(table.filter(pa.array(good)), self.schema.key))]
            reasons[again], good[again] = "duplicate-id", False
        place = Located(printable(name), lines or {})
        rejected = self._rejected(table.filter(pa.array(~good)), reasons[~good], numbers[~good], faults, place)
        rows = table if good.all() else table.filter(pa.array(good))
        return self._complete(rows, name), rejected

    def _complete(self, rows: pa.Table, name: str) -> pa.Table:
        columns = {column: rows[column].combine_chunks() for column in rows.column_names}
        for column in PARTS:
            if column in self.schema and column not in columns:
                parts = [part for part in PARTS[column] if part in columns] or ["input_ids"]
                ids = content_ids(*[columns[part] for part in parts])
                columns[column] = self.met.unique(ids) if self.schema.key == (column,) else ids
        if "source" in self.schema:
            given = columns.get("source", pa.nulls(rows.num_rows, pa.string()))
            columns["source"] = pc.fill_null(given, printable(name) if self.source is None else self.source)
        if "sample_index" in self.schema and "sample_index" not in columns and "prompt_ids" not in self.schema:
            columns["sample_index"] = self.asked.numbers(columns["prompt_id"])
        return self.schema.conform(pa.table(columns))

    def _rejected(
        self, table: pa.Table, reasons: np.ndarray, numbers: np.ndarray, faults: list[Fault], at: Located
    ) -> pa.Table | None:
        if not len(numbers) and not faults:
            return None
        count = len(numbers)
        refused = pa.table(
            {
                "place": pa.array([at.place(number) for number in numbers.tolist()], pa.string()),
                "line": pa.array([at.line(number) for number in numbers.tolist()], pa.int64()),
                "reason": pa.array(reasons.tolist(), pa.string()),
            }
        )
        for column in table.column_names:
            refused = refused.append_column(column, table[column])
        lost = pa.table(
            {
                "place": pa.array([at.place(fault.line, fault.byte) for fault in faults], pa.string()),
                "line": pa.array([at.line(fault.line) for fault in faults], pa.int64()),
                "byte": pa.array([fault.byte for fault in faults], pa.int64()),
                "text": pa.array([printable(fault.text.decode("utf-8", "replace")) for fault in faults], pa.string()),
                "reason": pa.array([fault.reason for fault in faults], pa.string()),
                "value": pa.array([fault.value for fault in faults], pa.float64()),
                "threshold": pa.array([printable(fault.rule) for fault in faults], pa.string()),
            }
        )
        both = pa.concat_tables([refused, lost], promote_options="default") if count else lost
        order = np.argsort(np.array([*numbers.tolist(), *(fault.line for fault in faults)]), kind="stable")
        both = both.take(pa.array(order))
        kind = rejected_kind(self.schema)
        nulls = {c.name: pa.nulls(both.num_rows, c.type) for c in kind.columns if c.name not in both.column_names}
        for column, values in nulls.items():
            both = both.append_column(column, values)
        return kind.conform(both)


def rejected_kind(schema: Schema) -> Schema:
    """What a reader's rejected row holds: the columns it got to, its place, the reason."""
    columns = tuple(replace(column, nullable=True, finite=False) for column in schema.columns)
    return Schema(f"rejected {schema.name}", schema.version, columns).adding(*PLACE_COLUMNS, *REJECTION_COLUMNS)


@dataclass(frozen=True)
class Located:
    """Where the numbered rows of the file `name` stand: in the line of that number, or as that element of a JSON list,
    which begins in one of `lines`.
    """

    name: str
    lines: Mapping[int, int]

    def line(self, number: int) -> int:
        """The line of the file."""
        return self.lines.get(number, number)

    def place(self, number: int, byte: int | None = None) -> str:
        """The place in words, with the byte of the row where it is known."""
        element = f" (element {number})" if number in self.lines else ""
        return f"{self.name}:{self.line(number)}{element}" + ("" if byte is None else f", byte {byte}")


def _whole_pairs(raw: pa.Table, numbers: np.ndarray, faults: list[Fault]) -> tuple[pa.Table, np.ndarray, list[Fault]]:
    """Only records whose partner (the other line of an even and odd one) is there too; others become
    faults.
    """
    lost = np.array(sorted(fault.line for fault in faults if fault.reason != "unpaired-line"), np.int64)
    lines = np.sort(np.concatenate([numbers, lost]))
    rank = np.searchsorted(lines, numbers)
    partner = np.isin(rank ^ 1, rank)
    alone = [Fault(int(line), "partner-rejected", "two lines a pair") for line in numbers[~partner]]
    return raw.filter(pa.array(partner)), numbers[partner], faults + alone
