"""What losses over answers share: log-probs of one, log-probs or scores of both of a pair, an SFT term, figures.

Importing this module does not import torch: tensors come with their methods.

Legend: B answers or pairs, T predicted tokens of one side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from schemas.rows.tokens import PAIRS
from schemas.schema import Column, Schema
from trainers.algorithm import (
    Algorithm,
    ImplicitReward,
    Loss,
    LossFn,
    ModelOutputs,
    Needs,
    Per,
    Rows,
    TokenColumn,
    sum_count,
)

if TYPE_CHECKING:
    from torch import Tensor

ANSWERS = PAIRS.dropping("source")
"""Both answers of a pair, and nothing to hold them against."""
REFERRED = ANSWERS.adding(
    Column("ref_logprob_chosen", pa.float64(), "log-probability of chosen's counted tokens, by the reference policy"),
    Column("ref_logprob_rejected", pa.float64(), "the same of rejected"),
)
"""Pairs with what a reference policy says of them (`label.logprobs`)."""
KNOWN_REWARDS = (
    Column("chosen_reward", pa.float64(), "known reward of the better answer"),
    Column("rejected_reward", pa.float64(), "known reward of the worse one"),
)
SCORED = PAIRS.dropping("chosen_mask", "rejected_mask", "source")
"""Both answers of a pair, whole: what a reward model reads."""
METRICS = ("preference_loss", "sft_loss", "accuracy", "reward_chosen", "reward_rejected", "reward_margin")
SCORE_METRICS = ("accuracy", "reward_chosen", "reward_rejected", "reward_margin")
ROW_METRICS = ("reward_chosen", "reward_rejected")


@dataclass(frozen=True, kw_only=True)
class PairLogprobs:
    """Log-probability of the counted tokens of each answer, summed [B], and how many that are, at least 1 [B]."""

    chosen_B: Tensor
    rejected_B: Tensor
    chosen_tokens_B: Tensor
    rejected_tokens_B: Tensor

    def gains(self, reward: ImplicitReward, rows: Rows) -> tuple[Tensor, Tensor]:
        """What `reward` scales, of chosen and of rejected [B]."""
        return (
            gain(reward, self.chosen_B, self.chosen_tokens_B, rows, "ref_logprob_chosen"),
            gain(reward, self.rejected_B, self.rejected_tokens_B, rows, "ref_logprob_rejected"),
        )

    def rewards(self, reward: ImplicitReward, rows: Rows) -> tuple[Tensor, Tensor]:
        """The implicit `reward` of chosen and of rejected [B]."""
        chosen_B, rejected_B = self.gains(reward, rows)
        return reward.scale * chosen_B, reward.scale * rejected_B


def pair_logprobs(outputs: Mapping[str, ModelOutputs], rows: Rows) -> PairLogprobs:
    """What the network says of both answers."""
    chosen_B, chosen_tokens_B = answer_logprobs(outputs["chosen_ids"], rows["chosen_mask"])
    rejected_B, rejected_tokens_B = answer_logprobs(outputs["rejected_ids"], rows["rejected_mask"])
    return PairLogprobs(
        chosen_B=chosen_B, rejected_B=rejected_B, chosen_tokens_B=chosen_tokens_B, rejected_tokens_B=rejected_tokens_B
    )


def answer_logprobs(outputs: ModelOutputs, mask_T: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of the counted tokens of every answer, summed [B], and how many there are [B]; 1 where there are
    none, so that their mean is 0.
    """
    weights_T = mask_T.to(outputs.logprobs_T.dtype)
    return outputs.sum_per_row(outputs.logprobs_T * weights_T), outputs.sum_per_row(weights_T).clamp(min=1)


def gain_reward(settings: Any) -> ImplicitReward:
    """`beta` times what an answer gained over the reference; with `average_log_probs` for each of its tokens."""
    return ImplicitReward(scale=settings.beta, averaged=settings.average_log_probs)


def mean_reward(settings: Any) -> ImplicitReward:
    """`beta` times the mean log-probability of an answer's tokens, held against nothing."""
    return ImplicitReward(scale=settings.beta, referred=False, averaged=True)


