"""What an algorithm over drawn images is: settings, and a loss of what the sampler went through.

The engine draws images by the weights as they stand, has them rewarded, and asks the loss. What the engine must do for
it follows from a `Plan`, which settings give: through how many of the sampler's steps gradients run, and whether the
base is asked beside the adapted network.

Legend: B images of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What of drawing images an algorithm differentiates.

    Gradients run through the last `truncation_steps` steps of the sampler. With `renoised` above 0 they run through
    that many one-step denoisings of the finished image instead, each noised anew to the level of the last step.
    `asks_base`: the base predicts the noise beside, at the same latents.
    """

    truncation_steps: int = 1
    renoised: int = 0
    asks_base: bool = True


@dataclass(frozen=True)
class Drawn:
    """What is known of B drawn images: their rewards, and how far the adapted network's noise is from the base's at the
    steps with gradients (mean square over latent elements, guidance applied to both; 0 where the base is not asked).
    """

    rewards_B: Tensor
    kl_B: Tensor


@dataclass(frozen=True, kw_only=True)
class ImageAlgorithm:
    """A way of learning from rewarded images: `loss(settings, drawn)` gives a value for each image, unreduced; the
    engine divides by the number of images of the whole step. `presets` are settings with a name of their own.
    """

    name: str
    settings: type
    plan: Callable[[Any], Plan]
    loss: Callable[[Any, Drawn], Tensor]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
