"""label.weighted: several rewards of an answer as one, their weighted sum.

reward = sum_i weight_i reward_i
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from datakit.columns.measurement import NOT_FINITE, numbers
from datakit.op import Context, FilterDecision, Label, LabelResult
from schemas import Column, Schema
from schemas.errors import ConfigError, printable


@dataclass(frozen=True, kw_only=True)
class Weighted(Label):
    """Adds `output`, the sum of the columns that `weights` names, each times its weight; a weight below 0 is a price.

    A row with a number that is null, NaN or infinite, or whose sum is, is rejected as `not-finite`.
    """

    name: ClassVar[str] = "label.weighted"
    judges: ClassVar[bool] = True
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    weights: tuple[tuple[str, float], ...]
    """Columns, each with its weight."""
    output: str = "reward"

    def __post_init__(self) -> None:
        names = [column for column, _ in self.weights]
        if not names or len({*names}) < len(names) or not all(math.isfinite(weight) for _, weight in self.weights):
            raise ConfigError(
                "bad-setting",
                f"{self.name}: weights are no finite numbers of different columns",
                expected="one column or more, each with a finite weight",
                found=", ".join(f"{printable(column)} {weight}" for column, weight in self.weights) or "nothing",
                kept="nothing was started",
            )

    @property
    def takes(self) -> Schema:
        """A number under each name."""
        columns = (Column(column, pa.float64(), "a reward", nullable=True) for column, _ in self.weights)
        return Schema("rewarded", 1, tuple(columns))

    @property
    def adds(self) -> tuple[Column, ...]:
        terms = " + ".join(f"{weight:g} {column}" for column, weight in self.weights)
        return (Column(self.output, pa.float64(), f"{terms}, higher is better", finite=True),)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """Summed in the order of `weights`."""
        with np.errstate(over="ignore", invalid="ignore"):
            sum_B = sum((weight * numbers(rows[column]) for column, weight in self.weights), np.zeros(rows.num_rows))
        finite_B = np.isfinite(sum_B)
        kept = FilterDecision(pa.array(finite_B), NOT_FINITE)
        return LabelResult({self.output: pa.array(np.where(finite_B, sum_B, 0.0))}, kept)
