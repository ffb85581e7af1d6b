"""A diffusion model opened: text to conditions, noise predictions with guidance, latents to pixels.

What diffusers does is left to it: the pipeline encodes prompts, its scheduler steps, its autoencoder decodes. Ours are
the adapters, the loop (`sampling`), and that every image begins with noise of a seed of its own, drawn on the CPU.

Legend: B images, C latent channels, H and W latent height and width, h and w pixels, S tokens of a prompt.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from schemas.errors import printable
from schemas.installed import missing_library
from trainers.images import lora
from trainers.images.config import Sampler
from trainers.images.folder import WEIGHED, bad_folder, parts_of, read_index

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
        self.scheduler = getattr(diffusers(), _SCHEDULERS[sampler.scheduler]).from_config(pipeline.scheduler.config)
        side = self.unet.config.sample_size * pipeline.vae_scale_factor
        self.width, self.height = sampler.width or side, sampler.height or side

    @property
    def device(self) -> torch.device:
        """The GPU where there is one, or the CPU."""
        return self.unet.device

    @property
    def guided(self) -> bool:
        """Whether a prediction is moved away from that of the empty prompt; as in diffusers, not at guidance 1."""
        return self.sampler.guidance > 1 and self.unet.config.time_cond_proj_dim is None

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
        """What the UNet reads of `prompts`."""
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


def diffusers() -> Any:
    """The library, whose bars and remarks on what is not installed are nobody's business here."""
    try:
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        import diffusers
    except ImportError:
        raise missing_library("an image model", "diffusers", "images", "nothing was started") from None
    diffusers.utils.logging.disable_progress_bar()
    return diffusers


def open_network(folder: str, sampler: Sampler, *, checkpointing: bool = False) -> DiffusionNetwork:
    """The model in a folder of diffusers, on the GPU where there is one; `ConfigError` for what is none."""
    index = read_index(folder)
    loaded = {*parts_of(index), "scheduler"}
    left_out = {name: None for name, given in index.items() if isinstance(given, list) and name not in loaded}
    kind = getattr(diffusers(), index["_class_name"])
    try:
        parts = {name: _part(folder, name, *index[name]) for name in parts_of(index) if name in WEIGHED}
        pipeline = kind.from_pretrained(folder, local_files_only=True, **parts, **left_out)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # of files that are not what they say
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise bad_folder(folder, printable(words)) from error
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    if checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
        pipeline.vae.enable_gradient_checkpointing()
    return DiffusionNetwork(pipeline, sampler)


def _part(folder: str, name: str, library: str, kind: str) -> Any:
    """The network of one part; `ConfigError` where its files lack weights, which the libraries would draw anew."""
    home = diffusers() if library == "diffusers" else importlib.import_module(library)
    how = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    how |= {"low_cpu_mem_usage": False} if library == "diffusers" else {}
    network, seen = getattr(home, kind).from_pretrained(os.path.join(folder, name), **how)
    lacking = sorted(map(str, {*seen["missing_keys"], *seen.get("mismatched_keys", ())}))
    if lacking:
        raise bad_folder(folder, f"{name} without {printable(lacking[0], 80)}, one of {len(lacking)} that are lacking")
    return network
