"""label.attribute_text: attributes as the text that conditions an answer (SteerLM): `quality:4,toxicity:0,humor:1`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, starts
from datakit.label.attributes import check_written
from datakit.op import Context, FilterDecision, Label, LabelResult
from schemas import ATTRIBUTED, STEERLM_ATTRIBUTES, Column, Schema
from schemas.errors import ConfigError
from schemas.rows.attributed import NOT_JUDGED


@dataclass(frozen=True, kw_only=True)
class AttributeText(Label):
    """Adds `attribute_text`: each attribute of `column` as `name:number`, joined by commas, in the order of `names`.

    As NeMo-Aligner writes them: clamped to `lowest` .. `highest`, rounded to a whole number, halves to the even one. An
    attribute that is unknown (null, NaN, -100) is left out; the text is null where all are. Rows with more or fewer
    numbers than `names` are rejected, and rows with an infinite one.
    """

    name: ClassVar[str] = "label.attribute_text"
    max_rejected: ClassVar[int | None] = 0

    names: tuple[str, ...] = STEERLM_ATTRIBUTES
    """What the numbers of `column` are. Default: NeMo-Aligner's nine."""
    column: str = "attributes"
    output: str = "attribute_text"
    lowest: int = 0
    highest: int = 4

    def __post_init__(self) -> None:
        check_written(self.name, self.names)
        if not 0 <= self.highest - self.lowest <= 1000:
            raise ConfigError(
                "bad-setting",
                f"{self.name}: {self.lowest} .. {self.highest} is no scale",
                expected="lowest at most highest, 1000 apart at most",
                kept="nothing was started",
            )

    @property
    def takes(self) -> Schema:
        values = Column(self.column, ATTRIBUTED["attributes"].type, "one value a name", nullable=True)
        return Schema("attributed", 1, (values,))

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column(self.output, pa.string(), f"{self.column} as text, null where all are unknown", nullable=True),)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """The text, over whole columns: one lookup, one join."""
        lists, count = flat(rows[self.column]), len(self.names)
        fits = np.diff(starts(lists)) == count
        values = np.full((rows.num_rows, count), np.nan)
        values[fits] = lists.filter(pa.array(fits)).flatten().to_numpy(zero_copy_only=False).reshape(-1, count)
        infinite = np.asarray(np.isinf(values).any(axis=1))
        unknown = ~np.isfinite(values) | (values == NOT_JUDGED)
        whole = np.rint(np.clip(np.where(unknown, 0, values), self.lowest, self.highest)).astype(np.int64)
        scale = range(self.lowest, self.highest + 1)
        pool = pa.array([f"{name}:{number}" for name in self.names for number in scale])
        place = whole - self.lowest + np.arange(count) * len(scale)
        ends = np.concatenate([[0], np.cumsum((~unknown).sum(axis=1))])
        parts = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pool.take(pa.array(place[~unknown])))
        text = pc.if_else(pa.array(unknown.all(axis=1)), pa.scalar(None, pa.string()), pc.binary_join(parts, ","))
        reason = pc.if_else(pa.array(fits), "attribute-not-finite", "attributes-are-not-one-a-name")
        return LabelResult({self.output: text}, FilterDecision(pa.array(fits & ~infinite), reason))
