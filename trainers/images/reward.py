"""A reward of images: a function of pixels [B, 3, h, w], 0 black and 1 white, and of the B prompts, that gives a tensor
[B]. Whoever learns by it needs one that can be differentiated.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from schemas.errors import ConfigError, QuiverError, printable

Reward: TypeAlias = Callable[[Tensor, Sequence[str]], Tensor]


def asked(reward: Reward, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    """What `reward` says of `pixels`, [B]; `ConfigError` where it fails, gives anything else, or, while gradients are
    recorded, what no gradient reaches.
    """
    try:
        rewards = reward(pixels, prompts)
    except (QuiverError, MemoryError):
        raise
    except Exception as fault:  # of a function of the user's
        frames = traceback.extract_tb(fault.__traceback__)[1:2]
        place = "".join(f" (line {frame.lineno} of {frame.filename})" for frame in frames)
        raised = f"{type(fault).__name__}: {printable(fault, 200)}{place}"
        raise _bad(reward, "failed", len(prompts), raised, "mend that line; then run the same command again") from fault
    right = isinstance(rewards, Tensor) and rewards.shape == (len(prompts),)
    if not right or (torch.is_grad_enabled() and not rewards.requires_grad):
        shape = f"shape {tuple(rewards.shape)}" if isinstance(rewards, Tensor) else type(rewards).__name__
        what = "cannot be learnt from" if torch.is_grad_enabled() else "gives no number an image"
        way = "return for each image a number that is computed from its pixels, without detach, item or numpy"
        raise _bad(reward, what, len(prompts), f"{shape}{' without a gradient' if right else ''}", way)
    return rewards


def _bad(reward: Reward, what: str, count: int, given: str, way: str) -> ConfigError:
    return ConfigError(
        "bad-reward",
        f"the reward {printable(getattr(reward, '__name__', 'given'))} {what}",
        expected=f"a tensor of {count} numbers that follows from the pixels by operations of torch",
        found=given,
        kept="everything before it",
        next=way,
    )
