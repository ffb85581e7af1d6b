"""label.attributes: several of a reward model's numbers for every row, asked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from datakit.clients.asking_label import ScorerLabel
from datakit.clients.replies import check_outputs, scores
from datakit.op import Context, FilterDecision, LabelResult
from schemas import ATTRIBUTED, STEERLM_ATTRIBUTES, Column
from schemas.errors import ConfigError, printable


@dataclass(frozen=True, kw_only=True)
class Attributes(ScorerLabel):
    """Adds `attributes`: the scorer's `names`, in that order, as a list<double> a row.

    A regression reward model calls its numbers after its attributes; its `takes` says what it reads. A row with a
    number that is null, NaN or infinite is rejected as `attribute-not-finite`.
    """

    name: ClassVar[str] = "label.attributes"

    names: tuple[str, ...] = STEERLM_ATTRIBUTES
    """Which of the scorer's numbers. Default: NeMo-Aligner's nine."""
    column: str = "attributes"

    def __post_init__(self) -> None:
        check_names(self.name, self.names)

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column(self.column, ATTRIBUTED["attributes"].type, ", ".join(self.names)),)

    def with_outputs(self, outputs: Mapping[str, tuple[str, ...]]) -> Attributes:
        check_outputs(self.name, self.names, outputs.get("scorer", ()))
        return self

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """Ask the scorer; `ServiceError` (13) if it does not answer with one number per row for each of `names`."""
        values = np.stack([array.to_numpy(zero_copy_only=False) for array in scores(ctx, rows, self.names)], axis=1)
        finite = np.isfinite(values).all(axis=1)
        starts = pa.array(np.arange(rows.num_rows + 1) * len(self.names), pa.int32())
        lists = pa.ListArray.from_arrays(starts, pa.array(values.ravel(), pa.float64()))
        return LabelResult(
            {self.column: lists}, FilterDecision(pa.array(finite), "attribute-not-finite", None, "finite")
        )


def check_names(name: str, names: tuple[str, ...]) -> None:
    """`ConfigError` for `names` of attributes that are none, or not different."""
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            "attributes", f"{name}: names must be different names, not {names}", kept="nothing was started"
        )


def check_written(name: str, names: tuple[str, ...]) -> None:
    """`ConfigError` for `names` that a text `name:number,name:number` cannot be read back with, too."""
    wrong = [one for one in names if not isinstance(one, str) or not _is_read_back(one)]
    if wrong:
        raise ConfigError(
            "attributes",
            f"{name}: {printable(wrong[0], 80)} is no name of an attribute",
            expected="texts of printed characters, without comma and colon, and without a blank at either end",
            kept="nothing was started",
        )
    check_names(name, names)


def _is_read_back(name: str) -> bool:
    return bool(name) and name.isprintable() and name == name.strip() and not {*",:"} & {*name}
