"""A block of JSON lines to columns, and a reason for every line that does not fit.

Arrow reads a block whose lines all write their keys in the same plain way. Any other block is read line by line, each
value by its key's shape; so whether a line is taken never depends on its neighbours. Nothing is guessed: a date stays
text, a number in quotes is no number, a key given twice is a fault. What is there and not read is counted by name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.timestamps import leaves, text, values
from datakit.formats.keys import Key, Literal
from datakit.formats.lines import Block, Fault, are_objects
from datakit.formats.turns import InvalidValue, clean, is_empty
from schemas.errors import printable

_CUT = 200
_DEPTH = 64
"""Arrow crashes on values that are nested some ten thousand deep; no real row comes near this."""
_DIGITS = 2048
_NAMED = 8
_KINDS = {
    bool: "true or false", int: "a number", Literal: "a number", float: "a number", str: "text", list: "such a list",
    dict: "an object",
}  # fmt: skip

BESIDE = "the file's "
"""What names of a file that stand beside its rows begin with."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Parsed:
    """Rows (a column for each key), their line numbers, the lines that were not taken, and how many rows held each
    name that was not read; for elements of a JSON list, the line of each number.
    """

    table: pa.Table
    numbers: np.ndarray
    faults: list[Fault]
    left: Counter[str] = field(default_factory=Counter)
    lines: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Parser:
    """How the records of one import are read.

    `refused` are names whose values would change what is learnt: a record that has one, with a value that `refused`
    says yes to, is a fault. `ignored` are names that are left out on purpose. `bare` is the key that a line holds which
    is one string. `records` makes several records of one, for formats whose records are not flat.
    """

    keys: tuple[Key, ...]
    refused: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    bare: str = ""
    records: Callable[[Any], Iterator[Record]] | None = None
    read: tuple[str, ...] = ()
    """What `records` reads of a record."""

    def parse(self, block: Block) -> Parsed:
        """Columns of the keys out of `block`."""
        parsed = Parsed(self._columns([]), block.numbers, list(block.faults))
        if len(block.numbers):
            parsed = self._at_once(block) or self._by_line(block)
        parsed.left.update(BESIDE + printable(name) for name in block.beside if name not in self.ignored)
        return replace(parsed, lines=block.lines)

    def of_table(self, rows: pa.Table, numbers: np.ndarray) -> Parsed:
        """Columns of the keys out of a table from elsewhere, whose rows have these numbers."""
        used = [name for name in rows.column_names if name in {*self._roots, *self.refused, *self.read}]
        left = Counter(
            {
                printable(name): len(rows) - rows[name].null_count
                for name in rows.column_names
                if name not in used and name not in self.ignored and rows[name].null_count < len(rows)
            }
        )
        for name in used:
            if pa.types.is_large_string(rows[name].type) or pa.types.is_string_view(rows[name].type):
                rows = rows.set_column(rows.column_names.index(name), name, rows[name].cast(pa.string()))
        kinds = {name: rows.schema.field(name).type for name in used}
        refused = any(rows[name].null_count < len(rows) for name in used if name not in self._known)
        plain = not any(holds_nul(rows[name]) for name in used)
        if self.records is None and plain and not refused and not any("." in key.mapped for key in self.keys):
            passed: Counter[str] = Counter()
            table = self._of_columns(rows.select(used), kinds, passed)
            if table is not None:
                return Parsed(table, numbers, [], left + passed)
        columns = [values(rows[name], _Moment) for name in used]
        records = [dict(zip(used, row, strict=True)) for row in zip(*columns, strict=True)] or [{}] * len(rows)
        parsed = self._taken(zip(numbers.tolist(), records, [b""] * len(rows), strict=True))
        parsed.left.update(left)
        return parsed

    @cached_property
    def _roots(self) -> set[str]:
        return {name for key in self.keys for name in key.roots}

    def _at_once(self, block: Block) -> Parsed | None:
        """The block by Arrow's reader; None if a line is anything but plain."""
        # Lines that begin with { and end with } share no object: one row a line follows from the count.
        # The reader also crashes the process on a file that begins with `null`; this keeps it away.
        if self.records is not None or any("." in key.mapped for key in self.keys):
            return None
        if not (block.objects or are_objects(block.data)) or b"\\u0000" in block.data:
            return None
        if too_deep(block.data) or has_long_number(block.data):
            return None
        kinds = self._kinds(block.data[: block.data.index(b"\n")])
        if kinds is None:
            return None
        rows = _read(block.data, len(block.numbers), kinds)
        if rows is None or any(name in self._roots and name not in kinds for name in rows.column_names):
            return None
        more = [name for name in rows.column_names if name not in kinds]
        if any(name in self.refused and name not in self.ignored for name in more):
            return None
        left: Counter[str] = Counter()
        table = self._of_columns(rows, kinds, left)
        if table is None:
            return None
        counts = {name: len(rows) - rows[name].null_count for name in more if name not in self.ignored}
        left += Counter({printable(name): count for name, count in counts.items()})
        return Parsed(table, block.numbers, list(block.faults), left)

    def _kinds(self, line: bytes) -> dict[str, pa.DataType] | None:
        """Types to read names as, by the values in the first line; None where a value needs reading for itself."""
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return None
        kinds: dict[str, pa.DataType] = {}
        for key in self.keys:
            types = [kind for kind, _ in key.shape.columns]
            for name in key.names:
                value = record.get(name)
                fitting = types if value is None else [kind for kind in types if _fits(value, kind)]
                if value is not None and not fitting:
                    return None
                if fitting:
                    kinds[name] = fitting[0]
        return kinds

    def _of_columns(self, rows: pa.Table, kinds: Mapping[str, pa.DataType], left: Counter[str]) -> pa.Table | None:
        """The keys' columns out of plain columns, and in `left` what stood under a second name; None where a value is
        missing, not finite or of another type.
        """
        columns = {}
        for key in self.keys:
            made: dict[str, pa.Array] = {}
            for name in key.names:
                if name not in rows.column_names:
                    continue
                values = rows[name].combine_chunks()
                if values.null_count == len(values):
                    continue
                ways = [(kind, make) for kind, make in key.shape.columns if kind == kinds.get(name)]
                if not ways or values.type != ways[0][0] or not _finite(values):
                    return None
                made[name] = values if ways[0][1] is None else ways[0][1](values)
            if not made:
                made[key.column] = pa.nulls(rows.num_rows, key.shape.type)
            if len(made) > 1 and pa.types.is_nested(key.shape.type):
                return None
            first, *others = made
            column = pc.coalesce(*made.values()) if others else made[first]
            if key.required and column.null_count:
                return None
            columns[key.column] = column
            left.update({printable(name): _differing(made[name], column) for name in others if name in self._once})
        return pa.table(columns)

    def _by_line(self, block: Block) -> Parsed:
        lines = block.data.split(b"\n")[: len(block.numbers)]
        faults = list(block.faults)

        def records() -> Iterator[tuple[int, Any, bytes]]:
            for number, line in zip(block.numbers.tolist(), lines, strict=True):
                record = loaded(line, number)
                if isinstance(record, Fault):
                    faults.append(record)
                else:
                    yield number, record[0], line

        parsed = self._taken(records())
        return Parsed(parsed.table, parsed.numbers, faults + parsed.faults, parsed.left)

    def _taken(self, records: Iterator[tuple[int, Any, bytes]]) -> Parsed:
        """The rows of records that fit, and a fault for each that does not."""
        rows: list[list[Any]] = []
        numbers: list[int] = []
        faults: list[Fault] = []
        left: Counter[str] = Counter()
        for number, record, line in records:
            names: set[str] = set()
            try:
                several = self.records(record) if self.records is not None else (self._named(record),)
                made = [self._row(one, record, names) for one in several]
            except InvalidValue as error:
                faults.append(Fault(number, error.reason, error.expected, line[:_CUT]))
            except RecursionError:
                faults.append(Fault(number, "too-deep", "values that are nested less deep", line[:_CUT]))
            except (TypeError, KeyError, AttributeError, IndexError, ValueError, OverflowError) as error:
                rule = f"a record of this format ({type(error).__name__})"
                faults.append(Fault(number, "broken-record", rule, line[:_CUT]))
            else:
                rows += made
                numbers += [number] * len(made)
                left.update(names)
        return Parsed(self._columns(rows), np.array(numbers, np.int64), faults, left)

    def _named(self, record: Any) -> Record:
        if isinstance(record, str) and self.bare:
            return {self.bare: record}
        if not isinstance(record, Mapping):
            raise InvalidValue("wrong-type", "an object")
        return dict(record)

    def _row(self, record: Record, given: Any, left: set[str]) -> list[Any]:
        """The keys' values in `record`; what is carried along is that of the `given` one of which it was made."""
        whole = given if isinstance(given, dict) else record
        for name, value in record.items():
            if name in self._known or is_empty(value):
                continue
            refused = self.refused.get(name)
            if refused is not None and refused(value):
                raise InvalidValue(
                    "key-not-read", f"no {name}: it would change what is learnt, and this format has no place"
                )
            left.add(printable(clean(name)))
        for key in self.keys:
            left.update(printable(name) for name in key.passed_over(record) if name in self._once)
        return [self._value(key, whole if key.carried else record, left) for key in self.keys]

    @cached_property
    def _known(self) -> set[str]:
        return self._roots | set(self.ignored)

    @cached_property
    def _once(self) -> set[str]:
        """The names that one key alone reads, and that are not left out on purpose."""
        count = Counter(name for key in self.keys for name in {*key.roots})
        return {name for name, keys in count.items() if keys == 1} - {*self.ignored}

    def _value(self, key: Key, record: Record, left: set[str]) -> Any:
        name, value = key.value_in(record)
        if not name:
            if key.required:
                there = [str(one) for one in record if record[one] is not None]
                more = ", ..." if len(there) > _NAMED else ""
                given = any(other in record for other in key.names)
                expected = f"{' | '.join(key.names)} (there: {', '.join(there[:_NAMED])}{more})"
                raise InvalidValue("null" if given else "missing-key", expected)
            return None
        try:
            return key.shape.read(value, left)
        except InvalidValue as error:
            other = f", not {_KINDS.get(type(value), 'another')}" if error.reason == "wrong-type" else ""
            raise InvalidValue(error.reason, f"{name}: {error.expected}{other}") from error

    def _columns(self, rows: list[list[Any]]) -> pa.Table:
        return pa.table(
            {key.column: pa.array([row[at] for row in rows], key.shape.type) for at, key in enumerate(self.keys)}
        )


