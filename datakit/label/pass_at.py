"""label.pass_at: several answers to a prompt as one row: is one of k right, and is what most of k say right?

pass@k = 1 - C(n - c, k) / C(n, k) of n answers, c of them right, without bias (Chen et al. 2021, arXiv:2107.03374);
maj@k takes what most of the first k answers read (self-consistency, Wang et al. 2023, arXiv:2203.11171).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat
from datakit.columns.measurement import groups, numbers, require_columns, require_number
from datakit.duck.whole import require_whole
from datakit.op import Context, Gather, Result, Size
from schemas import Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError

Numbers = npt.NDArray[np.int64]
_GIVEN = (
    Column("prompt_id", pa.string(), "the question"),
    Column("sample_id", pa.string(), "its first answer"),
    Column("answers", pa.int32(), "answers to it"),
    Column("right_answers", pa.int32(), "those that are right"),
)


@dataclass(frozen=True, kw_only=True)
class PassAt(Gather):
    """Adds up the answers to each prompt: `pass_<k>` and `maj_<k>` for each k of `ks`, null where there are fewer.

    An answer is right where `correct` is 1 (or above a half). The votes are the texts in `read`; one that could not be
    read is none, of equal counts the text that stood first wins, and without any vote nothing is right. Columns `along`
    are taken over.
    """

    name: ClassVar[str] = "label.pass_at"
    judges: ClassVar[bool] = True
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    ks: tuple[int, ...] = (1,)
    correct: str = "correct"
    read: str = "correct_read"
    """Empty: no votes are counted."""
    along: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or max(self.ks) >= 1 << 20 or len({*self.ks}) < len(self.ks):
            raise ConfigError("bad-setting", f"{self.name}: ks {self.ks}", expected="numbers above 0, each once",
                              kept="nothing was started")  # fmt: skip

    @property
    def takes(self) -> Schema:
        place = Column("sample_index", pa.int32(), "the answer's place among its prompt's")
        return Schema("answers", 1, (*_GIVEN[:2], place))

    def gives(self, *inputs: Schema) -> Schema:
        require_number(inputs[0], self.correct, self.name)
        require_columns(inputs[0], (*([self.read] if self.read else []), *self.along), self.name)
        made = [Column(name, pa.float64(), "of the answers", nullable=True) for name in self._names]
        taken = {*self._names, *(column.name for column in _GIVEN)}
        more = [inputs[0][name] for name in dict.fromkeys(self.along) if name not in taken]
        return Schema("solved", 1, (*_GIVEN, *made, *more), key=("prompt_id",))

    @property
    def _names(self) -> list[str]:
        return [f"{kind}_{k}" for kind in (("pass", "maj") if self.read else ("pass",)) for k in self.ks]

    def grown(self, given: Size) -> Size:
        return given.times(0.1)

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """`DataError` where the answers to one prompt lie in two shards."""
        require_whole(dataset, "prompt_id", self.name)
        return {}

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """One row a prompt, in the order in which prompts first stand."""
        rows = rows.take(pa.array(np.lexsort((np.asarray(rows["sample_index"]), groups(rows["prompt_id"])))))
        group_R = groups(rows["prompt_id"])
        right_R = numbers(rows[self.correct]) > 0.5
        sizes_G = np.bincount(group_R) if len(group_R) else np.empty(0, np.int64)
        starts_G = (np.cumsum(sizes_G) - sizes_G).astype(np.int64)
        right_G = np.bincount(group_R, right_R, minlength=len(sizes_G)).astype(np.int64)
        place_R = np.arange(len(group_R)) - starts_G[group_R]
        made: dict[str, Any] = {f"pass_{k}": _passed(sizes_G, right_G, k) for k in self.ks}
        if self.read:
            votes_R = np.asarray(pc.fill_null(pc.dictionary_encode(flat(rows[self.read])).indices, -1), np.int64)
            made |= {f"maj_{k}": _majority(group_R, place_R, votes_R, right_R, sizes_G, k) for k in self.ks}
        first = pa.array(starts_G)
        table = {
            "prompt_id": rows["prompt_id"].take(first),
            "sample_id": rows["sample_id"].take(first),
            "answers": pa.array(sizes_G, pa.int32()),
            "right_answers": pa.array(right_G, pa.int32()),
            **{name: pa.array(values, pa.float64(), from_pandas=True) for name, values in made.items()},
        }
        more = {name: rows[name].take(first) for name in dict.fromkeys(self.along) if name not in table}
        return Result(pa.table({**table, **more}))


def _passed(count_G: Numbers, right_G: Numbers, k: int) -> npt.NDArray[np.float64]:
    """1 - C(n - c, k) / C(n, k), NaN below k answers."""
    wrong = np.ones(len(count_G))
    for taken in range(k):
        wrong *= np.clip(count_G - right_G - taken, 0, None) / np.maximum(count_G - taken, 1)
    return np.where(count_G >= k, 1 - wrong, np.nan)


def _majority(
    group_R: Numbers, place_R: Numbers, vote_R: Numbers, right_R: npt.NDArray[np.bool_], count_G: Numbers, k: int
) -> npt.NDArray[np.float64]:
    """Whether the commonest text of the first k answers is right, NaN below k answers."""
    asked = np.flatnonzero((place_R < k) & (vote_R >= 0))
    solved = np.where(count_G >= k, 0.0, np.nan)
    pair = group_R[asked] * (vote_R.max(initial=0) + 1) + vote_R[asked]
    _, first, votes = np.unique(pair, return_index=True, return_counts=True)
    order = np.lexsort((first, -votes, group_R[asked[first]]))
    winner = asked[first[order]]
    wins = winner[np.diff(group_R[winner], prepend=-1) > 0]
    solved[group_R[wins]] = np.where(count_G[group_R[wins]] >= k, right_R[wins].astype(float), np.nan)
    return solved
