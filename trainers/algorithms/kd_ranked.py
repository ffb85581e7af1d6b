"""Knowledge distillation across tokenizers: the student's likeliest tokens become as likely as the teacher's, by rank.

    p_t = softmax over K of teacher_scale * the teacher's K largest log-probabilities, greatest first
    p_s = softmax over K of student_scale * the student's own K largest logits, greatest first
    loss as in `kd`

NeMo-Aligner's `cross_tokenizer`: a teacher with another vocabulary can say how sure to be, but not of what; that comes
of the cross-entropy, which recipes therefore weigh 1 (`sft_weight`). The rows hold the teacher's log-probabilities
along the student's tokens, as `label.across` lays them: all 0 where no token of the teacher's begins.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.rows.tokens import TAUGHT_TOKENS, TOKENS
from trainers.algorithm import Algorithm, Loss, ModelOutputs, Needs, Per, Rows, TokenColumn
from trainers.distillation import METRICS, Settings, distilled


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Divergence by rank and cross-entropy per token [T]; `kd_loss` is a mean over the tokens that have a teacher."""
    student = outputs["input_ids"]
    return distilled(settings, student.ranked_logits_TK, student, rows)


KD_RANKED = Algorithm(
    name="kd_ranked",
    rows=TOKENS.dropping("source").adding(TAUGHT_TOKENS["teacher_logprobs"]),
    sequences=(
        TokenColumn(ids="input_ids", mask="loss_mask", aligned=("teacher_logprobs",), ranked="teacher_logprobs"),
    ),
    needs=Needs.LOGPROBS | Needs.RANKED_LOGITS,
    per=Per.TOKEN,
    settings=Settings,
    loss=loss,
    metrics=METRICS,
    in_recipes={"sft_weight": 1.0},
)