class _Moment:
    """A date or a time of a column: no text and no number, whatever Python can hold."""

    def __init__(self, scalar: pa.Scalar) -> None:
        self._scalar = scalar

    def __str__(self) -> str:
        return text(self._scalar)


def holds_nul(column: pa.ChunkedArray) -> bool:
    """Whether there is a NUL in a text of the column, inside of nested values too."""
    texts = (leaf for leaf in leaves(column) if pa.types.is_string(leaf.type) or pa.types.is_large_string(leaf.type))
    return any(pc.any(pc.match_substring(leaf, "\x00")).as_py() for leaf in texts)


def _differing(values: pa.Array, read: pa.Array) -> int:
    """How many of the values say something, and not what was read."""
    differ = pc.not_equal(values, read)
    if pa.types.is_string(values.type):
        differ = pc.and_(differ, pc.not_equal(values, ""))
    return pc.sum(differ).as_py() or 0


def _finite(values: pa.Array) -> bool:
    if pa.types.is_list(values.type):
        return _finite(values.flatten())
    return not pa.types.is_floating(values.type) or bool(pc.all(pc.is_finite(values)).as_py() in (True, None))


def _fits(value: Any, kind: pa.DataType) -> bool:
    """Whether a value of the first line is one of type `kind`, as far as its outside tells."""
    if pa.types.is_list(kind):
        if not isinstance(value, list):
            return False
        item = next((item for item in value if item is not None), None)
        return item is None or _fits(item, kind.value_type)
    if pa.types.is_struct(kind):
        return isinstance(value, dict) and all(kind.get_field_index(name) >= 0 for name in value)
    if pa.types.is_string(kind):
        return isinstance(value, str)
    if pa.types.is_boolean(kind):
        return isinstance(value, bool)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read(data: bytes, rows: int, kinds: Mapping[str, pa.DataType]) -> pa.Table | None:
    """The table of `rows` lines with whatever else they hold, or None if any is not one object of these types."""
    import pyarrow.json as pj

    schema = pa.schema(list(kinds.items()))
    options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer")
    try:
        table = pj.read_json(
            pa.BufferReader(data), pj.ReadOptions(use_threads=False, block_size=len(data) + 1), options
        )
        table.select(list(kinds)).validate(full=True)
        names = table.column_names
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    same = all(table.schema.field(name).type == kind for name, kind in kinds.items())
    return table if same and table.num_rows == rows and len(set(names)) == len(names) else None


