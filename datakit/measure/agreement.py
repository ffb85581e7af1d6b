"""measure.agreement: how often two labels of a row agree, and Cohen's kappa, with intervals and by slice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns import bootstrap
from datakit.columns.measurement import is_number, measured, numbers, require_columns
from datakit.formats.size import ID_BYTES
from datakit.op import NOTHING, Context, GatherAll, Result, Size
from schemas import REPORTS, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError

MOST_LABELS = 64


@dataclass(frozen=True, kw_only=True)
class Agreement(GatherAll):
    """`agreement` and `kappa` (Cohen 1960: (p_o - p_e) / (1 - p_e)) of the columns `one` and `other`, each with its
    95 % interval (`.low`, `.high`), `rows` that have both labels and `left_out` that do not; likewise for every value
    of each of `slices`. Kappa has no value where chance alone agrees always, and is left out. Rows of one `group` are
    resampled together. Numbers and truth values are compared as numbers (1, 1.0 and true are one label; NaN is none),
    all else as text.
    """

    name: ClassVar[str] = "measure.agreement"
    version: ClassVar[int] = 2

    one: str
    other: str
    group: str = ""
    """Empty: every row is a group of its own."""
    slices: tuple[str, ...] = ()
    stage: str = "agreement"
    draws: int = 2000

    def __post_init__(self) -> None:
        if self.draws < 100 or self.one == self.other:
            raise ConfigError("bad-setting", f"{self.name}: {self.draws} draws of {self.one} and {self.other}",
                              expected="at least 100 draws, two columns", kept="nothing was started")  # fmt: skip

    @property
    def takes(self) -> Schema:
        """Any rows; that the columns are there is checked in `gives`."""
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        require_columns(inputs[0], self._named, self.name)
        return REPORTS

    @property
    def _named(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.one, self.other, *bootstrap.keyed_by(self.group, self.slices))))

    def grown(self, given: Size) -> Size:
        return Size(8, 8 * ID_BYTES)

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        """The figures of every slice; `DataError` for columns of more than 64 labels."""
        rows = dataset.read(columns=[*self._named])
        one_R, other_R, labels = self._codes(rows)
        figures: dict[str, float] = {}
        for slice_name, here in bootstrap.sliced(rows, self.slices):
            known = here & (one_R >= 0) & (other_R >= 0)
            cells_RD = np.zeros((known.sum(), labels * labels))
            cells_RD[np.arange(len(cells_RD)), one_R[known] * labels + other_R[known]] = 1
            sums_GD = bootstrap.per_group(cells_RD, rows[self.group].filter(known) if self.group else None)
            for name, figure in (("agreement", agreement), ("kappa", kappa)):
                made = bootstrap.interval(sums_GD, figure, ctx.rng(self.name, name, slice_name), self.draws)
                figures |= bootstrap.with_ends(name, slice_name, made)
            figures |= {f"rows{slice_name}": float(known.sum())}
            figures |= {f"left_out{slice_name}": float(here.sum() - known.sum())}
        yield Result(bootstrap.report(self.stage, figures))

    def _codes(self, rows: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
        """Both columns as numbers of labels, -1 where there is none, and how many labels there are."""
        columns = _texts(rows[self.one], rows[self.other])
        labels = pc.unique(pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()))
        labels = labels.drop_null()
        if len(labels) > MOST_LABELS:
            raise DataError(
                "too-many-labels", f"{self.one} and {self.other} have {len(labels):,} different values",
                expected=f"at most {MOST_LABELS} labels", kept="nothing was written",
            )  # fmt: skip
        codes = [np.asarray(pc.fill_null(pc.index_in(column, labels), -1), np.int64) for column in columns]
        return codes[0], codes[1], len(labels)


def _texts(one: pa.ChunkedArray, other: pa.ChunkedArray) -> list[pa.ChunkedArray]:
    """Both columns as texts that are equal where the labels are; null where there is none."""
    columns = [one, other]
    if all(map(is_number, (one.type, other.type))):
        columns = [pa.chunked_array([measured(numbers(column))]) for column in columns]
    return [column.cast(pa.string()) for column in columns]


def agreement(cells_BD: bootstrap.Floats) -> bootstrap.Floats:
    """The share of rows whose labels are the same, of counts [B, labels * labels]."""
    table = _tables(cells_BD)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.trace(table, axis1=1, axis2=2) / table.sum(axis=(1, 2))


def kappa(cells_BD: bootstrap.Floats) -> bootstrap.Floats:
    """Cohen's kappa of counts [B, labels * labels]; NaN where chance agrees always."""
    table = _tables(cells_BD)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = table.sum(axis=(1, 2))
        chance = (table.sum(axis=1) * table.sum(axis=2)).sum(axis=1) / total**2
        return (np.trace(table, axis1=1, axis2=2) / total - chance) / np.where(chance < 1, 1 - chance, np.nan)


def _tables(cells_BD: bootstrap.Floats) -> bootstrap.Floats:
    labels = round(cells_BD.shape[1] ** 0.5)
    return cells_BD.reshape(-1, labels, labels).astype(np.float64)
