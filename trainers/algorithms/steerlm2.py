"""SteerLM 2.0: of several answers to a request for attributes, each becomes as likely as it ought to be behind it.

    P(y|a,x) in proportion to P(a|x,y) P(y|x)                                 what the policy Q should give
    w_i  = softmax_i (log P(a|x,y_i) + log P(y_i|x) - log Q'(y_i|a,x))        over the n answers y_i of Q' to a request
    b0_i = softmax_i (log Q0(y_i|a,x) - log Q'(y_i|a,x))                      the same of Q0, where training begins
    b_i  = min(1, b0_i Q(y_i|a,x) / Q0(y_i|a,x))                              the same as Q is now, without gradient
    loss = sum_i (w_i - b_i) * -log Q(y_i|a,x) / tokens                  mean over requests, one of n answers weighing n

`tokens` is the mean number of counted tokens of a request's answers. Wang et al., "HelpSteer2" (2024,
arXiv:2406.08673); columns come of `label.steerlm2_weights`. The gradient is that of sum_i w_i log(w_i / b_i) - w_i +
b_i, the divergence of Q from P that is reported as `distance`, and where training begins it is the published one.
NeMo-Aligner takes b as a softmax at every step, for which all answers to a request must lie in one micro-batch. Here
each row follows the policy by itself: the b_i of a request have the sum 1 on average over answers of Q', instead of
always. A baseline that stayed what it was would push answers down without end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.rows.tokens import TOKENS
from schemas.schema import Column
from trainers.algorithm import Algorithm, Loss, ModelOutputs, Needs, Per, Rows, TokenColumn, sum_count
from trainers.preference import answer_logprobs

if TYPE_CHECKING:
    from torch import Tensor

_MOST_RISE = 80.0
"""Nats that an answer's log-probability is taken to have risen at most: e to that is a float32."""
_LEAST = 1e-8
"""What NeMo-Aligner adds to both before their logarithms."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """SteerLM 2.0 has no options."""


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """What an answer lacks, times n and its negative log-probability over the request's tokens [B]; `distance` is that
    of a request.
    """
    logprob_B, _ = answer_logprobs(outputs["input_ids"], rows["loss_mask"])
    weight_B, size_B = rows["weight"], rows["group_size"]
    rise_B = (logprob_B.detach() - rows["ref_logprob"]).clamp(max=_MOST_RISE)
    baseline_B = (rows["baseline"] * rise_B.exp()).clamp(min=0, max=1)
    values_B = size_B * (weight_B - baseline_B) * -logprob_B / rows["group_tokens"].clamp(min=1)
    distance_B = size_B * _divergence(weight_B.clamp(min=0), baseline_B)
    return Loss(
        values=values_B,
        weights=values_B.new_ones(values_B.shape),
        metrics={"distance": sum_count(distance_B)},
        row_metrics={"current_baseline": baseline_B},
    )


def _divergence(weight_B: Tensor, baseline_B: Tensor) -> Tensor:
    """w log(w / b) - w + b: 0 where both are the same, above elsewhere."""
    surprise_B = (weight_B + _LEAST).log() - (baseline_B + _LEAST).log()
    return (weight_B + _LEAST) * surprise_B - weight_B + baseline_B


STEERLM2 = Algorithm(
    name="steerlm2",
    rows=TOKENS.dropping("source").adding(
        Column("weight", pa.float64(), "what the answer's share of the request's answers should be"),
        Column("baseline", pa.float64(), "what it is, by the policy that training begins with"),
        Column("ref_logprob", pa.float64(), "log-probability of input_ids' counted tokens, by that policy"),
        Column("group_size", pa.int32(), "answers to the request"),
        Column("group_tokens", pa.float64(), "counted tokens of an answer to the request, on average"),
    ),
    sequences=(TokenColumn(ids="input_ids", mask="loss_mask", reference="ref_logprob"),),
    needs=Needs.LOGPROBS,
    per=Per.ROW,
    settings=Settings,
    loss=loss,
    metrics=("distance",),
    row_metrics=("current_baseline",),
)
