"""The same text: equal once normalised (NFKC, lower case, blanks, end marks), or letter for letter (`strict`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from datakit.columns import answers
from datakit.verifiers.verifier import ReadsBehind

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, kw_only=True)
class Text(ReadsBehind):
    """Whether a response is the gold answer."""

    kind: ClassVar[str] = "text"

    strict: bool = False

    def verdicts(self, rows: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        frame = rows.select(read=self._read(answers.scope(pl.col("response"), self.after)),
                            gold=self._read(pl.col("gold")))  # fmt: skip
        return frame.select("read", right=(pl.col("read") == pl.col("gold")).cast(pl.Float64),
                            known=pl.col("gold").is_not_null())  # fmt: skip

    def _read(self, text: pl.Expr) -> pl.Expr:
        return text if self.strict else answers.words(text)
