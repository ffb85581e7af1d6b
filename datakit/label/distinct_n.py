"""How varied a text is: distinct n-grams of words over all of them (distinct-n of Li et al. 2016, arXiv:1510.03055)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from datakit.columns.ngrams import ngrams, units
from datakit.columns.row_texts import row_texts
from datakit.op import Context, Label
from schemas import Column, Schema
from schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DistinctN(Label):
    """The share of the `n`-grams of words of `column` that are distinct, 0..1; null where it has fewer than `n` words.

    Words are runs of letters, marks and digits in lower case; a long text has a lower share than a short one of the
    same kind, so compare texts of about one length.
    """

    name: ClassVar[str] = "label.distinct_n"

    column: str = "response"
    n: int = 2
    output: str = ""
    """Name of the new column; `<column>_distinct_<n>` if empty."""

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 100:
            raise ConfigError("bad-setting", f"{self.name}: n {self.n}", expected="n in 1..100")

    @property
    def takes(self) -> Schema:
        return Schema("texts", 1, (Column(self.column, pa.string(), "what is measured", nullable=True),))

    @property
    def adds(self) -> tuple[Column, ...]:
        name = self.output or f"{self.column}_distinct_{self.n}"
        return (Column(name, pa.float64(), f"distinct {self.n}-grams over all of {self.column}", nullable=True),)

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        grams = ngrams(units(row_texts(rows, (self.column,)), "words"), self.n)
        every = grams.sizes
        share = grams.distinct().sizes / np.maximum(every, 1)
        return {self.adds[0].name: pa.array(share, mask=every == 0)}
