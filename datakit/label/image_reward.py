"""label.image_reward: the number that a reward of images puts on every image, in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from datakit.label.reward import Reward
from schemas import IMAGES, Schema


@dataclass(frozen=True, kw_only=True)
class ImageReward(Reward):
    """Adds the number of a reward of images, which reads their pixels and prompts, as the finite column `reward`.

    The same function that DRaFT+ learns by may be asked. A row whose number is null, NaN or infinite is rejected.
    """

    name: ClassVar[str] = "label.image_reward"
    needs: ClassVar[tuple[str, ...]] = ("image_scorer",)
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    rows_per_chunk: int = 64

    @property
    def takes(self) -> Schema:
        """The prompt of each image, and its file."""
        return IMAGES.selecting("prompt", "image")
