"""Conversations to text, by a chat template: pieces that keep apart what the template wrote and what was given.

Control tokens written inside a content never become control tokens: content pieces are not `special`. What an
assistant turn consists of (content and end-of-turn mark) is `trained`. With `generation` the text ends in an
open assistant header.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns import learnt_ends
from datakit.columns.conversations import flat, with_response
from datakit.op import Context, FilterDecision, LabelResult, Size
from datakit.templating.ops import Templating, WritesText, renderer_of
from datakit.templating.render import Pieces
from datakit.templating.rendering import Rendering
from schemas import MESSAGES, PIECES, Column, Schema
from schemas.end_tokens import TurnEnd
from schemas.errors import ConfigError, printable
from schemas.manifest import Manifest

_CURE = "use a template that closes the assistant's turn, or set append_eos of tokenize.mask"


@dataclass(frozen=True, kw_only=True)
class Chat(Templating, WritesText):
    """Adds `pieces` and `text` (with `generation`: `pieces` and `prompt`) of `messages`, and of column
    `response` if named.

    `template`, `options` and `date` as in `Rendering`. `learn`: all assistant turns, or the last. Rows that the
    template refuses, or whose contents cannot be located in what it writes, are rejected. Of a `response` that was
    cut (`finish_reason` length, as in `SAMPLES`; of another column `<column>_finish_reason`) only the content is
    trained: it has no end to be learnt.
    """

    name: ClassVar[str] = "template.chat"
    version: ClassVar[int] = 3
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"response": "mismatched", "learn": "last", "into": "mismatched_pieces"},
    )

    response: str | None = None
    generation: bool = False
    learn: Literal["all", "last"] = "all"
    into: str = "pieces"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generation and self.response is not None:
            raise ConfigError("bad-setting", f"{self.name}: a prompt has no response", kept="nothing was started")

    @property
    def takes(self) -> Schema:
        """Messages, and the response where one is named."""
        return conversations(self.response)

    @property
    def adds(self) -> tuple[Column, ...]:
        if self.generation:
            text = Column("prompt", pa.string(), "the exact text that the model reads")
        else:
            text = Column("text", pa.string(), "the exact text")
        return Column(self.into, PIECES, "the text in pieces"), text

    def over(self, inputs: Sequence[Schema | None], named: Collection[str]) -> Chat:
        """Rows that hold answers are written with them, unless it writes prompts."""
        if self.generation or "response" in named:
            return self
        answered = all(rows is not None and "response" in rows for rows in inputs)
        return replace(self, response="response") if answered else self

    def grown(self, given: Size) -> Size:
        return given.wider(2.7)

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, pa.Array] | LabelResult:
        turns = flat(rows["messages"])
        if self.response is not None:
            turns = with_response(turns, flat(rows[self.response]))
        done = renderer_of(self.rendering, ctx).pieces(
            turns, tools=tools_of(rows), generation=self.generation, last=self.learn == "last"
        )
        pieces = learnt_ends.without_end(done.pieces, self._cut(rows))
        return labelled({self.into: pieces, self.adds[1].name: done.text}, done)

    def counts(self, rows: pa.Table, ctx: Context) -> Mapping[str, float]:
        """Rows that do not teach where to stop, and answers that were cut."""
        if self.generation:
            return {}
        ends = renderer_of(self.rendering, ctx).turn_end.stop
        open_ended = learnt_ends.open_rows(rows, self.response or "response")
        ends = (*end_of(ctx), *ends)
        return learnt_ends.counts(rows[self.into], ends, cut=self._cut(rows), open_ended=open_ended)

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """Whether all rows teach an end, and by which text answers end where the template has no token for it."""
        return (*learnt_ends.notes(made, _CURE), *learnt_ends.cut_notes(made), *learnt_ends.texts(made))

    def _cut(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """Rows whose answer is a drawn one that was cut."""
        return np.zeros(rows.num_rows, bool) if self.response is None else learnt_ends.cut_rows(rows, self.response)


def conversations(response: str | None = None) -> Schema:
    """What an operation takes that templates whole conversations, with the answer in column `response` if named."""
    messages = Column("messages", MESSAGES, "the conversation")
    answer = () if response is None else (Column(response, pa.string(), "the answer"),)
    return Schema("conversations", 1, (messages, *answer))


def turn_end_of(tokenizer: object) -> TurnEnd:
    """How the tokenizer's own chat template ends an assistant's turn; nothing without one, or where it writes none."""
    if getattr(tokenizer, "chat_template", None) is None:
        return TurnEnd()
    anyday = Rendering(date="2025-01-31")
    return renderer_of(anyday, Context(resources={"tokenizer": tokenizer})).turn_end


def end_of(ctx: Context) -> tuple[str, ...]:
    """The text of the tokenizer's end token, if it has one."""
    token = getattr(ctx.resources.get("tokenizer"), "eos_token", None)
    return (token,) if token else ()


def labelled(columns: dict[str, pa.Array], *done: Pieces) -> Mapping[str, pa.Array] | LabelResult:
    """The columns, and which rows go because a rendering of theirs is not kept."""
    reason = pc.coalesce(*[part.reason for part in done])
    if reason.null_count == len(reason):
        return columns
    detail = [printable(one, 200) if one else None for one in pc.coalesce(*[part.detail for part in done]).to_pylist()]
    keep = pa.array(np.asarray(reason.is_null()))
    return LabelResult(columns, FilterDecision(keep, pc.fill_null(reason, ""), threshold=pa.array(detail, pa.string())))


def tools_of(rows: pa.Table) -> pa.Array | None:
    """The tools on offer in each row, where rows have that column."""
    return flat(rows["tools"]) if "tools" in rows.column_names else None
