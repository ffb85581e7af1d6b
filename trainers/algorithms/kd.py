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

from collections.abc import Mapping
from dataclasses import replace

from schemas.rows.tokens import TAUGHT_TOKENS, TOKENS
from trainers.algorithm import Algorithm, Loss, ModelOutputs, Needs, Per, Rows, TokenColumn, sum_count
from trainers.distillation import METRICS, Settings, distilled, is_taught


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Divergence and cross-entropy per token [T]; `agreement` is how often the likeliest of the teacher's ids is so for
    the student, too. It and `kd_loss` are means over the tokens that have a teacher.
    """
    student = outputs["input_ids"]
    made = distilled(settings, student.gathered_logits_TK, student, rows)
    same_T = rows["teacher_logprobs"].argmax(-1) == student.gathered_logits_TK.argmax(-1)
    return replace(made, metrics={**made.metrics, "agreement": sum_count(same_T, rows["loss_mask"] * is_taught(rows))})


KD = Algorithm(
    name="kd",
    rows=TOKENS.dropping("source").adding(TAUGHT_TOKENS["teacher_ids"], TAUGHT_TOKENS["teacher_logprobs"]),
    sequences=(
        TokenColumn(ids="input_ids", mask="loss_mask", aligned=("teacher_logprobs",), gather_ids="teacher_ids"),
    ),
    needs=Needs.LOGPROBS | Needs.GATHERED_LOGITS,
    per=Per.TOKEN,
    settings=Settings,
    loss=loss,
    metrics=(*METRICS, "agreement"),
)
