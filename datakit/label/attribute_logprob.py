"""label.attribute_logprob: how likely the attributes that were asked for are of the answer that came."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, starts
from datakit.op import Context, FilterDecision, Label, LabelResult
from schemas import ATTRIBUTED, Column, Schema
from schemas.errors import ConfigError
from schemas.rows.attributed import NOT_JUDGED


@dataclass(frozen=True, kw_only=True)
class AttributeLogprob(Label):
    """Adds `output`: log P(a|x,y) in nats (SteerLM 2.0), of the attributes a in `requested` and an answer y that a
    regression reward model gave those in `measured`.

    Such a model is trained on squared errors: what it says is the mean of a normal distribution, whose standard
    deviation is `std`. The log-density is summed over the attributes that were asked for; one that is unknown (null,
    NaN, -100) was not. A row with more or fewer numbers on one side is rejected as `attributes-are-not-pairs`, one
    without a finite measurement of what was asked, or with an infinite request, as `attribute-not-finite`, one that
    asks nothing as `nothing-requested`.
    """

    name: ClassVar[str] = "label.attribute_logprob"
    judges: ClassVar[bool] = True
    max_rejected: ClassVar[int | None] = 0

    requested: str = "attributes"
    measured: str = "measured"
    output: str = "attribute_logprob"
    std: tuple[float, ...] = (0.5,)
    """Of the reward model's errors, as on rows held out: one number for all attributes, or one each. The smaller, the
    closer the policy is held to what is asked."""

    def __post_init__(self) -> None:
        if not self.std or not all(0 < one < math.inf for one in self.std):
            raise ConfigError(
                "bad-setting",
                f"{self.name}: std is {list(self.std)}",
                expected="one number above 0 for all attributes, or one each",
                kept="nothing was started",
            )

    @property
    def takes(self) -> Schema:
        """Both lists, in the same order of attributes."""
        kind = ATTRIBUTED["attributes"].type
        columns = (
            Column(self.requested, kind, "what was asked for, null where nothing was", nullable=True),
            Column(self.measured, kind, "what the answer has", nullable=True),
        )
        return Schema("requested", 1, columns)

    @property
    def adds(self) -> tuple[Column, ...]:
        text = f"log-density of {self.requested} around {self.measured}"
        return (Column(self.output, pa.float64(), text, finite=True),)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """One number a row, over whole columns."""
        requested, measured = flat(rows[self.requested]), flat(rows[self.measured])
        ends = starts(requested)
        counts = np.diff(ends)
        fits = (counts == np.diff(starts(measured))) & ((counts == len(self.std)) | (len(self.std) == 1))
        row = np.repeat(np.arange(rows.num_rows), counts)
        paired = fits[row]
        place = (np.arange(len(row)) - np.repeat(ends[:-1], counts))[paired]
        asked, given = _entries(requested)[paired], _entries(measured.filter(pa.array(fits)))
        known = ~(np.isnan(asked) | (asked == NOT_JUDGED))
        infinite = known & ~(np.isfinite(asked) & np.isfinite(given) & (given != NOT_JUDGED))
        deviation = np.array(self.std)[place if len(self.std) > 1 else np.zeros_like(place)]
        distance = np.where(known & ~infinite, (asked - given) / deviation, 0.0)
        density = np.where(known, -0.5 * distance**2 - np.log(deviation * math.sqrt(2 * math.pi)), 0.0)
        sums, unfit, some = (
            np.bincount(row[paired], weights=values, minlength=rows.num_rows) for values in (density, infinite, known)
        )
        finite, nothing = unfit == 0, some == 0
        reason = pc.if_else(
            pa.array(fits),
            pc.if_else(pa.array(finite), "nothing-requested", "attribute-not-finite"),
            "attributes-are-not-pairs",
        )
        return LabelResult({self.output: pa.array(sums)}, FilterDecision(pa.array(fits & finite & ~nothing), reason))


def _entries(lists: pa.Array) -> npt.NDArray[np.float64]:
    """The numbers of all rows laid end to end, NaN for null."""
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False), np.float64)
