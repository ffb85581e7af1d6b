"""The sampler's loop, with gradients through its last steps where they are asked for, and its annealed forms.

Legend: B images of a micro-batch; latents are [B, C, H, W], `kl_B` [B].
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from schemas.errors import ConfigError, printable
from trainers.images.algorithm import Plan
from trainers.images.network import Conditions, DiffusionNetwork

Weight: TypeAlias = Callable[[float], float]
"""How much of the adapted network's noise is taken when this share of the steps is done; the rest is the base's."""


@dataclass(frozen=True)
class Draws:
    """Finished latents of one or several draws of the same B images, and `kl_B` of each (see `algorithm.Drawn`)."""

    latents: tuple[Tensor, ...]
    kl_B: Tensor


def weight_of(kind: str) -> Weight:
    """The weight that `kind` names: `base` 0, `draft` 1, `linear` the share of steps done, `power_P` that share to the
    P, `step_P` 1 from the share P on; `ConfigError` for any other. NeMo-Aligner's annealed importance guidance.
    """
    name, _, text = kind.partition("_")
    known: dict[str, Weight] = {"base": lambda share: 0.0, "draft": lambda share: 1.0, "linear": lambda share: share}
    if not text and kind in known:
        return known[kind]
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if name == "power" and 0 < number < float("inf"):
        return lambda share: share**number
    if name == "step" and 0 <= number <= 1:
        return lambda share: float(share >= number)
    raise ConfigError(
        "bad-setting",
        f"there is no annealing {printable(kind)}",
        expected="base, draft, linear, power_2 (any power above 0), step_0.6 (any share from 0 to 1)",
        kept="nothing was started",
    )


@torch.no_grad()
def denoise(
    network: DiffusionNetwork, conditions: Conditions, seeds: Sequence[int], weight: Weight | None = None
) -> Tensor:
    """Finished latents, without gradients; by the adapted network, or mixed with the base's noise as `weight` says."""
    (latents, steps), scheduler = network.start(seeds), network.scheduler
    for number, at in enumerate(steps):
        share = 1.0 if weight is None else weight(number / len(steps))
        noise = network.predict(latents, at, conditions, base=share == 0)
        if 0 < share < 1:
            noise = (1 - share) * network.predict(latents, at, conditions, base=True) + share * noise
        latents = scheduler.step(noise, at, latents, return_dict=False)[0]
    return latents


def draw(network: DiffusionNetwork, conditions: Conditions, seeds: Sequence[int], plan: Plan) -> Draws:
    """Draw B images, with gradients where `plan` wants them."""
    if plan.renoised:
        return _renoised(network, conditions, seeds, plan)
    (latents, steps), apart = network.start(seeds), list[Tensor]()
    first = len(steps) - plan.truncation_steps
    for number, at in enumerate(steps):
        with nullcontext() if number >= first else torch.no_grad():
            noise = network.predict(latents, at, conditions)
            if number >= first and plan.asks_base:
                apart.append(_distance(network, conditions, latents, noise, at))
            latents = network.scheduler.step(noise, at, latents, return_dict=False)[0]
    return Draws((latents,), _mean(apart, latents))


def _renoised(network: DiffusionNetwork, conditions: Conditions, seeds: Sequence[int], plan: Plan) -> Draws:
    finished, made, apart = denoise(network, conditions, seeds), list[Tensor](), list[Tensor]()
    for version in range(plan.renoised):
        last = network.steps()[-1]
        noise = torch.cat([network.noise((1, *finished.shape[1:]), _again(seed, version)) for seed in seeds])
        latents = network.scheduler.add_noise(finished, noise, last.expand(len(seeds)))
        predicted = network.predict(latents, last, conditions)
        if plan.asks_base:
            apart.append(_distance(network, conditions, latents, predicted, last))
        made.append(network.scheduler.step(predicted, last, latents, return_dict=False)[0])
    return Draws(tuple(made), _mean(apart, finished))


def _distance(
    network: DiffusionNetwork, conditions: Conditions, latents: Tensor, predicted: Tensor, at: Tensor
) -> Tensor:
    """Mean square between the noise that was `predicted` and the base's, whose own has no gradient."""
    fixed = latents.detach()
    of_base = network.noise_in(fixed, network.predict(fixed, at, conditions, base=True), at)
    return (network.noise_in(latents, predicted, at) - of_base).square().flatten(1).mean(1)


def _mean(apart: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.stack(list(apart)).mean(0) if apart else torch.zeros(len(like), device=like.device, dtype=like.dtype)


def _again(seed: int, version: int) -> int:
    """The seed of a finished image's new noise."""
    return int.from_bytes(hashlib.sha256(f"{seed}\x1frenoised\x1f{version}".encode()).digest()[:8], "big") >> 1
