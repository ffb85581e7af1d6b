"""What an exported format is: the columns it reads, the line it writes of each row, and the import that reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import Faults, any_turn, flat, starts
from datakit.formats.forms.chats import LABELS
from schemas import MESSAGES, Schema

TYPES = {
    "messages": MESSAGES,
    "tools": pa.string(),
    "answer": pa.string(),
    "response": pa.string(),
    "chosen": pa.string(),
    "rejected": pa.string(),
    "chosen_reward": pa.float64(),
    "rejected_reward": pa.float64(),
    "desirable": pa.bool_(),
    "attributes": pa.list_(pa.float64()),
    "labels": LABELS,
    "label_type": pa.string(),
    "turn_names": LABELS,
    "chat_id": pa.string(),
    "source": pa.string(),
}
"""The columns that exports read, by type."""


@dataclass(frozen=True)
class Lines:
    """One row's JSON (two lines where the format has two) and the rows that the format has no place for, by reason."""

    text: pa.Array
    faults: Faults


@dataclass(frozen=True)
class Export:
    """A format that rows can be written in.

    `takes` are sets of columns, of which rows hold one whole; `reads` those that are written where they are there.
    `back` is the format, and `dialogue` the way of writing texts, by which `Import` reads the file again.
    """

    name: str
    meaning: str
    takes: tuple[tuple[str, ...], ...]
    lines: Callable[[pa.Table], Lines]
    back: str
    reads: tuple[str, ...] = ()
    dialogue: str = "plain"

    def columns(self, schema: Schema) -> tuple[str, ...]:
        """The columns of rows of `schema` that it writes; none where these rows are not its."""
        there = [name for name in TYPES if name in schema and schema[name].type == TYPES[name]]
        chosen: Sequence[str] = next((one for one in self.takes if set(one) <= set(there)), ())
        return tuple(name for name in there if name in {*chosen, *self.reads}) if chosen else ()


def column(rows: pa.Table, name: str) -> pa.Array:
    """A column in one piece; nulls where rows have none."""
    return rows[name].combine_chunks() if name in rows.column_names else pa.nulls(rows.num_rows, TYPES[name])


def not_finite(rows: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Rows with a number in these columns that JSON cannot write: infinite, or NaN (which among attributes means that
    nobody judged).
    """
    wrong = np.zeros(rows.num_rows, bool)
    for name in names:
        values = flat(rows[name])
        if pa.types.is_floating(values.type):
            wrong |= ~np.asarray(pc.fill_null(pc.is_finite(values), True))
        elif name == "attributes":
            wrong |= any_turn(starts(values), flags(pc.is_inf(values.flatten())))
        elif values.type == MESSAGES:
            weights = values.flatten().field("weight")
            wrong |= any_turn(starts(values), ~np.asarray(pc.fill_null(pc.is_finite(weights), True)))
    return wrong


def flags(values: pa.Array) -> np.ndarray:
    """A truth column as a mask, null as false."""
    return np.asarray(values.fill_null(False))
