"""A checksum of the weights that a network learns, as they stand in memory: equal for equal bits at one layout."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.distributed as dist


def weights_checksum(model: torch.nn.Module) -> str:
    """SHA-256 in hex over name, type, shape and bytes of every parameter that has a gradient, on all processes; all of
    them are to ask.
    """
    total = hashlib.sha256()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            total.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            total.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return total.hexdigest()
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, total.hexdigest())
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
