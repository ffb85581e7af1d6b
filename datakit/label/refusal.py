"""Answers that refuse: one of a list of phrases near their beginning.

It is a rule of thumb in English: it knows no irony and no refusal in other words; a judge is the better measure where
one is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat
from datakit.columns.refusals import first_phrase
from datakit.op import Context, Label
from schemas import Column, Schema
from schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Refusal(Label):
    """Whether one of `phrases` stands in the first `within` characters of `column`, and the first that does (or null):
    `<output>` and `<output>_phrase`. Case and the form of apostrophes make no difference.
    """

    name: ClassVar[str] = "label.refusal"
    version: ClassVar[int] = 2

    column: str = "response"
    phrases: tuple[str, ...] = ()
    """Empty: `PHRASES` of `datakit/columns/refusals.py`."""
    within: int = 200
    output: str = "refusal"

    def __post_init__(self) -> None:
        if self.within < 1 or not self.output or not all(phrase.strip() for phrase in self.phrases):
            raise ConfigError(
                "bad-setting", f"{self.name}: within {self.within}, output {self.output!r}, phrases {self.phrases}",
                expected="within >= 1, a name, phrases that are not empty", kept="nothing was started",
            )  # fmt: skip

    @property
    def takes(self) -> Schema:
        return Schema("texts", 1, (Column(self.column, pa.string(), "what may refuse", nullable=True),))

    @property
    def adds(self) -> tuple[Column, ...]:
        return (
            Column(self.output, pa.bool_(), f"whether {self.column} begins with words of refusal"),
            Column(f"{self.output}_phrase", pa.string(), "the words", nullable=True),
        )

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        phrase = first_phrase(flat(rows[self.column]), self.phrases, self.within)
        return {self.adds[0].name: pc.is_valid(phrase), self.adds[1].name: phrase}
