"""A diffusion model that is asked: a folder of diffusers, or adapters on one; and rewards of images that are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import torch

from schemas import IMAGES, Schema
from schemas.store.commit import read_manifest
from trainers.images import checkpoint, lora
from trainers.images.config import Sampler
from trainers.images.network import DiffusionNetwork
from trainers.images.opening import open_network
from trainers.images.pixels import pixels_of, png_of
from trainers.images.reward import Reward, asked
from trainers.images.sampling import denoise, weight_of


@dataclass(frozen=True)
class Drawn:
    """A PNG file and its size in pixels."""

    png: bytes
    width: int
    height: int


class Sampling(Protocol):
    """How images are drawn (`datakit.clients.images.ImageSampling`, from the other side of that wall)."""

    scheduler: str
    steps: int
    guidance: float
    width: int | None
    height: int | None
    annealing: str


class ImageModel:
    """Draws prompts by the model at `place`; fits datakit's `ImageGenerator` protocol."""

    def __init__(self, place: str, *, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.place, self._opened = place, dict[Sampler, DiffusionNetwork]()

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> list[Drawn | None]:
        """An image of each prompt, by its seed and itself alone; None where its pixels are not finite."""
        given = {name: getattr(sampling, name) for name in ("scheduler", "steps", "guidance", "width", "height")}
        network, weight = self._network(Sampler(**given)), weight_of(sampling.annealing)
        made = list[Drawn | None]()
        for prompt, seed in zip(prompts, seeds, strict=True):  # one by one: arithmetic may depend on the batch
            latents = denoise(network, network.conditions([prompt]), [seed], weight)
            with torch.no_grad():
                pixels = network.decode(latents)[0]
            fine = bool(torch.isfinite(pixels).all())
            made.append(Drawn(png_of(pixels), pixels.shape[2], pixels.shape[1]) if fine else None)
        return made

    def _network(self, sampler: Sampler) -> DiffusionNetwork:
        if sampler not in self._opened:
            self._opened = {sampler: opened(self.place, sampler)}
        return self._opened[sampler]


def opened(place: str, sampler: Sampler) -> DiffusionNetwork:
    """The network of a folder of diffusers, or of a checkpoint of adapters with its base."""
    if read_manifest(place) is None or checkpoint.is_export(place):
        return open_network(place, sampler)
    saved = checkpoint.open_checkpoint(place)
    network = open_network(saved.base_folder, sampler)
    lora.attach(network.unet, saved.adapters.lora, 0)
    lora.load(network.unet, saved.tensors())
    return network


class ImageScorer:
    """Puts the numbers of a reward on images that are there; fits datakit's `Scorer` protocol."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    @property
    def takes(self) -> Schema:
        """The prompt of each image, and its file."""
        return IMAGES.selecting("prompt", "image")

    @torch.no_grad()
    def score(self, rows: pa.Table) -> dict[str, pa.Array]:
        """One number an image, each asked alone: images may be of several sizes."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        numbers = []
        for pixels, prompt in zip(pixels_of(rows["image"].to_pylist()), rows["prompt"].to_pylist(), strict=True):
            numbers.append(float(asked(self.reward, pixels[None].to(device), [prompt])[0]))
        return {"reward": pa.array(numbers, pa.float64())}
