"""label.reward: the numbers that a reward model (or a function) puts on every row, in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from datakit.clients.asking_label import ScorerLabel
from datakit.clients.replies import check_outputs, scale_of, scores
from datakit.op import Context, FilterDecision, LabelResult
from schemas import Column
from schemas.canonical import DEFAULT_UNNAMED
from schemas.errors import ConfigError, printable


@dataclass(frozen=True, kw_only=True)
class Reward(ScorerLabel):
    """Adds the scorer's numbers as finite columns; its resource's `takes` says what the scorer reads.

    A reward model that has names for its numbers (`rm_regression`: its attributes) gives them all, each as the column
    of its name; one that has none, or a function, gives `reward`. A row with a number that is null, NaN or infinite is
    rejected as `reward-not-finite`. No such row is allowed unless the run says how many (`max_rejected`): a broken
    reward must never become the best one.
    """

    name: ClassVar[str] = "label.reward"
    judges: ClassVar[bool] = True

    reads: str | tuple[str, ...] = ()
    """Which of the scorer's numbers: one, as `column`, or several under their own names; by default all of them."""
    column: str = "reward"
    """Name of the new column where there is one number, so that several rewards can stand side by side."""

    standardize: bool = field(default=False, metadata=DEFAULT_UNNAMED)
    """Whether each number is brought to the scale of held-out answers: less the mean, over the standard deviation that
    the reward model's checkpoint carries (`model.measured` of the recipe `RewardModel`).
    """

    @property
    def adds(self) -> tuple[Column, ...]:
        scaled = ", standardised as its checkpoint says" if self.standardize else ""
        return tuple(
            Column(column, pa.float64(), f"{number}, higher is better{scaled}", finite=True)
            for column, number in self._columns.items()
        )

    @property
    def _columns(self) -> Mapping[str, str]:
        """The scorer's number that each new column is."""
        if isinstance(self.reads, str):
            return {self.column: self.reads}
        numbers = self.reads or ("reward",)
        renamed = len(numbers) == 1 and self.column != type(self).column
        return {self.column: numbers[0]} if renamed else dict(zip(numbers, numbers, strict=True))

    def with_outputs(self, outputs: Mapping[str, tuple[str, ...]]) -> Reward:
        given = outputs.get(self.needs[0], ())
        asked = (self.reads,) if isinstance(self.reads, str) else self.reads or given
        check_outputs(self.name, asked, given)
        return self if isinstance(self.reads, str) else replace(self, reads=asked)

    def __post_init__(self) -> None:
        several = not isinstance(self.reads, str) and len(self.reads) > 1
        if several and (self.column != type(self).column or len(set(self.reads)) < len(self.reads)):
            raise ConfigError(
                "bad-setting",
                f"{self.name}: several numbers are columns of their own names",
                expected="different names in reads, and no column",
                found=f"reads {', '.join(map(printable, self.reads))}, column {printable(self.column)}",
                kept="nothing was started",
            )

    def params(self) -> dict[str, Any]:
        """One number as its text, whether it was named or is the only one there is."""
        columns = self._columns
        one = next(iter(columns.items())) if len(columns) == 1 else None
        return super().params() | ({} if one is None else {"column": one[0], "reads": one[1]})

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """Ask the scorer once; `ServiceError` (13) if it does not answer with a number per row of each name."""
        names = tuple(self._columns.values())
        scale = scale_of(ctx, names, self.needs[0]) if self.standardize else []
        numbers = scores(ctx, rows, names, self.needs[0])
        for place, (mean, std) in enumerate(scale):
            numbers[place] = pc.divide(pc.subtract(numbers[place], mean), std)
        columns = dict(zip(self._columns, numbers, strict=True))
        return LabelResult(columns, _decision(columns))


def _decision(columns: Mapping[str, pa.Array]) -> FilterDecision:
    """Rows stay whose numbers are all finite; the others have the first that is not, and of several which it is."""
    finite, value, threshold = pa.scalar(True), pa.scalar(None, pa.float64()), pa.scalar("finite")
    for column, values in columns.items():
        value = pc.if_else(finite, values, value)
        threshold = pc.if_else(finite, f"finite {column}", threshold)
        finite = pc.and_(finite, pc.fill_null(pc.is_finite(values), False))
    return FilterDecision(finite, "reward-not-finite", value, threshold if len(columns) > 1 else "finite")
