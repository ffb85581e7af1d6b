"""Prompts whose answers are all rewarded alike go: held against each other, they teach nothing.

The dynamic sampling of Yu et al., "DAPO" (2025, arXiv:2503.14476), as a filter; an online run asks further prompts in
their place (`step.max_rounds`). All answers to a prompt must lie in one shard, which `prepare` checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from datakit.columns.measurement import NOT_FINITE, groups, measured, numbers, require_number
from datakit.columns.rejections import ids_and_numbers, set_aside
from datakit.duck.whole import require_whole
from datakit.op import Context, Gather, Result
from schemas import Column, Schema
from schemas.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class ZeroVariance(Gather):
    """Keep the rows of each `key` whose finite values of `column` are not all equal, in the order of the input.

    The others are set aside with their value as `equal-rewards`, or as `one-answer` where there is nothing to be equal
    to; those without a finite value as `not-finite`, of whatever prompt. They keep ids and numbers; their texts stand
    in the input.
    """

    name: ClassVar[str] = "filter.zero_variance"

    column: str = "reward"
    key: str = "prompt_id"

    @property
    def takes(self) -> Schema:
        """The key; the number is checked in `gives`."""
        return Schema("candidates", 1, (Column(self.key, pa.string(), "rows with the same value are one group"),))

    def gives(self, *inputs: Schema) -> Schema:
        require_number(inputs[0], self.column, self.name)
        return inputs[0]

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """`DataError` where the rows of one key lie in two shards."""
        require_whole(dataset, self.key, self.name)
        return {}

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """The rows that stay, and everyone else with a reason."""
        group, values = groups(rows[self.key]), numbers(rows[self.column])
        finite = ~np.isnan(values)
        count = int(group.max(initial=-1)) + 1
        sizes = np.bincount(group[finite], minlength=count)
        high, low = np.full(count, -np.inf), np.full(count, np.inf)
        np.fmax.at(high, group, values)
        np.fmin.at(low, group, values)
        keep = finite & (high > low)[group]
        gone = ids_and_numbers(rows, self.key, "sample_id").filter(pa.array(~keep))
        cases = [(~finite, NOT_FINITE), ((sizes < 2)[group], "one-answer")]
        reason = np.select([holds for holds, _ in cases], [name for _, name in cases], "equal-rewards")[~keep]
        set_apart = set_aside(gone, pa.array(reason, pa.string()), measured(values[~keep]), "rewards that differ")
        return Result(rows.filter(pa.array(keep)), set_apart)
