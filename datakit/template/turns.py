"""template.turns: the next question to a model, written as turns of a conversation from a row's columns.

[{"role": "assistant", "content": "{draft}"}, {"role": "user", "content": "{critique_request}"}]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, messages, starts, turn_column
from datakit.op import Context, FilterDecision, Label, LabelResult
from schemas import MESSAGES, Column, Schema
from schemas.errors import ConfigError

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One turn: who speaks, and what; `{column}` in it is the text of that column."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True)
class Turns(Label):
    """Adds `into`, a conversation: the turns `before`, those of column `conversation`, then `turns`, with `{column}` in
    their contents filled in once.

    Turns `before` are the same in every row and stand behind a system turn. A row of which such a text is null or blank
    goes as `no-text`, with the column for a threshold: there is nothing to speak of.
    """

    name: ClassVar[str] = "template.turns"
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    turns: tuple[Line, ...] = ()
    before: tuple[Line, ...] = ()
    conversation: str = "messages"
    into: str = "messages"

    def __post_init__(self) -> None:
        if not self.turns and not self.before:
            raise ConfigError(
                "bad-setting", f"{self.name}: there is no turn to add", kept="nothing was started",
                expected='turns: [{"role": "user", "content": "{column}"}], or turns before',
            )  # fmt: skip

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns whose texts are filled in."""
        return tuple(dict.fromkeys(name for turn in self.turns for name in _FIELD.findall(turn.content)))

    @property
    def takes(self) -> Schema:
        texts = (Column(name, pa.string(), "text of a turn", nullable=True) for name in self.fields)
        asked = Column(self.conversation, MESSAGES, "the turns so far; null: none", nullable=True)
        return Schema("asked", 1, (asked, *texts))

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column(self.into, MESSAGES, f"{self.conversation} and further turns"),)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """All turns of all rows in one pool, taken in the order of the rows."""
        texts = {name: flat(rows[name]) for name in self.fields}
        turns, count = flat(rows[self.conversation]), rows.num_rows
        offsets, inner = starts(turns), turns.flatten()
        few, more = len(self.before), len(self.turns)
        given = turn_column(pa.array([one.role for one in self.before], pa.string()), _column(self.before))
        own = [turn_column(one.role, _filled(one.content, texts, count)) for one in self.turns]
        pool = pa.concat_arrays([inner, given, *own])
        after = len(inner) + few + count * np.arange(more) + np.arange(count)[:, None]
        new = np.hstack([np.broadcast_to(len(inner) + np.arange(few), (count, few)), after])
        first = offsets[:-1] + _begins_with_system(inner, offsets)
        at = np.hstack([np.repeat(first[:, None], few, 1), np.repeat(offsets[1:, None], more, 1)])
        order = np.insert(np.arange(len(inner)), at.ravel(), new.ravel())
        made = messages(offsets + (few + more) * np.arange(count + 1), pool.take(pa.array(order)))
        return LabelResult({self.into: made}, self._decision(texts, count))

    def _decision(self, texts: dict[str, pa.Array], count: int) -> FilterDecision:
        """Rows with all of the texts stay; of another the first that it lacks is named."""
        lacks = np.full(count, None, object)
        for name in reversed(self.fields):
            blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(texts[name], ""))), 0)
            lacks[np.asarray(blank, bool)] = name
        where = pa.array(lacks, pa.string())
        return FilterDecision(where.is_null(), "no-text", threshold=where)


def _column(turns: tuple[Line, ...]) -> pa.Array:
    return pa.array([one.content for one in turns], pa.string())


def _filled(content: str, texts: dict[str, pa.Array], count: int) -> pa.Array:
    """`content` once a row, with the row's texts; a null one is empty."""
    parts = _FIELD.split(content)  # plain text and names of columns by turns
    pieces = [
        pc.fill_null(texts[part], "") if at % 2 else pa.repeat(pa.scalar(part, pa.string()), count)
        for at, part in enumerate(parts)
    ]
    return pc.binary_join_element_wise(*pieces, "")


def _begins_with_system(turns: pa.Array, offsets: np.ndarray) -> np.ndarray:
    """1 for every row whose first turn is the system's."""
    system = np.append(np.asarray(pc.equal(turns.field("role"), "system"), bool), False)
    return (system[offsets[:-1]] & (np.diff(offsets) > 0)).astype(np.int64)
