r"""A number: the only one in the last \boxed{}, else the first behind `after`, else the last one.

Whole numbers and decimals are compared digit by digit, fractions and powers of ten within `tolerance` (relative).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from datakit.columns import answers
from datakit.verifiers.verifier import ReadsBehind
from schemas.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, kw_only=True)
class Number(ReadsBehind):
    """Whether a response ends in the gold number (GSM8K, SVAMP); what is in doubt is wrong."""

    kind: ClassVar[str] = "number"

    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ConfigError("bad-setting", f"tolerance is {self.tolerance}, at least 0 and below 1")

    def verdicts(self, rows: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        response, gold = pl.col("response"), pl.col("gold")
        behind = answers.scope(response, self.after)
        frame = rows.select(
            answers.number(behind, first=bool(self.after)).alias("response"), answers.number(gold).alias("gold")
        )
        frame = frame.with_columns(pl.when(answers.value(one).is_not_null()).then(one) for one in (response, gold))
        return frame.select(right=self._equal(response, gold), read=response, known=gold.is_not_null())

    def _equal(self, response: pl.Expr, gold: pl.Expr) -> pl.Expr:
        import polars as pl

        one, other = answers.decimal(response), answers.decimal(gold)
        whole = one.str.contains(".", literal=True).not_() & other.str.contains(".", literal=True).not_()
        near = (answers.value(response) - answers.value(gold)).abs() <= self.tolerance * answers.value(gold).abs()
        equal = (one == other).fill_null(False) | (near & whole.fill_null(False).not_())
        return equal.cast(pl.Float64)
