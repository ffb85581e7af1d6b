"""REINFORCE: tokens that were better than expected become likelier.

    loss = -A log pi(token)  +  kl_coefficient * KL  -  entropy_bonus * H             mean over counted tokens

Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning" (1992). One update
for each rollout: there is no ratio. With advantages of `label.rloo` it is RLOO (Ahmadian et al. 2024,
arXiv:2402.14740), NeMo-Aligner's REINFORCE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainers.algorithm import Loss, ModelOutputs, Rows
from trainers.policy import PolicySettings, advantages, policy_algorithm, policy_loss


@dataclass(frozen=True, kw_only=True)
class Settings(PolicySettings):
    """REINFORCE has no options of its own."""


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Advantage times negative log-probability, per token or per row as `aggregate` says."""
    out = outputs["input_ids"]
    return policy_loss(settings, out, rows, -advantages(rows) * out.logprobs_T, {})


POLICY_GRADIENT = policy_algorithm("policy_gradient", Settings, loss)
