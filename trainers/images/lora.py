"""Low-rank adapters on linears of a UNet's attention: W x + (alpha / rank) B A x, with A and B alone in training.

A is drawn from the uniform distribution of torch's linears and B is zero (Hu et al. 2021), so that a fresh adapter
changes nothing. `adapters_off` is the base: no second network is held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainers.images.config import Lora

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


class LoraLinear(nn.Module):
    """A frozen linear and its adapter; `on` says whether the adapter counts."""

    def __init__(self, base: nn.Linear, lora: Lora, generator: torch.Generator) -> None:
        super().__init__()
        self.base, self.scale, self.on = base, lora.alpha / lora.rank, True
        down = torch.empty(lora.rank, base.in_features)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        like = base.weight
        self.down = nn.Parameter(down.to(like))
        self.up = nn.Parameter(torch.zeros(base.out_features, lora.rank).to(like))

    def forward(self, x: Tensor, *rest: object) -> Tensor:
        """`x` [..., in] to [..., out]."""
        out: Tensor = self.base(x)
        if self.on:
            out = out + self.scale * nn.functional.linear(nn.functional.linear(x, self.down), self.up)
        return out


def attach(unet: nn.Module, lora: Lora, seed: int) -> None:
    """Freeze `unet` and put adapters, drawn from `seed`, on its attention."""
    unet.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    linears = [name for name, module in unet.named_modules() if isinstance(module, nn.Linear) and _is_target(name)]
    for name in sorted(linears):
        parent, _, child = name.rpartition(".")
        setattr(unet.get_submodule(parent), child, LoraLinear(unet.get_submodule(name), lora, generator))  # type: ignore[arg-type]
    assert linears, "a UNet without attention"


def parameters(unet: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of all adapters by name, in the order of names."""
    return {name: one for name, one in sorted(unet.named_parameters()) if one.requires_grad}


@torch.no_grad()
def load(unet: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill the adapters from `tensors`, which have their names and shapes."""
    own = parameters(unet)
    assert own.keys() == tensors.keys(), f"other adapters: {sorted(own.keys() ^ tensors.keys())[:5]}"
    for name, parameter in own.items():
        parameter.copy_(tensors[name])


@contextmanager
def adapters_off(unet: nn.Module) -> Iterator[None]:
    """The base, for as long as this is open."""
    adapted = [module for module in unet.modules() if isinstance(module, LoraLinear)]
    for module in adapted:
        module.on = False
    try:
        yield
    finally:
        for module in adapted:
            module.on = True


@torch.no_grad()
def merge(unet: nn.Module) -> None:
    """Add every adapter to its linear and take it off."""
    adapted = [name for name, module in unet.named_modules() if isinstance(module, LoraLinear)]
    for name in adapted:
        module = unet.get_submodule(name)
        assert isinstance(module, LoraLinear)
        module.base.weight += module.scale * (module.up @ module.down)
        parent, _, child = name.rpartition(".")
        setattr(unet.get_submodule(parent), child, module.base)


def _is_target(name: str) -> bool:
    return any(name.endswith(f".{target}") for target in TARGETS) and ".attn" in name
