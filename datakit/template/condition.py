r"""template.condition: what an answer is to be like, written between its header and its content: given, not learnt.

<extra_id_1>Assistant\n[<extra_id_2>quality:4,toxicity:0\n]The answer ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, joined, starts
from datakit.op import Context, Label
from schemas import PIECES, Column, Schema
from schemas.rows.chats import LABEL_MARK


@dataclass(frozen=True, kw_only=True)
class Condition(Label):
    """Writes the text of `column` into templated `pieces`, where the answer begins (the first trained piece): `start`,
    the text, `end`. The same with every chat template; with `extra_id` it is NeMo-Aligner's VALUE_TO_TEXT.

    Rows come of `template.chat` with `learn` last or, with `generation`, of the same with that setting: the text stands
    at the end of the prompt then. `start` and `end` may hold control tokens, the text may not. A null text writes
    nothing. Chats with a label at several turns are `template.labelled`'s.
    """

    name: ClassVar[str] = "template.condition"
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    column: str = "attribute_text"
    start: str = LABEL_MARK
    end: str = "\n"
    generation: bool = False

    @property
    def takes(self) -> Schema:
        condition = Column(self.column, pa.string(), "what the answer is to be like", nullable=True)
        return Schema("templated", 1, (Column("pieces", PIECES, "templated text"), condition))

    @property
    def adds(self) -> tuple[Column, ...]:
        """Pieces and whole text, in place of those that were there."""
        text = "prompt" if self.generation else "text"
        return Column("pieces", PIECES, "the text in pieces"), Column(text, pa.string(), "the exact text")

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        """Three pieces more in each row that has a text."""
        pieces, texts = flat(rows["pieces"]), flat(rows[self.column])
        offsets, inner = starts(pieces), pieces.flatten()
        count, some = len(inner), np.asarray(texts.is_valid())
        at = offsets[1:].copy()
        if not self.generation:
            trained = np.flatnonzero(np.asarray(inner.field("trained")))
            first = np.append(trained, count)[np.searchsorted(trained, offsets[:-1])]
            at = np.minimum(first, at)
        own = np.column_stack([np.full(len(at), count), count + 2 + np.arange(len(at)), np.full(len(at), count + 1)])
        order = np.insert(np.arange(count), np.repeat(at[some], 3), own[some].ravel())
        pool = pa.concat_arrays([inner.field("text"), pa.array([self.start, self.end]), pc.fill_null(texts, "")])
        flags = [np.asarray(inner.field("special")), np.array([True, True]), np.zeros(len(at), bool)]
        special = np.concatenate(flags)[order]
        learnt = np.concatenate([np.asarray(inner.field("trained")), np.zeros(2 + len(at), bool)])[order]
        parts = [pool.take(pa.array(order)), pa.array(special), pa.array(learnt)]
        struct = pa.StructArray.from_arrays(parts, fields=list(PIECES.value_type))
        ends = offsets + 3 * np.concatenate([[0], np.cumsum(some)])
        made = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), struct, type=PIECES)
        return {"pieces": made, self.adds[1].name: joined(made)}
