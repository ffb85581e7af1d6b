"""The text that a reward model reads: the whole conversation with its answer, closed as the template closes
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa

from datakit.columns.conversations import flat, with_response
from datakit.op import Context, LabelResult, Size
from datakit.template.chat import labelled, tools_of
from datakit.templating.ops import Templating, WritesText, renderer_of
from schemas import MESSAGES, PIECES, Column, Schema

_SIDES = {"samples": {"response": "reward"}, "preferences": {"chosen": "chosen", "rejected": "rejected"}}


@dataclass(frozen=True, kw_only=True)
class RewardPrompt(Templating, WritesText):
    """Adds `reward_pieces` and `reward_text` to samples, or `chosen_pieces`, `rejected_pieces` and their
    texts to preferences.

    `template`, `options` and `date` as in `Rendering`. Of a text only the answer is `trained`.
    """

    name: ClassVar[str] = "template.reward_prompt"
    version: ClassVar[int] = 2
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
            columns |= {f"{side}_pieces": done[-1].pieces, f"{side}_text": done[-1].text}
        return labelled(columns, *done)
