"""Preference pairs of two answers that a judge compared: the preferred one is chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.rejections import set_aside
from datakit.op import Context, Gather, Result
from schemas import PREFERENCES, Column, Schema, with_columns
from schemas.errors import ConfigError
from schemas.rows.comparisons import COMPARISONS, SIDES


@dataclass(frozen=True, kw_only=True)
class Judged(Gather):
    """Of every comparison the answer that won, `chosen`, against the other; `wins` is the first one's share of votes,
    or its probability, and both shares are the pair's rewards.

    A row is rejected as no-verdict (null), tie (half), orders-disagree (with `consistent`: where the share in that
    column is below 1), or unsure (where the winner's share is not above `certainty`). Columns named in `along` stay,
    `first_<name>` and `second_<name>` of `beside` become `chosen_<name>` and `rejected_<name>`.
    """

    name: ClassVar[str] = "blend.judged"

    wins: str = "judge_wins"
    consistent: str = ""
    certainty: float = 0.5
    along: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.5 <= self.certainty < 1:
            raise ConfigError(
                "bad-setting", f"blend.judged: certainty {self.certainty}", expected="0.5 or more, below 1",
                kept="nothing was started",
            )  # fmt: skip

    @property
    def takes(self) -> Schema:
        numbers = [Column(self.wins, pa.float64(), "the first answer's share", nullable=True)]
        if self.consistent:
            numbers.append(Column(self.consistent, pa.float64(), "1 where both orders agree", nullable=True))
        return COMPARISONS.adding(*numbers).renamed("judged")

    def gives(self, *inputs: Schema) -> Schema:
        kept = inputs[0].selecting(*self.along).columns
        pairs = zip(self.beside, inputs[0].selecting(*(f"first_{name}" for name in self.beside)).columns, strict=True)
        sides = [replace(one, name=f"{side}_{name}") for name, one in pairs for side in ("chosen", "rejected")]
        inputs[0].selecting(*(f"second_{name}" for name in self.beside))
        return PREFERENCES.adding(*kept, *sides)

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """A pair for every row with a verdict, in their order."""
        wins = np.asarray(pc.fill_null(rows[self.wins], np.nan), np.float64)
        share = np.maximum(wins, 1 - wins)
        agree = np.ones(rows.num_rows)
        if self.consistent:
            agree = np.asarray(pc.fill_null(rows[self.consistent], 0.0), np.float64)
        cases = {
            "no-verdict": np.isnan(wins), "tie": wins == 0.5, "orders-disagree": agree < 1,
            "unsure": ~(share > self.certainty),
        }  # fmt: skip
        reason = np.select([*cases.values()], [*cases], "")
        out = reason != ""
        limits = {"orders-disagree": f"{self.consistent} 1", "unsure": f"> {self.certainty:g}"}
        lost = rows.select([name for name in rows.column_names if name in self.takes or name in self.along])
        rejected = set_aside(
            lost.filter(pa.array(out)),
            pa.array(reason[out].tolist(), pa.string()),
            pa.array(share[out], from_pandas=True),
            pa.array([limits.get(why) for why in reason[out].tolist()], pa.string()),
        )
        return Result(self._paired(rows.filter(pa.array(~out)), wins[~out]), rejected)

    def _paired(self, rows: pa.Table, wins: np.ndarray) -> pa.Table:
        first = pa.array(wins > 0.5)
        made: dict[str, Any] = {
            name: rows[name] for name in ("pair_id", "prompt_id", "messages", "tools", "source")
            if name in rows.column_names
        }  # fmt: skip
        along: dict[str, Any] = {name: rows[name] for name in self.along}
        for side, (one, other) in {"chosen": SIDES, "rejected": SIDES[::-1]}.items():
            for part in ("", "_sample_id", "_finish_reason"):
                made[f"{side}{part}"] = pc.if_else(first, rows[f"{one}{part}"], rows[f"{other}{part}"])
            along |= {f"{side}_{n}": pc.if_else(first, rows[f"{one}_{n}"], rows[f"{other}_{n}"]) for n in self.beside}
        made |= {"chosen_reward": np.maximum(wins, 1 - wins), "rejected_reward": np.minimum(wins, 1 - wins)}
        return with_columns(PREFERENCES.conform(pa.table(made)), along)
