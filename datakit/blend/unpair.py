"""blend.unpair: preferences taken apart into answers to learn, the inverse of `blend.pair`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.drawn import finish_reasons, sample_ids
from datakit.op import Context, Gather, Result, Size
from schemas import COMPLETIONS, FEEDBACK, PREFERENCES, Column, Schema
from schemas.canonical import DEFAULT_UNNAMED

DRAWN = (
    Column("drawn_sample_id", pa.string(), "the sample that the answer was drawn as", nullable=True),
    Column("finish_reason", pa.string(), "of a drawn answer, as in samples: length where cut", nullable=True),
)
"""What an answer has of the sample that it was drawn as; null where the pair came in from outside."""


@dataclass(frozen=True, kw_only=True)
class Unpair(Gather):
    """The answers of each pair as rows of their own, the chosen one first where `sides` is both.

    `sample_id` is the pair's id and the side, so an answer that stands in two pairs comes out twice; the sample that it
    was drawn as is `drawn_sample_id`, and `finish_reason` that sample's. With `desirable` rows say whether theirs is
    the chosen one (FEEDBACK).
    """

    name: ClassVar[str] = "blend.unpair"
    version: ClassVar[int] = 2

    sides: Literal["chosen", "rejected", "both"] = "both"
    desirable: bool = field(default=False, metadata=DEFAULT_UNNAMED)

    @property
    def takes(self) -> Schema:
        return PREFERENCES.selecting("pair_id", "prompt_id", "messages", "tools", "chosen", "rejected", "source")

    def gives(self, *inputs: Schema) -> Schema:
        return (FEEDBACK if self.desirable else COMPLETIONS).adding(*DRAWN)

    def grown(self, given: Size) -> Size:
        return Size(2 * given.rows, given.bytes) if self.sides == "both" else given.wider(0.75)

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """One row or two for each pair, pairs in their order."""
        sides = ("chosen", "rejected") if self.sides == "both" else (self.sides,)
        asked = ("prompt_id", "messages", "tools", "source")
        parts = []
        for side in sides:
            part = rows.select(list(asked)).append_column("response", rows[side])
            part = part.append_column("drawn_sample_id", sample_ids(rows, side))
            part = part.append_column("finish_reason", finish_reasons(rows, side))
            ids = pc.binary_join_element_wise(rows["pair_id"], side, "-")
            if self.desirable:
                part = part.append_column("desirable", pa.repeat(side == "chosen", part.num_rows))
            parts.append(part.append_column("sample_id", ids))
        order = np.arange(len(sides) * rows.num_rows).reshape(len(sides), -1).T.ravel()
        return Result(pa.concat_tables(parts).take(pa.array(order)))
