"""label.longer: whether the better answer of a pair is the longer one; how far length alone explains a preference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from datakit.op import Context, Label
from schemas import PREFERENCES, Column, Schema


@dataclass(frozen=True, kw_only=True)
class Longer(Label):
    """1 where `chosen` has more characters (code points) than `rejected`, 0 where it has fewer, 1/2 where as many.

    The mean is the accuracy of a judge who always takes the longer answer and tosses a coin between equal ones.
    """

    name: ClassVar[str] = "label.longer"

    output: str = "longer_chosen"

    @property
    def takes(self) -> Schema:
        return PREFERENCES.selecting("chosen", "rejected")

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column(self.output, pa.float64(), "1: the chosen answer is longer; 1/2: as long", finite=True),)

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.ChunkedArray]:
        chosen, rejected = pc.utf8_length(rows["chosen"]), pc.utf8_length(rows["rejected"])
        halves = pc.add(pc.sign(pc.subtract(chosen, rejected)).cast(pa.float64()), 1.0)
        return {self.output: pc.divide(halves, 2.0)}