def gain(reward: ImplicitReward, logprob_B: Tensor, tokens_B: Tensor, rows: Rows, reference: str) -> Tensor:
    """What `reward` scales [B]: log-probabilities of answers, less those in the column `reference` or as they are, of
    all counted tokens or for each.
    """
    gain_B = logprob_B - rows[reference] if reward.referred else logprob_B
    return gain_B / tokens_B if reward.averaged else gain_B


def sft_loss(pair: PairLogprobs, *, average: bool) -> Tensor:
    """Cross-entropy of the chosen answer [B]: summed over its tokens, or with `average` per token."""
    return -(pair.chosen_B / pair.chosen_tokens_B if average else pair.chosen_B)


def pair_loss(preference_B: Tensor, sft_B: Tensor, rewards: tuple[Tensor, Tensor], *, sft_weight: float) -> Loss:
    """preference + sft_weight * sft, per pair; `rewards` are the implicit ones of chosen and of rejected, and
    `accuracy` counts those strictly greater only.
    """
    reward_chosen_B, reward_rejected_B = rewards
    margin_B = reward_chosen_B - reward_rejected_B
    figures = (preference_B, sft_B, margin_B > 0, reward_chosen_B, reward_rejected_B, margin_B)
    values_B = preference_B + sft_weight * sft_B if sft_weight else preference_B
    return Loss(
        values=values_B,
        weights=values_B.new_ones(values_B.shape),
        metrics={name: sum_count(values) for name, values in zip(METRICS, figures, strict=True)},
        row_metrics=dict(zip(ROW_METRICS, rewards, strict=True)),
    )


Presets: TypeAlias = "Mapping[str, Mapping[str, Any]]"


def pair_algorithm(
    name: str,
    rows: Schema,
    settings: type,
    loss: LossFn,
    reward: Callable[[Any], ImplicitReward],
    presets: Presets | None = None,
    in_recipes: Mapping[str, Any] | None = None,
) -> Algorithm:
    """An algorithm over both answers of a pair, whose loss is made by `pair_loss` with the rewards that `reward` says
    under some settings. Where `rows` hold what a reference gives the answers, both are held against it.
    """
    references = {side: f"ref_logprob_{side}" for side in ("chosen", "rejected")}
    return Algorithm(
        name=name,
        rows=rows,
        sequences=tuple(
            TokenColumn(ids=f"{side}_ids", mask=f"{side}_mask", reference=column if column in rows else None)
            for side, column in references.items()
        ),
        needs=Needs.LOGPROBS,
        per=Per.ROW,
        settings=settings,
        loss=loss,
        metrics=METRICS,
        row_metrics=ROW_METRICS,
        implicit_reward=reward,
        presets=presets or {},
        in_recipes=in_recipes or {},
    )


def pair_scores(outputs: Mapping[str, ModelOutputs]) -> tuple[Tensor, Tensor]:
    """The scalar head at the last token of chosen and of rejected [B]."""
    return outputs["chosen_ids"].scores_BH[:, 0], outputs["rejected_ids"].scores_BH[:, 0]


def score_loss(values_B: Tensor, scores: tuple[Tensor, Tensor]) -> Loss:
    """The loss of a reward model with these `scores`; `accuracy` counts strictly greater ones only."""
    chosen_B, rejected_B = scores
    figures = (chosen_B > rejected_B, chosen_B, rejected_B, chosen_B - rejected_B)
    return Loss(
        values=values_B,
        weights=values_B.new_ones(values_B.shape),
        metrics={name: sum_count(values) for name, values in zip(SCORE_METRICS, figures, strict=True)},
        row_metrics=dict(zip(ROW_METRICS, scores, strict=True)),
    )


def score_algorithm(name: str, rows: Schema, settings: type, loss: LossFn, presets: Presets | None = None) -> Algorithm:
    """A reward model over both answers of a pair, whose loss is made by `score_loss`."""
    return Algorithm(
        name=name,
        rows=rows,
        sequences=(TokenColumn(ids="chosen_ids"), TokenColumn(ids="rejected_ids")),
        needs=Needs.SCORES,
        per=Per.ROW,
        settings=settings,
        loss=loss,
        metrics=SCORE_METRICS,
        row_metrics=ROW_METRICS,
        presets=presets or {},
    )
