"""template.fit: conversations that a model's context holds: those that are too long go, or lose whole turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from datakit.columns.conversations import flat, with_response
from datakit.op import Context, FilterDecision, LabelResult
from datakit.template.chat import conversations, tools_of
from datakit.templating.ops import Templating, renderer_of
from schemas import MESSAGES, Column, Schema
from schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Fit(Templating):
    """Keeps conversations of at most `max_length` tokens, as the template writes them, and adds `turns_cut`.

    A longer one goes (`drop`), or loses as few whole turns as will do: from the front (`cut-front`; the system turn
    stays, what is left begins with a question) or at the end (`cut-end`; what is left ends with an answer). Where not
    even one exchange fits, the row goes too (`no-exchange-fits`). Ids stay those of the whole conversation. `template`,
    `options` and `date` as in `Rendering`; `response` names the column of the last answer, where rows have one.
    """

    name: ClassVar[str] = "template.fit"
    version: ClassVar[int] = 3
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    max_length: int
    overlong: Literal["drop", "cut-front", "cut-end"] = "drop"
    response: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < 1 or (self.overlong == "cut-end" and self.response is not None):
            why = "cut-end would cut off the response" if self.max_length > 0 else f"max_length is {self.max_length}"
            raise ConfigError("bad-setting", f"{self.name}: {why}", kept="nothing was started")

    @property
    def takes(self) -> Schema:
        return conversations(self.response)

    @property
    def adds(self) -> tuple[Column, ...]:
        cut = Column("turns_cut", pa.int32(), "turns that were cut off")
        return (cut,) if self.overlong == "drop" else (Column("messages", MESSAGES, "what is left of it"), cut)

    def gives(self, *inputs: Schema) -> Schema:
        """The input's columns; `ConfigError` for labels of turns, which would not follow their turns."""
        if "labels" in inputs[0] and self.overlong != "drop":
            raise ConfigError(
                "bad-setting",
                f"{self.name}: labels are one a turn, and turns would be cut",
                kept="nothing was started",
                next="overlong=drop, or overlong=truncate-right of tokenize.mask",
            )
        return super().gives(*inputs)

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, pa.Array] | LabelResult:
        """The shortest cut of each row: cuts are tried one by one, because templates that show reasoning of the last
        answers only can make fewer turns longer. A row that the template refuses goes with its reason.
        """
        turns = flat(rows["messages"])
        lengths, faults = self._lengths(turns, np.arange(len(turns)), rows, ctx)
        cut, made = np.zeros(len(turns), np.int64), turns.to_pylist() if self.overlong != "drop" else []
        reasons = np.where(lengths > self.max_length, "too-long", "").astype(object)
        long = np.flatnonzero(lengths > self.max_length) if made else np.empty(0, np.int64)
        ways = {row: self._ways(made[row]) for row in long.tolist()}
        number = 0
        while tried := [row for row, several in ways.items() if number < len(several)]:
            left = pa.array([_left(made[row], ways[row][number]) for row in tried], MESSAGES)
            lengths_left, refused = self._lengths(left, np.array(tried), rows, ctx)
            fits = (lengths_left <= self.max_length) & (refused == "")
            for row in np.array(tried)[fits].tolist():
                shortened = _left(made[row], ways.pop(row)[number])
                reasons[row], cut[row], made[row] = "", len(made[row]) - len(shortened), shortened
            number += 1
        reasons[list(ways)] = "no-exchange-fits"
        reasons = np.where(faults != "", faults, reasons)
        columns = {"turns_cut": pa.array(cut, pa.int32())}
        if self.overlong != "drop":
            columns["messages"] = pa.array(made, MESSAGES)
        keep = FilterDecision(
            pa.array(reasons == ""), pa.array(reasons.tolist(), pa.string()), pa.array(lengths.astype(np.float64)),
            f"{self.max_length} tokens",
        )  # fmt: skip
        return columns if (reasons == "").all() else LabelResult(columns, keep)

    def _lengths(
        self, turns: pa.Array, places: np.ndarray, rows: pa.Table, ctx: Context
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each conversation, which is that of the row at its place; why the template refuses it, or empty."""
        tools, which = tools_of(rows), pa.array(places)
        if self.response is not None:
            turns = with_response(turns, flat(rows[self.response]).take(which))
        done = renderer_of(self.rendering, ctx).pieces(turns, tools=None if tools is None else tools.take(which))
        encoded = ctx.resources["tokenizer"].encode_pieces(done.pieces)
        return encoded.lengths, np.array([reason or "" for reason in done.reason.to_pylist()], object)

    def _ways(self, turns: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
        """What can be left of a conversation, the longest first: its turns before the first number, and those from the
        second up to the third.
        """
        roles, count = [turn["role"] for turn in turns], len(turns)
        first = int(roles[:1] == ["system"])
        if self.overlong == "cut-end":
            asked = next((at for at in range(first, count) if roles[at] == "user"), count)
            return [(0, 0, at + 1) for at in range(count - 2, asked, -1) if roles[at] == "assistant"]
        last = count if self.response is not None else count - [*reversed(roles), "assistant"].index("assistant") - 1
        return [(first, at, count) for at in range(first + 1, last) if roles[at] == "user"]


def _left(turns: list[dict[str, Any]], way: tuple[int, int, int]) -> list[dict[str, Any]]:
    return turns[: way[0]] + turns[way[1] : way[2]]
