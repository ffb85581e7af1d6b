"""What an operation may ask of an image model, and how images are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

from schemas.errors import ConfigError
from schemas.settings import at_least, bound_faults


@dataclass(frozen=True, kw_only=True)
class ImageSampling:
    """How images are drawn: `steps` of a `scheduler`, classifier-free `guidance` (1: none), eta 0.

    `width` and `height` are pixels (None: what the model was made for). `annealing` says how much of the noise of an
    adapted model is taken at a share s of the steps, the rest being its base's: draft (all), base (none), linear (s),
    power_P (s to the P), step_P (all from s = P on).
    """

    other_names: ClassVar[Mapping[str, str]] = {
        "num_inference_steps": "steps",
        "guidance_scale": "guidance",
        "num_images_per_prompt": "images_per_prompt",
    }

    images_per_prompt: int = field(default=1, metadata=at_least(1))
    scheduler: Literal["ddim", "euler"] = "ddim"
    steps: int = field(default=50, metadata=at_least(1))
    guidance: float = field(default=7.5, metadata=at_least(1))
    width: int | None = field(default=None, metadata=at_least(8))
    height: int | None = field(default=None, metadata=at_least(8))
    annealing: str = "draft"

    def __post_init__(self) -> None:
        faults = bound_faults(self)
        faults += [f"{name} {size} is no multiple of 8" for name in ("width", "height")
                   if (size := getattr(self, name)) is not None and size % 8]  # fmt: skip
        if faults:
            raise ConfigError("bad-setting", "; ".join(faults), kept="nothing was started")


@dataclass(frozen=True)
class DrawnImage:
    """A PNG file and its size in pixels."""

    png: bytes
    width: int
    height: int


@runtime_checkable
class ImageGenerator(Protocol):
    """A model that draws prompts."""

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: ImageSampling
    ) -> Sequence[DrawnImage | None]:
        """An image of each prompt, which follows from the prompt, its seed and the settings alone; None where there is
        none, because its pixels are not finite.
        """
        ...
