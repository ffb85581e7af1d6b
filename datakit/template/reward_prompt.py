"""The text that a reward model reads: the whole conversation with its answer, closed as the template closes it.

An answer that was cut is closed, too: a reward is read at the last token, in training as in scoring. But of a pair that
a policy learns from, its end is not `trained`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa

from datakit.columns import learnt_ends
from datakit.columns.conversations import flat, with_response
from datakit.op import Context, LabelResult, Size
from datakit.template.chat import labelled, tools_of
from datakit.templating.ops import Templating, WritesText, renderer_of
from schemas import MESSAGES, PIECES, Column, Schema
from schemas.manifest import Manifest

_SIDES = {"samples": {"response": "reward"}, "preferences": {"chosen": "chosen", "rejected": "rejected"}}


@dataclass(frozen=True, kw_only=True)
class RewardPrompt(Templating, WritesText):
    """Adds `reward_pieces` and `reward_text` to samples, or `chosen_pieces`, `rejected_pieces` and their
    texts to preferences.

    `template`, `options` and `date` as in `Rendering`. Of a text only the answer is `trained`, without its end where it
    was cut (`finish_reason` length, in pairs `chosen_finish_reason` and `rejected_finish_reason`).
    """

    name: ClassVar[str] = "template.reward_prompt"
    version: ClassVar[int] = 3
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"rows": "preferences"})

    rows: Literal["samples", "preferences"] = "samples"

    @property
    def takes(self) -> Schema:
        answers = tuple(Column(name, pa.string(), "an answer") for name in _SIDES[self.rows])
        return Schema("answered", 1, (Column("messages", MESSAGES, "the conversation before"), *answers))

    @property
    def adds(self) -> tuple[Column, ...]:
        """Pieces and text of each side."""
        return tuple(
            column
            for side in _SIDES[self.rows].values()
            for column in (
                Column(f"{side}_pieces", PIECES, "what the reward model reads, in pieces"),
                Column(f"{side}_text", pa.string(), "the exact text"),
            )
        )

    def grown(self, given: Size) -> Size:
        return given.wider(3.7 if self.rows == "preferences" else 2.7)

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, pa.Array] | LabelResult:
        """All columns; a row goes if any of its sides cannot be rendered."""
        render = renderer_of(self.rendering, ctx)
        columns: dict[str, pa.Array] = {}
        done = []
        for answer, side in _SIDES[self.rows].items():
            turns = with_response(flat(rows["messages"]), flat(rows[answer]))
            done.append(render.pieces(turns, tools=tools_of(rows), last=True))
            pieces = learnt_ends.without_end(done[-1].pieces, learnt_ends.cut_rows(rows, answer))
            columns |= {f"{side}_pieces": pieces, f"{side}_text": done[-1].text}
        return labelled(columns, *done)

    def counts(self, rows: pa.Table, ctx: Context) -> Mapping[str, float]:
        """Answers of pairs that were cut."""
        if self.rows == "samples":
            return {}
        return learnt_ends.cut_counts(*(learnt_ends.cut_rows(rows, side) for side in _SIDES[self.rows]))

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """The share of the answers of pairs that were cut."""
        return learnt_ends.cut_notes(made, per_row=len(_SIDES[self.rows]))
