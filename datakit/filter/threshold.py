"""Rows whose number lies beyond a threshold, absolute or a quantile of the whole dataset.

The bounds are strict by default, as in ReST (Gulcehre et al. 2023, arXiv:2308.08998: reward > threshold). A
quantile is that of all rows of all shards (finite values, exact, linear interpolation), asked once before the
work in one scan of the column, so that the cut into shards changes nothing. A threshold that no row passes stops
the run before any shard is read in full, unless `allow_empty` says that an empty outcome is fine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.advice import nothing_kept
from datakit.columns.measurement import NOT_FINITE, FiniteValues, Floats, measured, numbers, require_number
from datakit.op import NOTHING, Context, FilterDecision, Keep
from schemas import Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError

Bounds = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Threshold(Keep):
    """Keep rows with `minimum` < `column` < `maximum` (<= where not `strict`); each bound a number or a
    quantile.
    """

    name: ClassVar[str] = "filter.threshold"

    column: str = "reward"
    minimum: float | None = None
    maximum: float | None = None
    minimum_quantile: float | None = None
    maximum_quantile: float | None = None
    strict: bool = True
    allow_empty: bool = False

    def __post_init__(self) -> None:
        faults = []
        bounds = (self.minimum, self.maximum, self.minimum_quantile, self.maximum_quantile)
        if all(bound is None for bound in bounds):
            faults.append("no bound is given")
        if any(bound is not None and not np.isfinite(bound) for bound in bounds):
            faults.append("a bound is not finite")
        faults += [
            f"{end} and {end}_quantile exclude each other"
            for end in ("minimum", "maximum")
            if getattr(self, end) is not None and getattr(self, f"{end}_quantile") is not None
        ]
        if any(quantile is not None and not 0 <= quantile <= 1 for quantile in bounds[2:]):
            faults.append("a quantile lies in 0..1")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            faults.append(f"minimum {self.minimum:g} is above maximum {self.maximum:g}")
        if faults:
            raise ConfigError("bad-setting", f"filter.threshold: {'; '.join(faults)}", kept="nothing was started")

    @property
    def takes(self) -> Schema:
        """Any row with a number in `column`, which `gives` checks."""
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        require_number(inputs[0], self.column, self.name)
        return inputs[0]

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """The two bounds as numbers. `DataError` where no row would stay."""
        finite = FiniteValues(dataset, self.column)
        low, high = bounds = self._bounds(finite)
        stays = any(self._inside(values, bounds).any() for values in finite.chunks())
        if not (stays or self.allow_empty or dataset.num_rows == 0):
            upward = low is not None
            raise nothing_kept(self.column, self._bounds_text(bounds), dataset.num_rows, finite, upward=upward)
        return {"minimum": low, "maximum": high}

    def keep(self, rows: pa.Table, ctx: Context) -> FilterDecision:
        """A null, NaN or infinite value never stays."""
        values = numbers(rows[self.column])
        bounds = (ctx.prepared["minimum"], ctx.prepared["maximum"])
        low, _ = bounds
        below = np.zeros(len(values), bool) if low is None else (values <= low if self.strict else values < low)
        reason = np.select([np.isnan(values), below], [NOT_FINITE, "below"], "above")
        keep = pa.array(self._inside(values, bounds))
        return FilterDecision(keep, pa.array(reason, pa.string()), measured(values), self._bounds_text(bounds))

    def _bounds(self, finite: FiniteValues) -> Bounds:
        def bound(number: float | None, quantile: float | None) -> float | None:
            return finite.at(quantile) if quantile is not None and len(finite) else number

        return bound(self.minimum, self.minimum_quantile), bound(self.maximum, self.maximum_quantile)

    def _inside(self, values: Floats, bounds: Bounds) -> npt.NDArray[np.bool_]:
        low, high = bounds
        inside = ~np.isnan(values)
        if low is not None:
            inside &= values > low if self.strict else values >= low
        if high is not None:
            inside &= values < high if self.strict else values <= high
        return inside

    def _bounds_text(self, bounds: Bounds) -> str:
        signs = (">", "<") if self.strict else (">=", "<=")
        parts = [f"{sign} {bound:.6g}" for sign, bound in zip(signs, bounds, strict=True) if bound is not None]
        return " and ".join(parts)
