"""template.reward_template: a question with the reward that its answer earned, or is to earn, after Decision
Transformer (Chen et al. 2021, arXiv:2106.01345) as NeMo-Aligner's offline labeler wrote it for language models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, messages, starts, turn_column
from datakit.op import Context, FilterDecision, Label, LabelResult, Size
from schemas import MESSAGES, TURN, Column, Schema
from schemas.errors import ConfigError, printable

_PLACES = re.compile(r"(\{input\}|\{reward\})")


@dataclass(frozen=True, kw_only=True)
class RewardTemplate(Label):
    """Writes the last question of `messages` as `template` says: `{input}` is the question, `{reward}` the number in
    `column` with so many `decimals`. A row that does not end with a question is rejected, and
    one whose number is null or not finite.

    Ids stay those of the question. `plain` names a column that keeps the messages as they came: what a reward model
    reads, which is not to see the reward that was asked for.
    """

    name: ClassVar[str] = "template.reward_template"
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    max_rejected: ClassVar[int | None] = 0

    template: str = "{input} <rm_score>: {reward} "
    column: str = "reward"
    decimals: int = 1
    plain: str = ""

    def __post_init__(self) -> None:
        wrong = [place for place in ("{input}", "{reward}") if place not in self.template]
        faults = [f"{place} is missing in {printable(self.template, 80)}" for place in wrong]
        faults += [] if 0 <= self.decimals <= 6 else [f"decimals is {self.decimals}, 0 to 6 are possible"]
        if faults:
            raise ConfigError("bad-setting", f"{self.name}: {'; '.join(faults)}", kept="nothing was started")

    @property
    def takes(self) -> Schema:
        reward = Column(self.column, pa.float64(), "what stands for {reward}", nullable=True)
        return Schema("rewarded", 1, (Column("messages", MESSAGES, "the conversation"), reward))

    @property
    def adds(self) -> tuple[Column, ...]:
        written = Column("messages", MESSAGES, "the conversation, its last question with a reward")
        kept = Column(self.plain, MESSAGES, "the conversation as it came")
        return (written, kept) if self.plain else (written,)

    def grown(self, given: Size) -> Size:
        return given.wider(1.4 if self.plain else 1.0)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """The last turn of every row, written anew; numbers are written once each."""
        turns = flat(rows["messages"])
        offsets, inner = starts(turns), turns.flatten()
        some = offsets[1:] > offsets[:-1]
        asks = np.zeros(len(turns), bool)
        last = offsets[1:][some] - 1
        asks[some] = np.asarray(pc.equal(inner.field("role").take(pa.array(last)), "user"))
        known = np.asarray(pc.fill_null(pc.is_finite(flat(rows[self.column])), False))
        reason = pc.if_else(pa.array(asks), "reward-not-finite", "last-turn-not-user")
        asks &= known
        places = offsets[1:][asks] - 1
        numbers = flat(rows[self.column]).filter(pa.array(asks)).dictionary_encode()
        written = pa.array([self.written(value) for value in numbers.dictionary.to_pylist()], pa.string())
        fills = {"{input}": inner.field("content").take(pa.array(places)), "{reward}": written.take(numbers.indices)}
        parts = [fills.get(part, part) for part in _PLACES.split(self.template) if part]
        mask = np.zeros(len(inner), bool)
        mask[places] = True
        content = pc.replace_with_mask(inner.field("content"), mask, pc.binary_join_element_wise(*parts, ""))
        others = {field.name: inner.field(field.name) for field in TURN if field.name not in ("role", "content")}
        columns = {"messages": messages(offsets, turn_column(inner.field("role"), content, **others))}
        if self.plain:
            columns[self.plain] = turns
        return LabelResult(columns, FilterDecision(pa.array(asks), reason))

    def written(self, value: float) -> str:
        """`value` as the question says it: rounded as Python does; -0.0 is 0.0."""
        return f"{round(value, self.decimals) + 0.0:.{self.decimals}f}"