def too_deep(data: bytes) -> bool:
    """Whether brackets are nested deeper than any real row's, in lines that all begin with one; brackets inside texts
    count too, which does no harm.
    """
    surplus = data.count(b"{") + data.count(b"[") - data.count(b"\n")
    if surplus < _DEPTH:  # one line at most has all of it, and a bracket of its own
        return False
    folded = np.frombuffer(data, np.uint8) & 0xDF
    opens, closes = folded == 0x5B, folded == 0x5D
    at = np.flatnonzero(opens | closes)
    if not len(at):
        return False
    depth = np.cumsum(np.where(opens[at], 1, -1))
    lines = np.searchsorted(np.flatnonzero(np.frombuffer(data, np.uint8) == 10), at)
    before = np.concatenate([[0], depth])[np.searchsorted(lines, lines)]
    return bool((depth - before).max() > _DEPTH)


def has_long_number(data: bytes) -> bool:
    """Whether there may be a number of more digits than Python's JSON reads (4,300): so many in a row fill one of these
    windows. Arrow takes them for infinite.
    """
    return any(data[at : at + _DIGITS].isdigit() for at in range(0, len(data), _DIGITS))


def loaded(line: bytes, number: int) -> tuple[Any] | Fault:
    """The value that a line writes, in a tuple, or why it is none."""
    cut = line[:_CUT]
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return Fault(number, "bad-text", "UTF-8", cut, byte=error.start)
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> Record:
        record = dict(pairs)
        if len(record) < len(pairs) and not twice:
            counts = Counter(name for name, _ in pairs)
            twice.append(next(name for name, count in counts.items() if count > 1))
        return record

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=_no_constant, parse_float=Literal)
    except json.JSONDecodeError as error:
        return Fault(number, "broken-json", error.msg, cut, byte=len(text[: error.pos].encode()))
    except RecursionError:
        return Fault(number, "too-deep", "values that are nested less deep", cut)
    except InvalidValue as error:
        return Fault(number, error.reason, error.expected, cut)
    except ValueError:
        return Fault(number, "broken-json", "numbers of at most 4,300 digits", cut)
    return Fault(number, "duplicate-key", f"{twice[0]} once", cut) if twice else (value,)


def _no_constant(name: str) -> float:
    raise InvalidValue("not-finite", f"finite numbers, not {name}")
