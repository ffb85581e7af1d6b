"""label.choices: which of the answers on offer a model finds likeliest, and whether that is the right one.

MC1 and MC2 are those of TruthfulQA (Lin et al. 2022, arXiv:2109.07958); for a question with one right answer MC1 is
plain accuracy, and `correct_norm` is lm-evaluation-harness's `acc_norm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.blend.choices import OFFER
from datakit.columns.measurement import groups, measured, numbers, require_columns
from datakit.columns.rejections import ids_and_numbers, set_aside
from datakit.duck.whole import require_whole
from datakit.op import Context, Gather, Result, Size
from schemas import Column, Schema, with_columns
from schemas.dataset import Dataset

_GIVEN = (
    Column("prompt_id", pa.string(), "the question"),
    Column("sample_id", pa.string(), "the choice that is likeliest"),
    Column("response", pa.string(), "its text, as the model read it"),
    Column("pick", pa.int32(), "its place, from 0"),
    Column("choice_logprobs", pa.list_(pa.float64()), "log-likelihood (nats) of every choice, in their order"),
    Column("correct", pa.float64(), "MC1: 1 where the best answer is likelier than all wrong ones", finite=True),
    Column("correct_norm", pa.float64(), "the same of log-likelihoods a character", finite=True),
    Column("right_mass", pa.float64(), "MC2: share of the choices' probability that right ones have", finite=True),
    Column("pick_score", pa.float64(), "what this pick counts for", nullable=True),
)


@dataclass(frozen=True, kw_only=True)
class Choices(Gather):
    """One row for each question of `blend.choices`, of the log-likelihoods in column `logprob`.

    `pick` is the likeliest of all choices. `correct` holds the best answer against the wrong ones alone, so that
    another right answer is no mistake; of equal ones the first counts. Columns `along` are taken over. A question of
    which not all choices are there, or one is not finite, is rejected as `choice-missing`.
    """

    name: ClassVar[str] = "label.choices"
    judges: ClassVar[bool] = True

    logprob: str = "logprob"
    along: tuple[str, ...] = ()

    @property
    def takes(self) -> Schema:
        offer = [column for column in OFFER if column.name != "finish_reason"]
        return Schema("offers", 1, (_GIVEN[0], *offer, Column(self.logprob, pa.float64(), "its log-likelihood, nats")))

    def gives(self, *inputs: Schema) -> Schema:
        require_columns(inputs[0], self.along, self.name)
        more = tuple(inputs[0][name] for name in dict.fromkeys(self.along) if name not in _names())
        return Schema("choice_scores", 1, (*_GIVEN, *more), key=("prompt_id",))

    @property
    def reported_means(self) -> tuple[str, ...]:
        return ("correct", "right_mass")

    def grown(self, given: Size) -> Size:
        return given.times(0.25)

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """`DataError` where the choices of one question lie in two shards."""
        require_whole(dataset, "prompt_id", self.name)
        return {}

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """One row a question, in the order in which they first stand, choices in theirs."""
        group, logprob = groups(rows["prompt_id"]), numbers(rows[self.logprob])
        there = np.bincount(group, ~np.isnan(logprob)).astype(np.int64)
        lacking = np.asarray(rows["offered"]) != there[group]
        rejected = None
        if lacking.any():
            lost = with_columns(ids_and_numbers(rows, "prompt_id", "sample_id"), {self.logprob: measured(logprob)})
            lost = lost.filter(pa.array(lacking))
            rejected = set_aside(lost, "choice-missing", pa.array(there[group][lacking].astype(float)), "all choices")
        rows, logprob = rows.filter(pa.array(~lacking)), logprob[~lacking]
        order = np.lexsort((np.asarray(rows["choice"]), groups(rows["prompt_id"])))
        return Result(self._scored(rows.take(pa.array(order)), logprob[order]), rejected)

    def _scored(self, rows: pa.Table, logprob_R: npt.NDArray[np.float64]) -> pa.Table:
        """The questions of `rows`, all choices of one behind each other."""
        sizes = np.bincount(groups(rows["prompt_id"])) if rows.num_rows else np.empty(0, np.int64)
        starts = (np.cumsum(sizes) - sizes).astype(np.int64)
        best_R, right_R = np.asarray(rows["is_best"]), np.asarray(rows["is_right"])
        length_R = np.maximum(np.asarray(rows["characters"], np.float64), 1)
        pick_G, ends = _greatest(logprob_R, starts, sizes), pa.array(np.append(starts, rows.num_rows), pa.int32())
        rival_R = best_R | ~right_R
        plain_R, normed_R = (np.where(rival_R, one, -np.inf) for one in (logprob_R, logprob_R / length_R))
        picked = pa.array(pick_G)
        scores = {
            "correct": best_R[_greatest(plain_R, starts, sizes)].astype(float),
            "correct_norm": best_R[_greatest(normed_R, starts, sizes)].astype(float),
            "right_mass": _mass(logprob_R, right_R, starts, sizes),
        }
        first = {name: rows[name].take(pa.array(starts)) for name in self.along if name not in _names()}
        made = {
            "prompt_id": rows["prompt_id"].take(picked),
            "sample_id": rows["sample_id"].take(picked),
            "response": rows["response"].take(picked),
            "pick": rows["choice"].take(picked),
            "choice_logprobs": pa.ListArray.from_arrays(ends, pa.array(logprob_R)),
            **{name: pa.array(values) for name, values in scores.items()},
            "pick_score": rows["choice_score"].take(picked),
        }
        return pa.table({**made, **first})


def _greatest(
    values: npt.NDArray[np.float64], starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The place of the greatest value of each stretch, the first of equal ones."""
    if not len(starts):
        return np.empty(0, np.int64)
    top = np.repeat(np.maximum.reduceat(values, starts), sizes)
    places = np.where(values == top, np.arange(len(values)), len(values))
    return np.minimum.reduceat(places, starts)


def _mass(
    logprob: npt.NDArray[np.float64],
    right: npt.NDArray[np.bool_],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Of each stretch the probability of right choices over that of all; shifted by the greatest, so that none is 0."""
    if not len(starts):
        return np.empty(0)
    chance = np.exp(logprob - np.repeat(np.maximum.reduceat(logprob, starts), sizes))
    return np.add.reduceat(chance * right, starts) / np.add.reduceat(chance, starts)


def _names() -> list[str]:
    return [column.name for column in _GIVEN]
