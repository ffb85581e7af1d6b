"""label.divergence: how far a model is from a teacher, of which the likeliest ids are columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.clients.token_label import TokenLabel
from datakit.columns.conversations import flat, starts
from datakit.columns.token_lists import answered, as_matrix, finite_rows, mask_of, row_sums, token_rows
from datakit.op import Capability, Context, FilterDecision, LabelResult
from schemas import IDS, Column, Schema
from schemas.rows.tokens import MASK


@dataclass(frozen=True, kw_only=True)
class Divergence(TokenLabel):
    """Adds `<into>_kl`, the divergence KL(teacher || model) in nats, and `<into>_agreement`, the tokens whose likeliest
    id is the same: sums over the tokens of `ids` that `mask` counts, the first aside.

    Both distributions are those over the teacher's ids alone (`<teacher>_ids`, `<teacher>_logprobs` of `label.topk`),
    renormalised. A row with a log-probability that is not finite is rejected as `logprobs-not-finite`.
    """

    name: ClassVar[str] = "label.divergence"
    capabilities: ClassVar[tuple[Capability, ...]] = ("logprobs", "top_k")

    ids: str = "input_ids"
    mask: str = "loss_mask"
    teacher: str = "teacher"
    into: str = "student"
    rows_per_chunk: int = 256

    @property
    def takes(self) -> Schema:
        return Schema(
            "taught rows",
            1,
            (
                Column(self.ids, IDS, "tokens that are read"),
                Column(self.mask, MASK, "1 where a token counts"),
                Column(f"{self.teacher}_ids", pa.list_(IDS), "the teacher's likeliest ids at every token"),
                Column(f"{self.teacher}_logprobs", pa.list_(pa.list_(pa.float32())), "their log-probabilities in nats"),
            ),
        )

    @property
    def adds(self) -> tuple[Column, ...]:
        return (
            Column(f"{self.into}_kl", pa.float64(), "divergence from the teacher, nats", finite=True),
            Column(f"{self.into}_agreement", pa.float64(), "tokens whose likeliest id is the teacher's", finite=True),
        )

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """Ask the model; `ServiceError` (13) where it does not answer for every token."""
        model = self.model(rows, ctx)
        texts = token_rows(rows[self.ids])
        ids_TK = as_matrix(rows[f"{self.teacher}_ids"], "ids")
        ends = starts(flat(rows[self.ids]))
        answer = answered(model.logprobs_at(texts, np.split(ids_TK, ends[1:-1])), texts, "log-probabilities")
        finite = finite_rows(answer)
        student_TK = _normalised(as_matrix(answer, "log-probabilities"))
        teacher_TK = _normalised(as_matrix(rows[f"{self.teacher}_logprobs"], "log-probabilities"))
        counted_T = (mask_of(rows[self.mask], rows[self.ids], self.mask) != 0).astype(np.float64)
        counted_T[ends[:-1][np.diff(ends) > 0]] = 0
        kl_T = (np.exp(teacher_TK) * (teacher_TK - student_TK)).sum(axis=1)
        same_T = teacher_TK.argmax(axis=1) == student_TK.argmax(axis=1)
        columns = {f"{self.into}_kl": kl_T, f"{self.into}_agreement": same_T.astype(np.float64)}
        sums = {name: pa.array(row_sums(values_T * counted_T, ends)) for name, values_T in columns.items()}
        return LabelResult(sums, FilterDecision(pa.array(finite), "logprobs-not-finite", threshold="finite"))


def _normalised(logprobs_TK: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log-probabilities that sum to one over K."""
    shifted_TK = logprobs_TK.astype(np.float64) - logprobs_TK.max(axis=1, keepdims=True)
    return shifted_TK - np.log(np.exp(shifted_TK).sum(axis=1, keepdims=True))
