"""template.labelled: NeMo-Aligner's chats with attribute labels as text, a label given (VALUE_TO_TEXT) or learnt
(TEXT_TO_VALUE), row by row as the file says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns import learnt_ends
from datakit.columns.conversations import flat, joined, per_turn, starts
from datakit.op import Context, FilterDecision, LabelResult, Size
from datakit.template.chat import conversations, end_of
from datakit.templating.labelled import ChatMarks, pieces_of
from datakit.templating.named import extra_id
from datakit.templating.ops import WritesText, renderer_of
from datakit.templating.rendering import Rendering
from datakit.templating.weights import weight_faults
from schemas import PIECES, Column, Schema
from schemas.manifest import Manifest
from schemas.rows.chats import GIVEN_LABELS, LEARNT_LABELS

_CURE = "rows end in an assistant's turn where their last turn is to teach its end"


@dataclass(frozen=True, kw_only=True)
class LabelledChat(WritesText):
    """Adds `pieces` and `text` of `messages`, with the `labels` of turns and the `label_type` of each row where rows
    have them (format `chats`), as NeMo-Aligner writes chats: label before the value, or behind it and learnt. Turns
    stand under their `turn_names`, where rows have them; one of weight 1 is learnt whatever its role.

    `marks` are its `chat_prompt_tokens`. `learn`: all turns that may be, or the last. Turns of weight 0 are not learnt.
    With TEXT_TO_VALUE a turn without a label is not learnt (NeMo-Aligner learns its text).
    """

    name: ClassVar[str] = "template.labelled"

    marks: ChatMarks = field(default_factory=ChatMarks)
    learn: Literal["all", "last"] = "all"

    @property
    def rendering(self) -> Rendering:
        """The chat template of the same text without labels, by which a model is asked."""
        if self.marks == ChatMarks():
            return Rendering(template="extra_id")
        given = {name: text for name, text in asdict(self.marks).items() if name != "label_start"}
        return Rendering(template=extra_id(**given))

    @property
    def takes(self) -> Schema:
        return conversations()

    @property
    def adds(self) -> tuple[Column, ...]:
        return Column("pieces", PIECES, "the text in pieces"), Column("text", pa.string(), "the exact text")

    def grown(self, given: Size) -> Size:
        return given.wider(1.85)

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, pa.Array] | LabelResult:
        """The columns; rows with labels that are not one a turn, or weights that are no mask, go."""
        turns, count = flat(rows["messages"]), rows.num_rows
        kinds = flat(rows["label_type"]) if "label_type" in rows.column_names else pa.nulls(count, pa.string())
        reasons = np.full(count, None, object)
        for reason, _, wrong in weight_faults(turns, self.learn == "last"):
            if reason != "learns-other-role":
                reasons[wrong] = reason
        none, offsets = pa.nulls(count, pa.list_(pa.string())), starts(turns)
        texts = []
        for name, reason in (("labels", "labels-are-not-one-a-turn"), ("turn_names", "names-are-not-one-a-turn")):
            own, odd = per_turn(flat(rows[name]) if name in rows.column_names else none, offsets)
            texts.append(own)
            reasons[odd] = reason
        labels, names = texts
        known = pc.is_in(kinds, pa.array([GIVEN_LABELS, LEARNT_LABELS, None]))
        reasons[np.asarray(pc.invert(known))] = "unknown-label-type"
        good = np.array([reason is None for reason in reasons], bool)
        pieces = pieces_of(turns, labels, names, kinds, self.marks, self.learn == "last")
        columns = {"pieces": pieces, "text": joined(pieces)}
        if good.all():
            return columns
        return LabelResult(columns, FilterDecision(pa.array(good), pa.array(reasons, pa.string()).fill_null("")))

    def counts(self, rows: pa.Table, ctx: Context) -> Mapping[str, float]:
        """Rows that do not teach where to stop."""
        ends = (*end_of(ctx), *renderer_of(self.rendering, ctx).turn_end.stop)
        return learnt_ends.counts(rows["pieces"], ends, cut=np.zeros(rows.num_rows, bool))

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """Whether all rows teach an end, and by which text answers end where the tokenizer has no token for it."""
        return (*learnt_ends.notes(made, _CURE), *learnt_ends.texts(made))
