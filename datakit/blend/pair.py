"""Preference pairs out of rewarded (or verified) answers: a better and a worse answer to the same question.

Which pairs of a question's answers are candidates is the rule's matter; the reward of the better one is
always higher by more than `margin`, so ties never pair, and neither do answers of equal text, nor a null, NaN or
infinite reward. With `max_length_ratio` the longer answer of a pair has at most so many times the characters of the
other, so that preferring is not choosing by length. A lot is a pair's own: of the seed and both answers' ids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.drawn import finish_reasons
from datakit.columns.measurement import NOT_FINITE, groups, measured, numbers, require_number
from datakit.columns.rejections import ids_and_numbers, set_aside
from datakit.columns.seeded import text_keys
from datakit.duck.pairs import REACHES, PairLimits, distances, joined_pairs
from datakit.duck.whole import require_whole
from datakit.formats.ids import content_ids
from datakit.op import Context, Gather, Result
from schemas import PREFERENCES, SAMPLES, Schema, with_columns
from schemas.canonical import DEFAULT_UNNAMED
from schemas.dataset import Dataset
from schemas.errors import ConfigError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_MOST_ANSWERS = 2048  # of one prompt: what two of the rules join grows as their square


@dataclass(frozen=True, kw_only=True)
class Pair(Gather):
    """Up to `max_pairs` pairs of every prompt, by `column`.

    `best_vs_worst`: the highest against the lowest (of equals the first by sample index), then against the
    next lowest; `best_vs_random`: the highest against a lower one, by lot; `all_pairs`: any two, chosen by
    lot; `right_vs_wrong`: one at or above `right_from` against one below, by lot. Pairs hold the `sample_id` and the
    `finish_reason` of both answers, and for each (column, name) of `beside` what `chosen_<name>` and `rejected_<name>`
    were in that column. An answer that stands in none is rejected, with its ids and numbers, as
    beyond-max-pairs (it could pair), too-many-answers (of one prompt, over 2,048), not-finite, fewer-than-two,
    none-right, none-wrong, tied, within-margin, same-text or lengths-apart; its value is the greatest distance of its
    reward to one that it could be held against.
    """

    name: ClassVar[str] = "blend.pair"
    version: ClassVar[int] = 3

    rule: Literal["best_vs_worst", "best_vs_random", "all_pairs", "right_vs_wrong"] = "best_vs_worst"
    column: str = "reward"
    margin: float = 0.0
    right_from: float = 1.0
    max_pairs: int = 1
    max_length_ratio: float | None = field(default=None, metadata=DEFAULT_UNNAMED)
    beside: tuple[tuple[str, str], ...] = field(default=(), metadata=DEFAULT_UNNAMED)

    def __post_init__(self) -> None:
        ratio = 1 if self.max_length_ratio is None else self.max_length_ratio
        bounded = all(0 <= one < math.inf for one in (self.margin, self.max_pairs - 1, ratio - 1))
        if not (bounded and -math.inf < self.right_from < math.inf):
            settings = f"margin {self.margin}, right_from {self.right_from}, max_pairs {self.max_pairs}, ratio {ratio}"
            expected = "finite, margin >= 0, max_pairs >= 1, max_length_ratio >= 1"
            raise ConfigError("bad-setting", f"blend.pair: {settings}", expected=expected)

    @property
    def takes(self) -> Schema:
        """A sample's ids, conversation and answer; the number is checked in `gives`."""
        return SAMPLES.selecting("prompt_id", "messages", "sample_id", "sample_index", "response").renamed("answers")

    def gives(self, *inputs: Schema) -> Schema:
        require_number(inputs[0], self.column, self.name)
        kept = zip(inputs[0].selecting(*(name for name, _ in self.beside)).columns, self.beside, strict=True)
        sides = ((side, one) for one in kept for side in ("chosen", "rejected"))
        return PREFERENCES.adding(*(replace(column, name=f"{side}_{new}") for side, (column, (_, new)) in sides))

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """`DataError` where the samples of one prompt lie in two shards."""
        require_whole(dataset, "prompt_id", self.name)
        return {}

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """Pairs, prompts in the order of their first sample; answers that stand in none beside them."""
        group, values = groups(rows["prompt_id"]), numbers(rows[self.column])
        usable = np.flatnonzero(~np.isnan(values) & (np.bincount(group)[group] <= _MOST_ANSWERS))
        answers = {
            "row": usable,
            "prompt": group[usable],
            "value": values[usable],
            "place": np.asarray(rows["sample_index"])[usable],
            "text": groups(rows["response"])[usable],
            "size": np.asarray(pc.utf8_length(rows["response"]), np.int64)[usable],
            "lot": text_keys(rows["sample_id"], ctx.seed, self.name)[usable],
        }
        limits = PairLimits(self.margin, self.right_from, self.max_pairs, self.max_length_ratio)
        chosen, rejected = joined_pairs(answers, self.rule, limits)
        left = np.setdiff1d(np.arange(rows.num_rows), np.concatenate([chosen, rejected]))
        alike = np.isin(answers["prompt"], group[left])
        far = distances({name: column[alike] for name, column in answers.items()}, self.rule, limits, rows.num_rows)
        return Result(self._paired(rows, values, chosen, rejected), self._left_over(rows, left, group, values, far))

    def _paired(self, rows: pa.Table, values: Floats, chosen: Ints, rejected: Ints) -> pa.Table:
        asked = [name for name in ("prompt_id", "messages", "tools", "source") if name in rows.column_names]
        question, reasons, along = rows.select(asked).take(pa.array(chosen)), finish_reasons(rows), dict[str, Any]()
        pairs: dict[str, Any] = dict(zip(asked, question.columns, strict=True))
        for side, places in (("chosen", chosen), ("rejected", rejected)):
            at = pa.array(places)
            pairs |= {
                side: rows["response"].take(at),
                f"{side}_reward": pa.array(values[places]),
                f"{side}_sample_id": rows["sample_id"].take(at),
                f"{side}_finish_reason": reasons.take(at),
            }
            along |= {f"{side}_{new}": rows[name].take(at) for name, new in self.beside}
        pairs["pair_id"] = content_ids(pairs["prompt_id"], pairs["chosen_sample_id"], pairs["rejected_sample_id"])
        return with_columns(PREFERENCES.conform(pa.table(pairs)), along)

    def _left_over(
        self, rows: pa.Table, left: Ints, group: Ints, values: Floats, far: Mapping[str, Floats]
    ) -> pa.Table:
        """The rows `left`, with why none of them stands in a pair; `far` as `distances` gives it."""
        count = int(group.max(initial=-1)) + 1
        finite = np.bincount(group[~np.isnan(values)], minlength=count)
        high, low = np.full(count, -np.inf), np.full(count, np.inf)
        np.fmax.at(high, group, values)
        np.fmin.at(low, group, values)
        prompt, judged = group[left], self.rule == "right_vs_wrong"
        near, other, every = (far[reach][left] for reach in REACHES)
        cases = [
            (np.bincount(group, minlength=count)[prompt] > _MOST_ANSWERS, "too-many-answers", ""),
            (np.isnan(values[left]), NOT_FINITE, ""),
            (finite[prompt] < 2, "fewer-than-two", ""),
            (judged & (high[prompt] < self.right_from), "none-right", f">= {self.right_from:g}"),
            (judged & (low[prompt] >= self.right_from), "none-wrong", f"< {self.right_from:g}"),
            (high[prompt] == low[prompt], "tied", f"> {self.margin:g}"),
            (near > self.margin, "beyond-max-pairs", f"max_pairs {self.max_pairs}"),
            (~(every > self.margin), "within-margin", f"> {self.margin:g}"),
            (~(other > self.margin), "same-text", "another text"),
        ]
        holds, reasons, limits = zip(*cases, strict=True)
        reason = np.select(holds, reasons, "lengths-apart")
        limit = np.select(holds, limits, f"max_length_ratio {self.max_length_ratio}")
        answers = ids_and_numbers(rows, "prompt_id", "sample_id").take(pa.array(left))
        return set_aside(answers, pa.array(reason, pa.string()), measured(every), pa.array(limit, pa.string()))
