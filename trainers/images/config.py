"""What a training of an image model is, read strictly from JSON before torch is imported: as `trainers.config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from schemas.canonical import identity_fields
from schemas.errors import ConfigError
from schemas.settings import FLATTENED, at_least, bound_faults, parse
from trainers.config import Optim, Paths, optim_faults
from trainers.images.registry import configured, spelled_out
from trainers.parallel import Parallel

VERSION = 3
"""Rises when the same run gives other weights."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How an image is drawn: `steps` of a `scheduler`, classifier-free `guidance` (1: none), deterministic (eta 0).

    `width` and `height` are pixels (None: what the model was made for).
    """

    other_names: ClassVar[Mapping[str, str]] = {
        "num_inference_steps": "steps",
        "guidance_scale": "guidance",
        "inference_steps": "steps",
    }

    scheduler: Literal["ddim", "euler"] = "ddim"
    steps: int = field(default=50, metadata=at_least(1))
    guidance: float = field(default=7.5, metadata=at_least(1))
    width: int | None = field(default=None, metadata=at_least(8))
    height: int | None = field(default=None, metadata=at_least(8))


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on the attention of the UNet (queries, keys, values, output): W x + (alpha / rank) B A x."""

    rank: int = field(default=32, metadata=at_least(1))
    alpha: float = field(default=32.0, metadata=at_least(0))


@dataclass(frozen=True, kw_only=True)
class ImageLearning:
    """What is learnt: all that decides which adapters come out, besides the inputs. It is a part of task keys.

    `global_batch_size` counts images per optimizer step, `max_steps` the steps. `ema` is the decay of the average over
    steps that is published in place of the last weights (0: the last weights are).
    """

    other_names: ClassVar[Mapping[str, str]] = {
        "batch_size": "global_batch_size",
        "steps": "max_steps",
        "lora_r": "lora.rank",
        "lora_alpha": "lora.alpha",
    }

    algorithm: str = "draft_plus"
    settings: Mapping[str, Any] = field(default_factory=dict)
    sampler: Sampler = field(default_factory=Sampler)
    lora: Lora = field(default_factory=Lora)
    optim: Optim
    max_steps: int = field(metadata=at_least(1))
    global_batch_size: int = field(default=4, metadata=at_least(1))
    ema: float = field(default=0.9999, metadata=at_least(0))
    seed: int = field(default=0, metadata=at_least(0))

    def __post_init__(self) -> None:
        algorithm, settings = spelled_out(self.algorithm, self.settings)
        object.__setattr__(self, "algorithm", algorithm)  # a preset and what it stands for are one
        object.__setattr__(self, "settings", settings)

    @property
    def op(self) -> dict[str, Any]:
        """What is done: `train.<algorithm>`, its version, and all settings that decide which weights come out."""
        return {"name": f"train.{self.algorithm}", "version": VERSION, "params": identity_fields(self)}

    def num_steps(self, rows: int | None) -> int:
        """Optimizer steps of a run over that many prompts."""
        return self.max_steps

    def faults(self) -> list[str]:
        """Why it contradicts itself; empty when it does not."""
        faults = bound_faults(self) + bound_faults(self.sampler, "sampler.") + bound_faults(self.lora, "lora.")
        if self.ema >= 1:
            faults.append(f"ema {self.ema} is not below 1")
        for name in ("width", "height"):
            size = getattr(self.sampler, name)
            if size is not None and size % 8:
                faults.append(f"sampler.{name} {size} is no multiple of 8")
        if self.optim.warmup_steps > self.max_steps:
            faults.append(f"optim.warmup_steps {self.optim.warmup_steps} is more than max_steps {self.max_steps}")
        _, settings = configured(self.algorithm, self.settings)
        last, steps = getattr(settings, "truncation_steps", 1), self.sampler.steps
        if last > steps:
            faults.append(f"truncation_steps {last} is more than sampler.steps {steps}")
        return faults + optim_faults(self.optim)


@dataclass(frozen=True, kw_only=True)
class ImageExecution:
    """How a run is executed and reported; none of it changes what is learnt.

    `micro_batch_size` counts images drawn together. `gradient_checkpointing` trades time for memory: activations are
    computed again backwards. Saves are made every `save_every` steps; the newest `keep_last` stay.
    """

    other_names: ClassVar[Mapping[str, str]] = {
        "save_steps": "save_every",
        "logging_steps": "log_every",
        "report_to": "track",
        "activation_checkpointing": "gradient_checkpointing",
    }

    micro_batch_size: int = field(default=4, metadata=at_least(1))
    gradient_checkpointing: bool = False
    threads: int | None = field(default=None, metadata=at_least(1))
    log_every: int = field(default=1, metadata=at_least(1))
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    save_every: int | None = field(default=None, metadata=at_least(1))
    keep_last: int = field(default=2, metadata=at_least(1))

    @property
    def parallel(self) -> Parallel:
        """How the network is cut: not at all."""
        return Parallel()


@dataclass(frozen=True, kw_only=True)
class ImageTraining:
    """A training without paths, as a graph holds it."""

    given_apart: ClassVar[tuple[str, ...]] = ("algorithm", "seed")
    """What is no setting of it to whoever gives settings: commands have flags of their own for these."""

    learning: ImageLearning = field(metadata=FLATTENED)
    execution: ImageExecution = field(metadata=FLATTENED)

    def check(self, where: str = "", paths: tuple[str, ...] = ()) -> None:
        """Raise `ConfigError` with every contradiction."""
        faults = [*self.learning.faults(), *bound_faults(self.execution), *paths]
        if faults:
            raise ConfigError("contradiction", "; ".join(faults), where=where, kept="nothing was started")


@dataclass(frozen=True, kw_only=True)
class ImageRun:
    """One training run. `paths.init` is the folder of the base, in the layout of diffusers; `base` is its digest;
    `reward` names what rewards images, for whoever opens it, and `reward_identity` says what that was as the run was
    planned, where no manifest does.
    """

    learning: ImageLearning = field(metadata=FLATTENED)
    execution: ImageExecution = field(metadata=FLATTENED)
    paths: Paths = field(metadata=FLATTENED)
    base: str
    reward: str = ""
    reward_identity: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        training = ImageTraining(learning=self.learning, execution=self.execution)
        training.check(paths=tuple(self.paths.faults()))
        if self.paths.init is None:
            raise ConfigError("contradiction", "init: the folder of the base", kept="nothing was started")


def image_training_of(settings: Mapping[str, Any], *, algorithm: str, seed: int, where: str = "") -> ImageTraining:
    """The training with these `settings`; `ConfigError` for any that is unknown."""
    taken = sorted({*ImageTraining.given_apart} & settings.keys())
    if taken:
        raise ConfigError(
            "bad-setting", f"{', '.join(taken)} cannot be set here", where=where, kept="nothing was started"
        )
    training = parse(ImageTraining, {**settings, "algorithm": algorithm, "seed": seed}, where=where)
    training.check(where)
    return training
