"""Rows whose number lies beyond a threshold, absolute or a quantile of the whole dataset.

The bounds are strict by default, as in ReST (Gulcehre et al. 2023, arXiv:2308.08998: reward > threshold). A quantile is
that of all rows of all shards (finite values, exact, linear interpolation), asked once before the work in one scan of
the column, so that the cut into shards changes nothing. Where values are so tied that none lies beyond a quantile
(rewards that are all 1), the rows that equal it stay, and a note says how many. A threshold that no row passes even so
stops the run before any shard is read in full, unless `allow_empty` has it that none may; then bounds stay strict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
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
from schemas.manifest import Manifest

Bounds = tuple[float | None, float | None]

_TIES = "ties"
"""What is prepared, and counted in the manifest, where rows that equal a quantile stay."""


@dataclass(frozen=True, kw_only=True)
class Threshold(Keep):
    """Keep rows with `minimum` < `column` < `maximum` (<= where not `strict`); each bound a number or a
    quantile. Where ties leave no row beyond a quantile, those that equal it are kept (not with `allow_empty`).
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
        unread = [bound for bound in bounds if bound is not None and not isinstance(bound, Real)]
        if unread:
            raise ConfigError(
                "bad-setting", f"filter.threshold: {', '.join(map(repr, unread))} is no number",
                expected="numbers as bounds", kept="nothing was started", next=f"quiver ops {self.name}",
            )  # fmt: skip
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
        """The two bounds as numbers, and whether rows that equal a quantile stay. `DataError` where no row would."""
        finite = FiniteValues(dataset, self.column)
        low, high = bounds = self._bounds(finite)
        if self.allow_empty or dataset.num_rows == 0 or self._any_inside(finite, bounds):
            return {"minimum": low, "maximum": high}
        if self.strict and self._any_inside(finite, bounds, ties=True):
            return {"minimum": low, "maximum": high, _TIES: True}
        upward = low is not None
        raise nothing_kept(self.column, self._bounds_text(bounds), dataset.num_rows, finite, upward=upward)

    def keep(self, rows: pa.Table, ctx: Context) -> FilterDecision:
        """A null, NaN or infinite value never stays."""
        values, ties = numbers(rows[self.column]), bool(ctx.prepared.get(_TIES))
        bounds = (ctx.prepared["minimum"], ctx.prepared["maximum"])
        below = ~np.isnan(values) & ~self._inside(values, (bounds[0], None), ties)
        reason = np.select([np.isnan(values), below], [NOT_FINITE, "below"], "above")
        keep = self._inside(values, bounds, ties)
        counts = {_TIES: float(keep.sum())} if ties else {}
        asked = self._bounds_text(bounds, ties)
        return FilterDecision(pa.array(keep), pa.array(reason, pa.string()), measured(values), asked, counts)

    @property
    def reported_means(self) -> tuple[str, ...]:
        """That by which rows stay."""
        return (self.column,)

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """How many rows stay although none lies beyond the quantile."""
        ties = int(made.stats.get("counts", {}).get(_TIES, 0))
        if not ties:
            return ()
        bounds = [(self.minimum_quantile, "above"), (self.maximum_quantile, "below")]
        asked = " and ".join(f"{side} the quantile {bound:g}" for bound, side in bounds if bound is not None)
        rows = made.num_rows + sum(file.rows for file in made.rejected)
        at = f"{made.stats['columns'][self.column]['min']:g}"
        return (f"no {self.column} lies {asked}, which many share: the {ties:,} of {rows:,} rows at {at} are kept",)

    def _bounds(self, finite: FiniteValues) -> Bounds:
        def bound(number: float | None, quantile: float | None) -> float | None:
            return finite.at(quantile) if quantile is not None and len(finite) else number

        return bound(self.minimum, self.minimum_quantile), bound(self.maximum, self.maximum_quantile)

    def _any_inside(self, finite: FiniteValues, bounds: Bounds, ties: bool = False) -> bool:
        return any(self._inside(values, bounds, ties).any() for values in finite.chunks())

    def _strict(self, ties: bool) -> tuple[bool, bool]:
        """Whether a value at the lower, at the upper bound goes; `ties`: at a quantile it stays."""
        quantiles = (self.minimum_quantile, self.maximum_quantile)
        low, high = (self.strict and not (ties and quantile is not None) for quantile in quantiles)
        return low, high

    def _inside(self, values: Floats, bounds: Bounds, ties: bool = False) -> npt.NDArray[np.bool_]:
        (low, high), (above, below) = bounds, self._strict(ties)
        inside = ~np.isnan(values)
        if low is not None:
            inside &= values > low if above else values >= low
        if high is not None:
            inside &= values < high if below else values <= high
        return inside

    def _bounds_text(self, bounds: Bounds, ties: bool = False) -> str:
        signs = zip("><", self._strict(ties), bounds, strict=True)
        parts = [f"{sign}{'' if strict else '='} {bound:.6g}" for sign, strict, bound in signs if bound is not None]
        return " and ".join(parts)
