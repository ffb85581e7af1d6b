"""A reward model that predicts every attribute of an answer, after HelpSteer (Wang et al. 2023, arXiv:2311.09528).

    loss = sum_bk m_bk (r_bk - label_bk)^2 / sum_bk m_bk        over rows b and attributes k of the global batch

r is the head's k-th number at the last token; m is 0 where an attribute was not judged (null, NaN or -100).
NeMo-Aligner calls it `regression` and divides within each micro-batch. docs/formats.md has the commands from a file of
judged answers to the reward model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.errors import ConfigError
from schemas.rows.attributed import ATTRIBUTED_TOKENS, HELPSTEER_ATTRIBUTES
from trainers.algorithm import Algorithm, Loss, ModelOutputs, Needs, Per, Rows, TokenColumn, sum_count
from trainers.arithmetic import judged

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`attributes`: what the numbers of the column of that name are, in order; the head gives as many. Default:
    HelpSteer's five.
    """

    attributes: tuple[str, ...] = HELPSTEER_ATTRIBUTES

    def __post_init__(self) -> None:
        if not self.attributes or len(set(self.attributes)) < len(self.attributes):
            raise ConfigError("attributes", f"attributes must be different names, not {self.attributes}")


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Mean squared error of a row's judged attributes [B], weighing as much as there are of them."""
    labels_BK, scores_BK = rows["attributes"], outputs["input_ids"].scores_BH
    judged_BK = judged(labels_BK)
    errors_BK = (scores_BK - labels_BK).where(judged_BK, scores_BK.new_zeros(()))
    judged_B = judgements(rows)
    values_B = errors_BK.square().sum(dim=1) / judged_B.clamp(min=1)
    metrics = {"absolute_error": sum_count(errors_BK.abs(), judged_BK)}
    return Loss(values=values_B, weights=judged_B.to(values_B.dtype), metrics=metrics)


def judgements(rows: Rows) -> Tensor:
    """How many attributes of each row were judged [B]: what it weighs."""
    return judged(rows["attributes"]).sum(dim=1)


RM_REGRESSION = Algorithm(
    name="rm_regression",
    rows=ATTRIBUTED_TOKENS,
    sequences=(TokenColumn(ids="input_ids"),),
    needs=Needs.SCORES,
    per=Per.ROW,
    settings=Settings,
    loss=loss,
    metrics=("absolute_error",),
    output_names=lambda settings: settings.attributes,
    weights_of=judgements,
)
