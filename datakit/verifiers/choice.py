"""One of several letters: alone, in a box, behind "the answer is", in brackets or at the start of a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from datakit.columns import answers
from datakit.verifiers.verifier import ReadsBehind
from schemas.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, kw_only=True)
class Choice(ReadsBehind):
    """Whether a response chooses the letter that the gold answer begins with; two letters are none."""

    kind: ClassVar[str] = "choice"

    choices: str = "ABCDE"

    def __post_init__(self) -> None:
        if not (self.choices.isascii() and self.choices.isalpha() and self.choices.isupper()):
            raise ConfigError("bad-setting", f"choices are upper-case letters, not {self.choices!r}")

    def verdicts(self, rows: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        read = answers.choice(answers.scope(pl.col("response"), self.after), self.choices)
        gold = answers.leading_letter(pl.col("gold"), self.choices)
        frame = rows.select(read=read, gold=gold)
        return frame.select("read", right=(pl.col("read") == pl.col("gold")).cast(pl.Float64),
                            known=pl.col("gold").is_not_null())  # fmt: skip
