"""label.length: how long a text is, in characters, words or tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from datakit.op import Context, Label
from schemas import IDS, Column, Schema


@dataclass(frozen=True, kw_only=True)
class Length(Label):
    """Lengths of `column`: characters (code points), words (between white space), tokens (of ids)."""

    name: ClassVar[str] = "label.length"

    column: str = "response"
    unit: Literal["characters", "words", "tokens"] = "characters"
    output: str = ""
    """Name of the new column; `<column>_<unit>` if empty."""

    @property
    def takes(self) -> Schema:
        """The measured column: text, or ids where the unit is tokens."""
        kind = IDS if self.unit == "tokens" else pa.string()
        return Schema("texts", 1, (Column(self.column, kind, "what is measured"),))

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column(self.output or f"{self.column}_{self.unit}", pa.int64(), f"{self.unit} of {self.column}"),)

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.ChunkedArray]:
        values = rows[self.column]
        if self.unit == "tokens":
            lengths = pc.list_value_length(values)
        elif self.unit == "characters":
            lengths = pc.utf8_length(values)
        else:
            text = pc.utf8_trim_whitespace(values)
            words = pc.list_value_length(pc.utf8_split_whitespace(text))
            lengths = pc.if_else(pc.equal(text, ""), pa.scalar(0, words.type), words)
        return {self.adds[0].name: lengths.cast(pa.int64())}
