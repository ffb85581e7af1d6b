"""What losses of distillation share: settings, and the divergence of a student from a teacher over K of its numbers.

Importing this module does not import torch: tensors come with their methods.

Legend: T predicted tokens, K numbers of a token that stand against each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from schemas.setting_faults import check_ranges
from trainers.algorithm import Loss, ModelOutputs, Rows, sum_count

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


def distilled(settings: Settings, logits_TK: Tensor, student: ModelOutputs, rows: Rows) -> Loss:
    """The loss where `logits_TK` are those of the student that stand against the teacher's log-probabilities. A token
    of which these are all 0, as no distribution is, has no teacher (`label.across`): the cross-entropy alone counts,
    and no figure of the teacher's does.
    """
    mask_T, taught_T = rows["loss_mask"].float(), is_taught(rows)
    teacher_TK = (settings.teacher_scale * rows["teacher_logprobs"]).log_softmax(-1)
    student_TK = (settings.student_scale * logits_TK).log_softmax(-1)
    kl_T = _divergence(settings, teacher_TK, student_TK) * taught_T
    sft_T = -student.logprobs_T
    values_T = settings.kd_weight * kl_T
    if settings.sft_weight:
        values_T = values_T + settings.sft_weight * sft_T
    counted = ((kl_T, mask_T * taught_T), (sft_T, mask_T))
    metrics = {name: sum_count(*figure) for name, figure in zip(METRICS, counted, strict=True)}
    return Loss(values=values_T, weights=mask_T, metrics=metrics)


def is_taught(rows: Rows) -> Tensor:
    """Of every token [T] whether a teacher says something of it."""
    return (rows["teacher_logprobs"] != 0).any(-1)


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
