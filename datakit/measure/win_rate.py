"""measure.win_rate: how often one answer beats another, as it is and at equal length.

Judges like long answers. Dubois et al., "Length-Controlled AlpacaEval" (2024, arXiv:2404.04475) explain the verdicts by
a logistic regression in which the gap of the lengths is a term of its own, and report what it predicts without a gap.

    P(win) = sigma(theta + phi * tanh(gap / std(gap)))        length-controlled: sigma(theta)

Their third term, how hard a question is, needs the verdicts on many models, and is left out. phi has a standard normal
prior, so that verdicts which length alone explains have an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns import bootstrap, logistic
from datakit.columns.bootstrap import Floats
from datakit.columns.measurement import numbers, require_columns, require_number
from datakit.formats.size import ID_BYTES
from datakit.op import Context, GatherAll, Result, Size
from schemas import REPORTS, Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class WinRate(GatherAll):
    """`win_rate`, the mean of `column` (1: the first of `answers` wins, 0: the second, 0.5: a tie), `win_rate_lc`, the
    same at equal length, and `length_gap`, the characters that the first is longer on average; each with its 95 %
    interval (`.low`, `.high`, bootstrap over `group`) and `.rows`, over the rows that have a verdict, and for every
    value of each of `slices`. The interval of `win_rate_lc` is that of the one-step bootstrap: one Newton step from the
    regression of all rows (Davidson and MacKinnon 1999).
    """

    name: ClassVar[str] = "measure.win_rate"

    column: str = "judge_wins"
    answers: tuple[str, str] = ("response", "answer")
    group: str = "prompt_id"
    """Empty: every row is a group of its own."""
    slices: tuple[str, ...] = ()
    stage: str = "win_rate"
    draws: int = 2000

    def __post_init__(self) -> None:
        if self.draws < 100 or len(set(self.answers)) != 2:
            raise ConfigError("bad-setting", f"{self.name}: {self.draws} draws, answers {', '.join(self.answers)}",
                              expected="at least 100 draws, two columns", kept="nothing was started")  # fmt: skip

    @property
    def takes(self) -> Schema:
        """Two answers; that the verdict and the slices are there is checked in `gives`."""
        return Schema("compared", 1, tuple(Column(name, pa.string(), "an answer") for name in self.answers))

    def gives(self, *inputs: Schema) -> Schema:
        require_number(inputs[0], self.column, self.name)
        require_columns(inputs[0], bootstrap.keyed_by(self.group, self.slices), self.name)
        return REPORTS

    def grown(self, given: Size) -> Size:
        return Size(12, 12 * ID_BYTES)

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        """The figures of every slice."""
        named = bootstrap.keyed_by(self.group, self.slices)
        rows = dataset.read(columns=[*dict.fromkeys((self.column, *self.answers, *named))])
        won_R = numbers(rows[self.column])
        out_of_range = won_R[np.isfinite(won_R) & ((won_R < 0) | (won_R > 1))]
        if len(out_of_range):
            raise DataError("not-a-share", f"{self.column} holds {out_of_range[0]:g}",
                            expected="0 to 1: the share of a comparison that the first answer wins",
                            where=dataset.url, kept="nothing was written")  # fmt: skip
        first_R, second_R = (np.asarray(pc.utf8_length(rows[name]), np.float64) for name in self.answers)
        figures: dict[str, float] = {}
        for part, here in bootstrap.sliced(rows, self.slices):
            known = here & np.isfinite(won_R)
            keys = rows[self.group].filter(pa.array(known)) if self.group else None
            made = self._figures(won_R[known], (first_R - second_R)[known], keys, ctx, part)
            for name, values in made.items():
                figures |= bootstrap.with_ends(name, part, values)
                figures[f"{name}.rows{part}"] = float(known.sum())
        yield Result(bootstrap.report(self.stage, figures))

    def _figures(
        self, won_R: Floats, gap_R: Floats, keys: pa.ChunkedArray | None, ctx: Context, part: str
    ) -> dict[str, list[float]]:
        def means(values_R: Floats, name: str) -> list[float]:
            sums_GD = bootstrap.per_group(np.stack([values_R, np.ones(len(values_R))], axis=1), keys)
            return bootstrap.interval(sums_GD, bootstrap.mean, ctx.rng(self.name, name, part), self.draws)

        rate, longer = means(won_R, "win_rate"), means(gap_R, "length_gap")
        if set(won_R.tolist()) in ({0.0}, {1.0}):  # where one always wins no regression has an end
            return {"win_rate": rate, "win_rate_lc": rate, "length_gap": longer}
        spread = gap_R.std() if len(gap_R) else 0.0
        length_R = np.tanh(gap_R / spread) if spread > 0 else np.zeros_like(gap_R)
        theta, phi = logistic.fitted(won_R, length_R)
        terms_GD = bootstrap.per_group(logistic.terms(won_R, length_R, theta, phi), keys)

        def controlled(sums_BD: Floats) -> Floats:
            return logistic.sigmoid(theta + logistic.step(sums_BD, phi)[0])

        rng = ctx.rng(self.name, "win_rate_lc", part)
        even = bootstrap.interval(terms_GD, controlled, rng, self.draws)
        return {"win_rate": rate, "win_rate_lc": even, "length_gap": longer}
