"""What losses of policies over rollouts share: settings, KL and entropy, how tokens are added up, the columns.

    loss_t = surrogate_t + kl_coefficient * KL_t - entropy_bonus * H_t

A token's surrogate is the algorithm's own. Every one is in proportion to the advantage, so importance weights and
whatever else is known before the step are part of the column `advantages`.

Importing this module does not import torch: tensors come with their methods.

Legend: B rows, T predicted tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from schemas.errors import ConfigError
from schemas.rows.rollouts import ADVANTAGES, OLD_LOGPROBS, REF_LOGPROBS
from schemas.rows.tokens import TOKENS
from schemas.setting_faults import check_ranges
from trainers.algorithm import Algorithm, Loss, LossFn, ModelOutputs, Needs, Per, Rows, SumCount, TokenColumn, sum_count

if TYPE_CHECKING:
    from torch import Tensor

_MOST = 20.0
"""Nats that a log-ratio counts at most, of either sign: e to that is finite, and no token outweighs all others."""
_BIASED = ("k1", "k3")


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """What every loss of a policy can be given."""

    other_names: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("beta", "kl_coef", "init_kl_coef", "kl_loss_coef", "kl_penalty"), "kl_coefficient"),
        **dict.fromkeys(("entropy_coef", "entropy_coeff", "entropy_weight"), "entropy_bonus"),
    }
    """What TRL, verl, OpenRLHF and NeMo call a setting, and its name here."""

    aggregate: Literal["token", "sequence", "constant"] = "token"
    """token: mean over counted tokens of the global batch. sequence: mean over rows of the mean over a row's tokens.
    constant: mean over rows of the sum over a row's tokens divided by `max_tokens` (Dr.GRPO)."""
    max_tokens: int = 1024
    """What `constant` divides by: the most tokens that an answer may have."""
    kl_coefficient: float = 0.0
    """Weight of the divergence from the reference; above 0 the rows need `ref_logprobs`."""
    kl_estimator: Literal["k2", "k3+", "k1", "k3"] = "k3+"
    """k2: (log-ratio)^2 / 2, whose gradient is the divergence's on answers of the policy itself. k3+: the value of k3,
    r - 1 - log r with r = pi_ref / pi, with the gradient of k2. Gradients of k1 and k3 are not the divergence's
    (arXiv:2506.09477): they need `reproduce`."""
    reproduce: bool = False
    """Allow a `kl_estimator` with a wrong gradient, to repeat what another toolkit did."""
    entropy_bonus: float = 0.0
    """Weight of the entropy, in nats."""

    def __post_init__(self) -> None:
        check_ranges(
            "policy loss",
            max_tokens=(self.max_tokens, self.max_tokens >= 1, "at least 1"),
            kl_coefficient=(self.kl_coefficient, self.kl_coefficient >= 0, "at least 0"),
            entropy_bonus=(self.entropy_bonus, self.entropy_bonus >= 0, "at least 0"),
        )
        if self.kl_coefficient and self.kl_estimator in _BIASED and not self.reproduce:
            raise ConfigError(
                "biased-kl",
                f"{self.kl_estimator} as a loss has a gradient that is not the divergence's",
                expected="k2 or k3+ as a loss, or k1 in the reward (label.kl, label.token_rewards)",
                found=f"kl_estimator {self.kl_estimator}",
                kept="nothing was started",
                next="set kl_estimator to k3+; reproduce true repeats what another toolkit did",
            )


@dataclass(frozen=True, kw_only=True)
class RatioSettings(PolicySettings):
    """Of losses that hold the policy against what it was as the step began."""

    on_policy: bool = False
    """One update for each rollout: the policy is what it was, every ratio is 1, and no `old_logprobs` are read."""


CLIP_NAMES: Mapping[str, str] = {
    **PolicySettings.other_names,
    **dict.fromkeys(("clip", "epsilon", "clip_ratio", "cliprange", "clip_range", "eps_clip"), "clip_low and clip_high"),
    **dict.fromkeys(("epsilon_low", "clip_ratio_low", "ratio_clip_min"), "clip_low"),
    **dict.fromkeys(("epsilon_high", "clip_ratio_high", "ratio_clip_max"), "clip_high"),
}
"""The same of losses whose ratio counts from 1 - `clip_low` to 1 + `clip_high`."""


def log_ratio(settings: RatioSettings, out: ModelOutputs, rows: Rows) -> Tensor:
    """log pi - log pi_old of counted tokens [T], 0 elsewhere; with its gradient where it is 0 throughout."""
    old_T = out.logprobs_T.detach() if settings.on_policy else rows["old_logprobs"]
    return masked(out.logprobs_T - old_T, rows)


def ratio_of(log_ratio: Tensor) -> Tensor:
    """pi / pi_old of its logarithm, which counts as 20 beyond 20, and as -20 below -20: no ratio overflows, and such a
    one has no gradient.
    """
    return log_ratio.clamp(-_MOST, _MOST).exp()


