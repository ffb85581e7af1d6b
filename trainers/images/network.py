"""A diffusion model opened: text to conditions, noise predictions with guidance, latents to pixels.

What diffusers does is left to it: the pipeline encodes prompts, its scheduler steps, its autoencoder decodes. Ours are
the adapters, the loop (`sampling`), and that every image begins with noise of a seed of its own, drawn on the CPU.

Legend: B images, C latent channels, H and W latent height and width, h and w pixels, S tokens of a prompt.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from schemas.errors import printable
from trainers.images import lora
from trainers.images.config import Sampler
from trainers.images.library import diffusers

_SCHEDULERS = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler"}


@dataclass(frozen=True)
class Conditions:
    """What the UNet reads of B prompts: hidden states [B, S, D], and of SDXL pooled texts and sizes; with guidance
    those of the empty prompt stand before them, [2 B, ...].
    """

    hidden: Tensor
    added: Mapping[str, Tensor] | None


class DiffusionNetwork:
    """A pipeline of diffusers whose UNet may have adapters, and how images are drawn of it."""

    def __init__(self, pipeline: Any, sampler: Sampler) -> None:
        self.pipeline, self.sampler = pipeline, sampler
        self.unet, self.vae = pipeline.unet, pipeline.vae
        for part in (self.unet, self.vae, pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)):
            if part is not None:
                part.requires_grad_(False)
                part.eval()
        self.scheduler = _scheduler(sampler.scheduler, pipeline.scheduler.config)
        size, factor = self.unet.config.sample_size, pipeline.vae_scale_factor
        height, width = size if isinstance(size, list | tuple) else (size, size)
        self.width, self.height = sampler.width or width * factor, sampler.height or height * factor
        self._warned = False

    @property
    def device(self) -> torch.device:
        """The GPU where there is one, or the CPU."""
        return self.unet.device

    @property
    def guided(self) -> bool:
        """Whether a prediction is moved away from that of the empty prompt; as in diffusers, not at guidance 1."""
        return self.sampler.guidance > 1

    def steps(self) -> Tensor:
        """The timesteps of a draw, the noisiest first; the scheduler begins anew."""
        self.scheduler.set_timesteps(self.sampler.steps, device=self.device)
        timesteps: Tensor = self.scheduler.timesteps
        return timesteps

    def start(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Noise that an image begins with, a seed each, [B, C, H, W], and the `steps` of the draw."""
        steps, factor = self.steps(), self.pipeline.vae_scale_factor
        shape = (1, self.unet.config.in_channels, self.height // factor, self.width // factor)
        noise = torch.cat([self.noise(shape, seed) for seed in seeds])
        return noise * self.scheduler.init_noise_sigma, steps  # which follows from the steps

    def noise(self, shape: tuple[int, ...], seed: int) -> Tensor:
        """Standard normal numbers that follow from `seed`, on every device the same."""
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return drawn.to(device=self.device, dtype=self.unet.dtype)

    @torch.no_grad()
    def conditions(self, prompts: Sequence[str]) -> Conditions:
        """What the UNet reads of `prompts`; the first one that is longer than what its encoder reads is warned of."""
        self._warn_of_long(prompts)
        asked: dict[str, Any] = {"device": self.device, "num_images_per_prompt": 1}
        asked["do_classifier_free_guidance"] = self.guided
        text, empty, *pooled = self.pipeline.encode_prompt(list(prompts), **asked)
        hidden = torch.cat([empty, text]) if self.guided else text
        if not pooled:
            return Conditions(hidden, None)
        texts = torch.cat([pooled[1], pooled[0]]) if self.guided else pooled[0]
        size = torch.tensor([[self.height, self.width, 0, 0, self.height, self.width]], dtype=hidden.dtype)
        sizes = size.to(self.device).expand(len(hidden), -1)
        return Conditions(hidden, {"text_embeds": texts, "time_ids": sizes})

    def predict(self, latents: Tensor, at: Tensor, conditions: Conditions, *, base: bool = False) -> Tensor:
        """The noise in `latents` [B, C, H, W] at timestep `at`, guidance applied; of the base, without gradient, where
        that is asked.
        """
        doubled = torch.cat([latents] * 2) if self.guided else latents
        doubled = self.scheduler.scale_model_input(doubled, at)
        with self._base() if base else nullcontext():
            noise: Tensor = self.unet(
                doubled, at, encoder_hidden_states=conditions.hidden, added_cond_kwargs=conditions.added,
                return_dict=False,
            )[0]  # fmt: skip
        if not self.guided:
            return noise
        empty, text = noise.chunk(2)
        return empty + self.sampler.guidance * (text - empty)

    def noise_in(self, latents: Tensor, predicted: Tensor, at: Tensor) -> Tensor:
        """The noise in `latents` that follows from what was `predicted` of them at the step `at`: that itself, or of a
        velocity v = sqrt(a) noise - sqrt(1 - a) image (Salimans & Ho 2022) sqrt(a) v + sqrt(1 - a) latents.
        """
        if self.scheduler.config.prediction_type == "epsilon":
            return predicted
        sigmas = getattr(self.scheduler, "sigmas", None)
        if sigmas is None:
            a = float(self.scheduler.alphas_cumprod[int(at)])
            return a**0.5 * predicted + (1 - a) ** 0.5 * latents
        a = float(1 / (1 + sigmas[self.scheduler.step_index].double() ** 2))  # and latents are larger by its root
        return a**0.5 * (predicted + (1 - a) ** 0.5 * latents)

    def _warn_of_long(self, prompts: Sequence[str]) -> None:
        words = self.pipeline.tokenizer
        for prompt in () if self._warned else prompts:
            if (tokens := len(words(prompt)["input_ids"])) > words.model_max_length:
                self._warned = True
                print(
                    f"warning: a prompt of {tokens} tokens, of which {words.model_max_length} are read: "
                    f"{printable(prompt, 60)}",
                    file=sys.stderr,
                )
                return

    @contextmanager
    def _base(self) -> Iterator[None]:
        with lora.adapters_off(self.unet), torch.no_grad():
            yield

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, h, w] of `latents`; 0 is black and 1 white, and values may lie outside."""
        config = self.vae.config
        scaled = latents / config.scaling_factor
        mean, deviation = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is not None and deviation is not None:
            shape = (1, -1, 1, 1)
            scaled = scaled * torch.tensor(deviation).to(latents).view(shape)
            scaled = scaled + torch.tensor(mean).to(latents).view(shape)
        pixels: Tensor = self.vae.decode(scaled, return_dict=False)[0]
        return pixels / 2 + 0.5


def _scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """The scheduler `name` with the settings of a pipeline's own, those that the pipeline has put right among them.
    Unless these say so, predicted latents are not cut to -1 and 1: that is for pixels, and DDIM's default.
    """
    written = config.keys() - {*config.get("_use_default_values", ())}
    cut = "clip_sample" in written and config["clip_sample"]
    kind = getattr(diffusers(), _SCHEDULERS[name])
    return kind.from_config(config, clip_sample=cut, steps_offset=config.get("steps_offset", 0))
