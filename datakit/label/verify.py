"""label.verify: does a response give the gold answer? By rule, without a model, without evaluating text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from datakit.columns import answers
from datakit.op import Context, FilterDecision, Label, LabelResult
from schemas import Column, Schema
from schemas.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, kw_only=True)
class Verify(Label):
    r"""Adds `output`, 1.0 where the response gives the gold `answer` and 0.0 elsewhere, and what was read.

    number: the only number in the last \boxed{}, else the first behind `after`, else the last; whole numbers
    and decimals are compared digit by digit, fractions and powers of ten within `tolerance` (relative).
    choice: one of `choices`. text: equal once normalised (NFKC, lower case, blanks, end marks), or `strict`ly
    equal. A response that cannot be read is wrong; a gold answer that cannot be read is a rejected row, and
    by default none is allowed.
    """

    name: ClassVar[str] = "label.verify"
    judges: ClassVar[bool] = True

    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ({"kind": "number"},)
    max_rejected: ClassVar[int | None] = 0

    kind: Literal["number", "choice", "text"]
    response: str = "response"
    answer: str = "answer"
    output: str = "correct"
    after: str = ""
    """Text that introduces the answer in a response, for example `####`; what lacks it cannot be read."""
    choices: str = "ABCDE"
    strict: bool = False
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if not (self.choices.isascii() and self.choices.isalpha() and self.choices.isupper()):
            raise ConfigError("bad-setting", f"choices are upper-case letters, not {self.choices!r}", where=self.name)
        if not 0 <= self.tolerance < 1:
            raise ConfigError("bad-setting", f"tolerance is {self.tolerance}, at least 0 and below 1", where=self.name)

    @property
    def takes(self) -> Schema:
        """The response and the gold answer."""
        return Schema(
            "verifiable",
            1,
            (
                Column(self.response, pa.string(), "what was answered"),
                Column(self.answer, pa.string(), "the gold answer", nullable=True),
            ),
        )

    @property
    def adds(self) -> tuple[Column, ...]:
        """The verdict, and the answer that was read (null where none could be)."""
        return (
            Column(self.output, pa.float64(), f"1 where {self.response} gives {self.answer}", finite=True),
            Column(f"{self.output}_read", pa.string(), f"the {self.kind} read in {self.response}", nullable=True),
        )

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        import polars as pl

        columns = {"answer": rows[self.response], "gold": rows[self.answer]}
        frame = pl.DataFrame({name: pl.from_arrow(values) for name, values in columns.items()})
        answer, gold = pl.col("answer").cast(pl.String), pl.col("gold").cast(pl.String)
        in_gold = answers.leading_letter(gold, self.choices) if self.kind == "choice" else self._read(gold)
        frame = frame.select(self._read(answers.scope(answer, self.after), bool(self.after)), in_gold)
        if self.kind == "number":
            frame = frame.with_columns(pl.when(answers.value(pl.col(n)).is_not_null()).then(n) for n in columns)
        right = self._equal(pl.col("answer"), pl.col("gold")).fill_null(False).cast(pl.Float64)
        verdicts = frame.select("answer", right=right, known=pl.col("gold").is_not_null()).to_arrow()
        added = {self.output: verdicts["right"], f"{self.output}_read": verdicts["answer"].cast(pa.string())}
        known = verdicts["known"].combine_chunks()
        return LabelResult(added, FilterDecision(known, "gold-not-readable", threshold=self.kind))

    def _read(self, text: pl.Expr, behind: bool = False) -> pl.Expr:
        if self.kind == "number":
            return answers.number(text, first=behind)
        if self.kind == "choice":
            return answers.choice(text, self.choices)
        return text if self.strict else answers.words(text)

    def _equal(self, answer: pl.Expr, gold: pl.Expr) -> pl.Expr:
        if self.kind != "number":
            return answer == gold
        one, other = answers.decimal(answer), answers.decimal(gold)
        whole = one.str.contains(".", literal=True).not_() & other.str.contains(".", literal=True).not_()
        near = (answers.value(answer) - answers.value(gold)).abs() <= self.tolerance * answers.value(gold).abs()
        return (one == other).fill_null(False) | (near & whole.fill_null(False).not_())
