"""DRaFT+: the reward of an image is differentiated through the last steps of its sampler, held near the base.

    loss = -reward(image) + kl_coefficient * mean over these steps of |noise - noise of the base|^2

DRaFT (Clark et al. 2023, arXiv 2309.17400) is the first term alone; DRaFT-LV differentiates several newly noised
versions of the finished image, one step each, which lowers the variance of the gradient. The second term is
NeMo-Aligner's: without it a reward is soon met by images that are nothing else. It equals the divergence of the
denoising steps up to their known scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from schemas.settings import at_least
from trainers.images.algorithm import Drawn, ImageAlgorithm, Plan

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`kl_coefficient` weighs the distance from the base; gradients run through the last `truncation_steps` steps, or
    through `renoised` one-step denoisings of the finished image.
    """

    other_names: ClassVar[Mapping[str, str]] = {"kl_coeff": "kl_coefficient", "truncate_steps": "truncation_steps"}

    kl_coefficient: float = field(default=0.1, metadata=at_least(0))
    truncation_steps: int = field(default=1, metadata=at_least(1))
    renoised: int = field(default=0, metadata=at_least(0))


def plan(settings: Settings) -> Plan:
    """The base is asked where its distance counts."""
    asked = settings.kl_coefficient > 0
    return Plan(truncation_steps=settings.truncation_steps, renoised=settings.renoised, asks_base=asked)


def loss(settings: Settings, drawn: Drawn) -> Tensor:
    """One value an image, [B]."""
    return -drawn.rewards_B + settings.kl_coefficient * drawn.kl_B


DRAFT_PLUS = ImageAlgorithm(
    name="draft_plus",
    settings=Settings,
    plan=plan,
    loss=loss,
    presets={"draft": {"kl_coefficient": 0.0}, "draft_lv": {"kl_coefficient": 0.0, "renoised": 2}},
)
