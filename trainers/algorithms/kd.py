"""Knowledge distillation: the student's distribution over the teacher's likeliest tokens becomes the teacher's.

    p_t = softmax over K of teacher_scale * log p(teacher's id k | teacher)        renormalised over these K ids alone
    p_s = softmax over K of student_scale * log p(teacher's id k | student)
    forward  KL(p_t || p_s),  backward  KL(p_s || p_t)                             per token
    jsd      w KL(p_t || m) + (1 - w) KL(p_s || m)  with  m = w p_t + (1 - w) p_s
    loss = kd_weight * that  +  sft_weight * -log p(token | student)               mean over counted tokens

Hinton et al., "Distilling the Knowledge in a Neural Network" (2015, arXiv:1503.02531), with the teacher's top K as
columns (`label.topk`), as NeMo-Aligner has it: `target_logits_scale` and `logits_scale` are the two scales there. The
generalized Jensen-Shannon divergence is that of Agarwal et al., "On-Policy Distillation of Language Models" (2023,
arXiv:2306.13649), whose beta is w, as in TRL's GKD. A constant of a token's logits cancels, so log-probabilities stand
for logits. NeMo-Aligner scales the logits of the cross-entropy too; here it is the network's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from schemas.rows.conversation import IDS
from schemas.rows.tokens import TOKENS
from schemas.schema import Column
from trainers.algorithm import Algorithm, Loss, ModelOutputs, Needs, Per, Rows, TokenColumn, check_ranges, sum_count

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("kd_loss", "sft_loss")
_NOT_BOTH = "at least 0, and not 0 together with kd_weight"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`direction`: forward covers what the teacher may say, backward seeks what it says most, jsd lies between: nearer
    to forward the smaller `jsd_weight` (w) is. The scales divide temperatures: 0.5 is temperature 2.
    """

    direction: Literal["forward", "backward", "jsd"] = "forward"
    jsd_weight: float = 0.5
    kd_weight: float = 1.0
    sft_weight: float = 0.0
    student_scale: float = 1.0
    teacher_scale: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(
            "kd",
            jsd_weight=(self.jsd_weight, 0 < self.jsd_weight < 1, "in (0, 1)"),
            kd_weight=(self.kd_weight, self.kd_weight >= 0, "at least 0"),
            sft_weight=(self.sft_weight, self.sft_weight >= 0 and self.sft_weight + self.kd_weight > 0, _NOT_BOTH),
            student_scale=(self.student_scale, self.student_scale > 0, "above 0"),
            teacher_scale=(self.teacher_scale, self.teacher_scale > 0, "above 0"),
        )


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Divergence and cross-entropy per token [T]; `agreement` is how often the likeliest of the teacher's ids is so for
    the student, too.
    """
    student = outputs["input_ids"]
    made = distilled(settings, student.gathered_logits_TK, student, rows)
    same_T = rows["teacher_logprobs"].argmax(-1) == student.gathered_logits_TK.argmax(-1)
    return replace(made, metrics={**made.metrics, "agreement": sum_count(same_T, rows["loss_mask"])})


def distilled(settings: Settings, logits_TK: Tensor, student: ModelOutputs, rows: Rows) -> Loss:
    """The loss where `logits_TK` are those of the student that stand against the teacher's log-probabilities."""
    mask_T = rows["loss_mask"].float()
    teacher_TK = (settings.teacher_scale * rows["teacher_logprobs"]).log_softmax(-1)
    student_TK = (settings.student_scale * logits_TK).log_softmax(-1)
    kl_T = _divergence(settings, teacher_TK, student_TK)
    sft_T = -student.logprobs_T
    values_T = settings.kd_weight * kl_T
    if settings.sft_weight:
        values_T = values_T + settings.sft_weight * sft_T
    metrics = {name: sum_count(figure_T, mask_T) for name, figure_T in zip(METRICS, (kl_T, sft_T), strict=True)}
    return Loss(values=values_T, weights=mask_T, metrics=metrics)


def _divergence(settings: Settings, teacher_TK: Tensor, student_TK: Tensor) -> Tensor:
    """Between the two distributions, both as log-probabilities [T, K]."""
    if settings.direction == "forward":
        return _kl(teacher_TK, student_TK)
    if settings.direction == "backward":
        return _kl(student_TK, teacher_TK)
    weight = settings.jsd_weight
    mixture_TK = (teacher_TK + math.log(weight)).logaddexp(student_TK + math.log1p(-weight))
    return weight * _kl(teacher_TK, mixture_TK) + (1 - weight) * _kl(student_TK, mixture_TK)


def _kl(one_TK: Tensor, other_TK: Tensor) -> Tensor:
    """KL of one distribution from another, both as log-probabilities [T, K]."""
    return (one_TK.exp() * (one_TK - other_TK)).sum(-1)


KD = Algorithm(
    name="kd",
    rows=TOKENS.dropping("source").adding(
        Column("teacher_ids", pa.list_(IDS), "the teacher's likeliest ids at every token of input_ids"),
        Column("teacher_logprobs", pa.list_(pa.list_(pa.float32())), "their log-probabilities in nats"),
    ),
    sequences=(
        TokenColumn(ids="input_ids", mask="loss_mask", aligned=("teacher_logprobs",), gather_ids="teacher_ids"),
    ),
    needs=Needs.LOGPROBS | Needs.GATHERED_LOGITS,
    per=Per.TOKEN,
    settings=Settings,
    loss=loss,
    metrics=(*METRICS, "agreement"),
)