def masked(values_T: Tensor, rows: Rows) -> Tensor:
    """`values_T` at counted tokens, 0 elsewhere, whatever stands there, and no gradient there. Each factor of a
    product needs it: 0 times NaN is NaN, backward as forward.
    """
    return values_T.where(rows["loss_mask"] != 0, values_T.new_zeros(()))


def advantages(rows: Rows) -> Tensor:
    """The advantages of counted tokens [T], 0 elsewhere."""
    return masked(rows["advantages"], rows)


def clipped(ratio_T: Tensor, rows: Rows, low: float, high: float) -> tuple[Tensor, SumCount]:
    """max(-A ratio, -A clip(ratio, 1 - low, 1 + high)) [T], and how often the clip decides."""
    advantage_T = advantages(rows)
    free_T, bound_T = -advantage_T * ratio_T, -advantage_T * ratio_T.clamp(1 - low, 1 + high)
    return free_T.maximum(bound_T), sum_count(bound_T > free_T, rows["loss_mask"])


def policy_loss(
    settings: PolicySettings,
    out: ModelOutputs,
    rows: Rows,
    surrogate_T: Tensor,
    metrics: Mapping[str, SumCount],
) -> Loss:
    """The surrogate with KL and entropy, added up as `aggregate` says; reports `entropy`, `kl` where it is weighed, and
    `metrics`.
    """
    mask_T = rows["loss_mask"].to(out.logprobs_T.dtype)
    values_T, figures = surrogate_T, {"entropy": sum_count(out.entropy_T, mask_T), **metrics}
    if settings.entropy_bonus:
        values_T = values_T - settings.entropy_bonus * out.entropy_T
    if settings.kl_coefficient:
        kl_T = divergence(settings.kl_estimator, masked(out.logprobs_T - rows["ref_logprobs"], rows))
        values_T, figures = values_T + settings.kl_coefficient * kl_T, {**figures, "kl": sum_count(kl_T, mask_T)}
    values_T = masked(values_T, rows)
    if settings.aggregate == "token":
        return Loss(values=values_T, weights=mask_T, metrics=figures)
    tokens_B = out.sum_per_row(mask_T).clamp(min=1)
    values_B = out.sum_per_row(values_T) / (tokens_B if settings.aggregate == "sequence" else settings.max_tokens)
    return Loss(values=values_B, weights=values_B.new_ones(values_B.shape), metrics=figures)


def divergence(estimator: str, gain_T: Tensor) -> Tensor:
    """An estimate of KL(pi || pi_ref) of log pi - log pi_ref [T]."""
    if estimator == "k1":
        return gain_T
    k2_T = gain_T.square() / 2
    if estimator == "k2":
        return k2_T
    gain_T = gain_T.clamp(min=-_MOST)
    k3_T = (-gain_T).exp() - 1 + gain_T
    return k3_T if estimator == "k3" else k2_T + (k3_T - k2_T).detach()


def policy_algorithm(
    name: str,
    settings: type[PolicySettings],
    loss: LossFn,
    metrics: tuple[str, ...] = (),
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> Algorithm:
    """An algorithm over rollouts whose loss is made by `policy_loss`, with these `metrics` of its own."""
    past = (OLD_LOGPROBS,) if issubclass(settings, RatioSettings) else ()
    columns = (ADVANTAGES, *past)
    aligned = tuple(column.name for column in columns)
    whole = Algorithm(
        name=name,
        rows=TOKENS.dropping("source").adding(*columns).renamed("rollouts", key=TOKENS.key),
        sequences=(TokenColumn(ids="input_ids", mask="loss_mask", aligned=aligned),),
        needs=Needs.LOGPROBS | Needs.ENTROPY,
        per=Per.TOKEN,
        settings=settings,
        loss=loss,
        metrics=("entropy", *metrics),
        one_update=not past,
        presets=presets or {},
        adapted=_adapted,
    )
    return _adapted(whole, settings())


def _adapted(algorithm: Algorithm, settings: PolicySettings) -> Algorithm:
    """What is read and reported under `settings`: the reference where it is weighed, the policy that was where it may
    be another.
    """
    rows, aligned = algorithm.rows, algorithm.sequences[0].aligned
    on_policy = isinstance(settings, RatioSettings) and settings.on_policy
    if on_policy and "old_logprobs" in aligned:
        rows, aligned = rows.dropping("old_logprobs"), tuple(name for name in aligned if name != "old_logprobs")
    metrics = algorithm.metrics
    if settings.kl_coefficient and "ref_logprobs" not in aligned:
        rows, aligned, metrics = rows.adding(REF_LOGPROBS), (*aligned, "ref_logprobs"), (*metrics, "kl")
    return replace(
        algorithm,
        rows=rows,
        sequences=(replace(algorithm.sequences[0], aligned=aligned),),
        per=Per.TOKEN if settings.aggregate == "token" else Per.ROW,
        metrics=metrics,
        one_update=algorithm.one_update or on_policy,
    )
