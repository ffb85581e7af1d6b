"""Supervised fine-tuning: make the counted tokens of a row likely.

    loss = - sum_t mask_t log pi(x_t | x_<t) / sum_t mask_t        over all tokens of the global batch

Every counted token weighs the same, whatever row, micro-batch or pack it stands in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.rows.tokens import TOKENS
from trainers.algorithm import Algorithm, Loss, ModelOutputs, Needs, Per, Rows, TokenColumn


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Supervised fine-tuning has no options."""


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Cross-entropy in nats of every counted token, [T]."""
    logprobs_T = outputs["input_ids"].logprobs_T
    return Loss(values=-logprobs_T, weights=rows["loss_mask"].to(logprobs_T.dtype), metrics={})


SFT = Algorithm(
    name="sft",
    rows=TOKENS,
    sequences=(TokenColumn(ids="input_ids", mask="loss_mask"),),
    needs=Needs.LOGPROBS,
    per=Per.TOKEN,
    settings=Settings,
    loss=loss,
)
