"""label.attribute_values: the numbers in an attribute text, `quality:4,toxicity:0`, read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import any_turn, flat, starts
from datakit.label.attributes import check_written
from datakit.op import Context, FilterDecision, Label, LabelResult
from schemas import ATTRIBUTED, STEERLM_ATTRIBUTES, Column, Schema

_PART = r"^\s*(?P<name>[^:,]*?)\s*:\s*(?P<number>-?[0-9]{1,15}(?:\.[0-9]{1,15})?)\s*$"


@dataclass(frozen=True, kw_only=True)
class AttributeValues(Label):
    """Adds `attributes`: of each of `names` the number that the text in `column` gives it, null where it gives none.

    The text may name its attributes in any order. A row is rejected whose text is no `name:number` joined by commas
    (`no-attribute-text`), names an attribute that is none of `names` (`unknown-attribute`) or one twice
    (`attribute-twice`). A null or empty text says nothing.
    """

    name: ClassVar[str] = "label.attribute_values"
    max_rejected: ClassVar[int | None] = 0

    names: tuple[str, ...] = STEERLM_ATTRIBUTES
    """Attributes in the order of the list. Default: NeMo-Aligner's nine."""
    column: str = "attribute_text"
    output: str = "attributes"

    def __post_init__(self) -> None:
        check_written(self.name, self.names)

    @property
    def takes(self) -> Schema:
        return Schema("conditioned", 1, (Column(self.column, pa.string(), "name:number, ...", nullable=True),))

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column(self.output, ATTRIBUTED["attributes"].type, ", ".join(self.names)),)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """The numbers, over whole columns."""
        texts = pc.fill_null(flat(rows[self.column]), "")
        parts = pc.split_pattern(pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts), ",")
        offsets, count = starts(parts), len(self.names)
        read = pc.extract_regex(parts.flatten(), _PART)
        broken, place = np.asarray(read.is_null()), pc.index_in(read.field("name"), pa.array(self.names))
        strange = np.asarray(place.is_null()) & ~broken
        row = np.repeat(np.arange(rows.num_rows), np.diff(offsets))
        good = ~broken & ~strange
        cell = row[good] * count + np.asarray(place.filter(pa.array(good)), np.int64)
        twice = np.zeros(len(row), bool)
        twice[good] = np.bincount(cell, minlength=1)[cell] > 1
        values = np.full(rows.num_rows * count, np.nan)
        values[cell] = np.asarray(read.field("number").filter(pa.array(good)).cast(pa.float64()))
        lists = pa.ListArray.from_arrays(
            pa.array(np.arange(rows.num_rows + 1) * count, pa.int32()), pa.array(values, pa.float64(), from_pandas=True)
        )
        reasons = np.full(rows.num_rows, "", object)
        for flags, reason in (
            (twice, "attribute-twice"),
            (strange, "unknown-attribute"),
            (broken, "no-attribute-text"),
        ):
            reasons[any_turn(offsets, flags)] = reason
        return LabelResult(
            {self.output: lists}, FilterDecision(pa.array(reasons == ""), pa.array(reasons, pa.string()))
        )
