"""label.across: what a teacher with another vocabulary says, laid along the student's tokens, for `kd_ranked`.

A token of the student that begins where a token of the teacher's begins has the teacher's numbers there: both have then
read the same letters of the answer. One that begins inside a token of the teacher's has none, 0 throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, starts
from datakit.columns.token_lists import as_matrix
from datakit.op import Context, FilterDecision, Label, LabelResult
from datakit.tokenize.starts import STARTS
from schemas import Column, Schema

LOGPROBS = pa.list_(pa.list_(pa.float32()))


@dataclass(frozen=True, kw_only=True)
class Across(Label):
    """Adds `<into>_logprobs`: the `<teacher>_logprobs` that `label.topk` made along the teacher's tokens, along the
    student's. The texts and starts of both (`<own>_text`, `<own>_starts` and so on) are those of `tokenize.starts`.

    A row that no row of the teacher stands beside is rejected (no-teacher), and one of whose answer the teacher read
    another text (other-text). The count `taught` is of tokens that have the teacher's numbers, `placed` of those that
    could have.
    """

    name: ClassVar[str] = "label.across"

    own: str = "own"
    teacher: str = "theirs"
    into: str = "teacher"

    @property
    def takes(self) -> Schema:
        sides = ((self.own, False), (self.teacher, True))
        columns = [
            Column(f"{side}_{what}", kind, f"of tokenize.starts: {what} of the {side}'s tokens", nullable=null)
            for side, null in sides
            for what, kind in (("text", pa.string()), ("starts", STARTS))
        ]
        given = Column(f"{self.teacher}_logprobs", LOGPROBS, "along the teacher's tokens, in nats", nullable=True)
        return Schema("rows of two vocabularies", 1, (*columns, given))

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column(f"{self.into}_logprobs", LOGPROBS, "along the student's tokens, in nats; all 0: has none"),)

    def counts(self, rows: pa.Table, ctx: Context) -> Mapping[str, float]:
        """Tokens that could be taught, and those that are."""
        at, taught, _ = _matched(rows, self.own, self.teacher)
        return {"placed": float((at >= 0).sum()), "taught": float(taught.sum())}

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """The teacher's numbers, and which rows stay."""
        absent = pc.is_null(rows[f"{self.teacher}_logprobs"])
        _, taught, place = _matched(rows, self.own, self.teacher)
        given_TK = as_matrix(rows[f"{self.teacher}_logprobs"], "log-probabilities")
        made_TK = np.zeros((len(taught), given_TK.shape[1]), np.float32)
        made_TK[taught] = given_TK[place[taught]]
        ends = starts(flat(rows[f"{self.own}_starts"]))
        width = pa.array(np.arange(len(made_TK) + 1) * made_TK.shape[1], pa.int32())
        tokens = pa.ListArray.from_arrays(width, pa.array(made_TK.reshape(-1)))
        column = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), tokens)
        same = pc.fill_null(pc.equal(rows[f"{self.own}_text"], rows[f"{self.teacher}_text"]), False)
        reason = pc.if_else(absent, "no-teacher", "other-text")
        return LabelResult({f"{self.into}_logprobs": column}, FilterDecision(same, reason))


def _matched(
    rows: pa.Table, own: str, teacher: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Of all rows' own tokens, laid end to end, the place, whether a token of the teacher's begins there, and which of
    all the teacher's.
    """
    columns = [flat(rows[f"{side}_starts"]) for side in (own, teacher)]
    (own_key, own_at), (teacher_key, teacher_at) = (_keys(column) for column in columns)
    known = np.flatnonzero(teacher_at >= 0)
    if not len(known):
        return own_at, np.zeros(len(own_at), bool), np.zeros(len(own_at), np.int64)
    nearest = np.minimum(np.searchsorted(teacher_key[known], own_key), len(known) - 1)
    taught = (own_at >= 0) & (teacher_key[known][nearest] == own_key)
    return own_at, taught, known[nearest]


def _keys(column: pa.ListArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A number for every token's row and place, rising, and its place."""
    ends = starts(column)
    at = np.asarray(column.flatten()).astype(np.int64)
    row = np.repeat(np.arange(len(ends) - 1), np.diff(ends)).astype(np.int64)
    return (row << 32) + at, at
