"""The critic of PPO: a number before every token, for what is still to be earned.

    V_clip = V_old + clip(V - V_old, -clip, clip)
    loss   = 1/2 max((V - R)^2, (V_clip - R)^2)                                       mean over counted tokens

Schulman et al. (2017, arXiv:1707.06347), as NeMo-Aligner and NeMo-RL have it. `values` are what the critic said before
the step (`label.values`), `returns` what it should have said (`label.gae`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.rows.rollouts import RETURNS, VALUES
from schemas.rows.tokens import TOKENS
from schemas.setting_faults import check_ranges
from trainers.algorithm import Algorithm, Loss, ModelOutputs, Needs, Per, Rows, TokenColumn, sum_count


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`clip`: how far a value may move from what it was before moving further no longer pays (verl and OpenRLHF have
    0.5); null: as far as it likes.
    """

    clip: float | None = 0.2

    def __post_init__(self) -> None:
        clip = 1.0 if self.clip is None else self.clip
        check_ranges("value", clip=(clip, clip > 0, "above 0"))


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Half the squared error per token [T], the greater of both where the clip moves the value; `clip_fraction` counts
    tokens on which the clip decides.
    """
    mask_T = rows["loss_mask"]
    value_T = outputs["input_ids"].values_TH[:, 0]
    zero = value_T.new_zeros(())
    return_T, old_T = (rows[name].where(mask_T != 0, zero) for name in ("returns", "values"))
    free_T = bound_T = (value_T - return_T).square()
    if settings.clip is not None:
        bound_T = (value_T.clamp(old_T - settings.clip, old_T + settings.clip) - return_T).square()
    metrics = {
        "value": sum_count(value_T, mask_T),
        "return": sum_count(return_T, mask_T),
        "squared_error": sum_count(free_T, mask_T),
        "clip_fraction": sum_count(bound_T > free_T, mask_T),
    }
    return Loss(values=free_T.maximum(bound_T) / 2, weights=mask_T.to(value_T.dtype), metrics=metrics)


VALUE = Algorithm(
    name="value",
    rows=TOKENS.dropping("source").adding(RETURNS, VALUES).renamed("valued_rollouts", key=TOKENS.key),
    sequences=(TokenColumn(ids="input_ids", mask="loss_mask", aligned=("returns", "values")),),
    needs=Needs.VALUES,
    per=Per.TOKEN,
    settings=Settings,
    loss=loss,
    metrics=("value", "return", "squared_error", "clip_fraction"),
)
