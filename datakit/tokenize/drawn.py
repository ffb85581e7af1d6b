"""tokenize.drawn: the tokens that a model read and drew, as the token rows that trainers and `label.logprobs` read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.conversations import flat, starts
from datakit.op import Context, FilterDecision, Label, LabelResult
from datakit.tokenize.encode import as_lists
from schemas import SAMPLES, TOKENS, Column, Schema
from schemas.canonical import DEFAULT_UNNAMED
from schemas.errors import ConfigError
from schemas.rows.rollouts import NUMBERS, RESPONSE_MASK

Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Drawn(Label):
    """Adds `input_ids` (the prompt's tokens, behind them those drawn) and `loss_mask` (1 on every drawn token) to
    samples: nothing is templated or tokenized a second time, which may give other tokens than were drawn.

    For each (column, new column) of `columns`, a number for each drawn token becomes one for each of `input_ids`, 0
    over the prompt: an entry is about the token that it stands on, as the log-probabilities of `label.logprobs` are. A
    row is rejected where no drawn token stands behind another token (`no-trained-token`), or where a column does not
    have one number for each (`column-length`).
    """

    name: ClassVar[str] = "tokenize.drawn"

    columns: tuple[tuple[str, str], ...] = (("logprobs", "drawn_logprobs"),)
    mask: str = field(default="", metadata=DEFAULT_UNNAMED)
    """The column that says which of `response_ids` were drawn, `response_mask` of conversations; empty: all were."""

    def __post_init__(self) -> None:
        added = [TOKENS["input_ids"].name, TOKENS["loss_mask"].name, *(new for _, new in self.columns)]
        if len(set(added)) < len(added):
            raise ConfigError(
                "bad-setting", f"{self.name}: columns names a new column twice", kept="nothing was started"
            )

    @property
    def takes(self) -> Schema:
        """Tokens of prompt and answer, and the numbers of the latter."""
        numbers = {name: Column(name, NUMBERS, "a number for each of response_ids") for name, _ in self.columns}
        masks = (replace(RESPONSE_MASK, name=self.mask),) if self.mask else ()
        return Schema("samples", 1, (SAMPLES["prompt_ids"], SAMPLES["response_ids"], *numbers.values(), *masks))

    @property
    def adds(self) -> tuple[Column, ...]:
        numbers = (Column(new, NUMBERS, f"{name} along input_ids, 0 over the prompt") for name, new in self.columns)
        return (TOKENS["input_ids"], TOKENS["loss_mask"], *numbers)

    @property
    def token_bytes(self) -> int:
        return 5 + 4 * len(self.columns)

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, pa.Array] | LabelResult:
        """All columns; rows of which nothing can be learnt, or whose numbers are not one per token, go."""
        prompts, answers = flat(rows["prompt_ids"]), flat(rows["response_ids"])
        before, drawn = np.diff(starts(prompts)), np.diff(starts(answers))
        offsets = starts(prompts) + starts(answers)
        place_T = np.arange(offsets[-1]) - np.repeat(offsets[:-1], before + drawn)
        drawn_T = place_T >= np.repeat(before, before + drawn)
        ids_T = np.empty(len(drawn_T), np.int32)
        ids_T[~drawn_T], ids_T[drawn_T] = np.asarray(prompts.flatten()), np.asarray(answers.flatten())
        learnt_T, reason = self._learnt(rows, drawn_T, drawn, before + drawn)
        columns: dict[str, Any] = {
            "input_ids": as_lists(ids_T, offsets),
            "loss_mask": as_lists(learnt_T.astype(np.int8), offsets),
        }
        for name, new in self.columns:
            numbers = flat(rows[name])
            have = np.diff(starts(numbers))
            fits = have == drawn
            values_T = np.zeros(len(drawn_T), np.float32)
            values_T[drawn_T & np.repeat(fits, before + drawn)] = np.asarray(numbers.flatten())[np.repeat(fits, have)]
            columns[new] = as_lists(values_T, offsets)
            reason = np.where(fits, reason, "column-length")
        keep = reason == ""
        if keep.all():
            return columns
        return LabelResult(
            columns, FilterDecision(pa.array(keep), pa.array(reason), pa.array(drawn.astype(np.float64)))
        )

    def _learnt(self, rows: pa.Table, drawn_T: Flags, drawn: Counts, lengths: Counts) -> tuple[Flags, Any]:
        """Which tokens are learnt, and why a row has none, or says of another number of tokens than it has."""
        if not self.mask:
            return drawn_T, np.where((drawn > 0) & (lengths > 1), "", "no-trained-token")
        masks, learnt_T = flat(rows[self.mask]), drawn_T.copy()
        have = np.diff(starts(masks))
        fits = have == drawn
        mask = np.asarray(masks.flatten()) != 0
        learnt_T[drawn_T & np.repeat(fits, lengths)] = mask[np.repeat(fits, have)]
        sums = np.concatenate([[0], np.cumsum(mask)])[starts(masks)]
        reason = np.where((np.diff(sums) > 0) & (lengths > 1), "", "no-trained-token")
        return learnt_T, np.where(fits, reason, "column-length")
