"""Preference pairs out of rewarded (or verified) answers: a better and a worse answer to the same question.

Which pairs of a question's answers are candidates is the rule's matter; the reward of the better one is
always higher by more than `margin`, so ties never pair, and neither do answers of equal text, nor a null, NaN or
infinite reward. With `max_length_ratio` the longer answer of a pair has at most so many times the characters of the
other, so that preferring is not choosing by length. A lot is a pair's own: of the seed and both answers' ids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.measurement import groups, measured, numbers, require_number
from datakit.columns.rejections import set_aside
from datakit.columns.seeded import text_keys
from datakit.duck.pairs import PairLimits, joined_pairs
from datakit.duck.whole import require_whole
from datakit.formats.ids import content_ids
from datakit.op import Context, Gather, Result
from schemas import PREFERENCES, SAMPLES, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.settings import DEFAULT_UNNAMED

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_MOST_ANSWERS = 2048  # of one prompt: what two of the rules join grows as their square


@dataclass(frozen=True, kw_only=True)
class Pair(Gather):
    """Up to `max_pairs` pairs of every prompt, by `column`.

    `best_vs_worst`: the highest against the lowest (of equals the first by sample index), then against the
    next lowest; `best_vs_random`: the highest against a lower one, by lot; `all_pairs`: any two, chosen by
    lot; `right_vs_wrong`: one at or above `right_from` against one below, by lot. A prompt that yields no pair
    is rejected as too-many-answers (over 2,048), fewer-than-two, tied, none-right, none-wrong, lengths-apart or
    within-margin; its value is the distance between its highest and its lowest reward.
    """

    name: ClassVar[str] = "blend.pair"
    version: ClassVar[int] = 2

    rule: Literal["best_vs_worst", "best_vs_random", "all_pairs", "right_vs_wrong"] = "best_vs_worst"
    column: str = "reward"
    margin: float = 0.0
    right_from: float = 1.0
    max_pairs: int = 1
    max_length_ratio: float | None = field(default=None, metadata=DEFAULT_UNNAMED)

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
        return PREFERENCES

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """`DataError` where the samples of one prompt lie in two shards."""
        require_whole(dataset, "prompt_id", self.name)
        return {}

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """Pairs, prompts in the order of their first sample; prompts without a pair beside them."""
        group, values = groups(rows["prompt_id"]), numbers(rows[self.column])
        chosen, rejected = self._pairs(rows, group, values, ctx.seed)
        better, worse = rows.take(pa.array(chosen)), rows.take(pa.array(rejected))
        asked = [name for name in ("prompt_id", "messages", "tools", "source") if name in rows.column_names]
        pairs = {
            "pair_id": content_ids(better["prompt_id"], better["sample_id"], worse["sample_id"]),
            "chosen": better["response"],
            "rejected": worse["response"],
            "chosen_reward": pa.array(values[chosen]),
            "rejected_reward": pa.array(values[rejected]),
            **{name: better[name] for name in asked},
        }
        return Result(PREFERENCES.conform(pa.table(pairs)), self._pairless(rows, group, values, group[chosen]))

    def _pairs(self, rows: pa.Table, group: Ints, values: Floats, seed: int) -> tuple[Ints, Ints]:
        finite = np.flatnonzero(~np.isnan(values) & (np.bincount(group)[group] <= _MOST_ANSWERS))
        answers = {
            "row": finite,
            "prompt": group[finite],
            "value": values[finite],
            "place": np.asarray(rows["sample_index"])[finite],
            "text": groups(rows["response"])[finite],
            "size": np.asarray(pc.utf8_length(rows["response"]), np.int64)[finite],
            "lot": text_keys(rows["sample_id"], seed, self.name)[finite],
        }
        limits = PairLimits(self.margin, self.right_from, self.max_pairs, self.max_length_ratio)
        return joined_pairs(answers, self.rule, limits)

    def _pairless(self, rows: pa.Table, group: Ints, values: Floats, paired: Ints) -> pa.Table:
        _, first = np.unique(group, return_index=True)
        count = len(first)
        finite = np.bincount(group[~np.isnan(values)], minlength=count)
        high, low = np.full(count, -np.inf), np.full(count, np.inf)
        np.fmax.at(high, group, values)
        np.fmin.at(low, group, values)
        judged = self.rule == "right_vs_wrong"
        cases = [
            (np.bincount(group) > _MOST_ANSWERS, "too-many-answers"),
            (finite < 2, "fewer-than-two"),
            (judged & (high < self.right_from), "none-right"),
            (judged & (low >= self.right_from), "none-wrong"),
            (high == low, "tied"),
            ((self.max_length_ratio is not None) & (high - low > self.margin), "lengths-apart"),
        ]
        reason = np.select([c for c, _ in cases], [name for _, name in cases], "within-margin")
        without = np.flatnonzero(~np.isin(np.arange(count), paired))
        spread = np.where(finite > 0, high - low, np.nan)[without]
        asked = [name for name in ("prompt_id", "messages", "tools") if name in rows.column_names]
        prompts = rows.select(asked).take(pa.array(first[without]))
        return set_aside(prompts, pa.array(reason[without], pa.string()), measured(spread), f"> {self.margin:g}")
