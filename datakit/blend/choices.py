"""blend.choices: every answer that a question offers as a row of its own, to be read by a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, starts
from datakit.op import Context, Gather, Result, Size
from schemas import CHOICES, Column, Schema
from schemas.rows.choices import OFFERED
from schemas.rows.samples import OPEN

OFFER = (
    Column("sample_id", pa.string(), "function of the question and the place of the choice"),
    Column("response", pa.string(), "the choice"),
    Column("finish_reason", pa.string(), "open: no end belongs to it"),
    Column("choice", pa.int32(), "its place, from 0"),
    Column("offered", pa.int32(), "choices of the question"),
    Column("characters", pa.int32(), "of the choice alone"),
    Column("is_right", pa.bool_(), "whether it is right"),
    Column("is_best", pa.bool_(), "whether it is the one to be picked"),
    Column("choice_score", pa.float64(), "what picking it counts for", nullable=True),
)
"""What a row holds of the choice that it is."""


@dataclass(frozen=True, kw_only=True)
class Choices(Gather):
    """The choices of each question in their order, each as `response` behind the text `lead`; other columns stay.

    No end is learnt or counted of such a `response` (`finish_reason` is open): what a model thinks of it is what it
    thinks of these words.
    """

    name: ClassVar[str] = "blend.choices"

    lead: str = ""
    """A blank, where a model reads the answer right behind the question."""

    @property
    def takes(self) -> Schema:
        return CHOICES.selecting("prompt_id", "messages", *(column.name for column in OFFERED))

    def gives(self, *inputs: Schema) -> Schema:
        kept = tuple(c for c in inputs[0].columns if c.name not in {*_names(OFFERED), *_names(OFFER)})
        return Schema("offers", 1, (*kept, *OFFER), key=("sample_id",))

    def grown(self, given: Size) -> Size:
        return given.times(4)

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """A row for each choice."""
        choices = flat(rows["choices"])
        offsets = starts(choices)
        counts = np.diff(offsets)
        row = np.repeat(np.arange(rows.num_rows), counts)
        place = np.arange(offsets[-1]) - offsets[:-1][row]
        texts, at = choices.flatten(), pa.array(row)
        ids = pc.binary_join_element_wise(rows["prompt_id"].take(at), pa.array(place).cast(pa.string()), "-")
        scores = flat(rows["scores"])
        spread = np.full(len(row), -1, np.int64)
        given = np.asarray(scores.is_valid())[row]
        spread[given] = np.arange(given.sum())
        made = {
            "sample_id": ids,
            "response": pc.binary_join_element_wise(self.lead, texts, ""),
            "finish_reason": pa.repeat(pa.scalar(OPEN, pa.string()), len(row)),
            "choice": pa.array(place, pa.int32()),
            "offered": pa.array(counts[row], pa.int32()),
            "characters": pc.utf8_length(texts).cast(pa.int32()),
            "is_right": flat(rows["right"]).flatten(),
            "is_best": pa.array(place == np.asarray(rows["best"])[row]),
            "choice_score": scores.flatten().take(pa.array(spread, mask=spread < 0)),
        }
        kept = {name: rows[name].take(at) for name in rows.column_names if name not in {*_names(OFFERED), *made}}
        return Result(pa.table({**kept, **made}))


def _names(columns: tuple[Column, ...]) -> list[str]:
    return [column.name for column in columns]
