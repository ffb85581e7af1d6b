"""The same training as a run's, by transformers and torch's AdamW alone: the reference of `test_optimizer`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

Row = dict[str, list[int]]
Curve = list[dict[str, float]]


def decays(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay falls on a parameter: never on biases, nor on norms (which have one dimension)."""
    return parameter.ndim > 1 and not name.endswith("bias")


def rate(step: int, last: int, lr: float, min_lr: float, warmup: int) -> float:
    """The rate of step `step`, from 1: a straight rise that reaches `lr` at `warmup`, then a cosine from `lr` down to
    `min_lr`, which step `last` + 1 would have.
    """
    if step < warmup:
        return lr * step / warmup
    fallen = max(0, step - 1 - warmup) / (last - warmup)
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * fallen))


def train(
    folder: Path, steps: Sequence[Iterable[Row]], optim: dict[str, Any], out: Path, *, bf16: bool = False
) -> Curve:
    """Loss, gradient norm and rate of every step; the weights after the last go into the folder `out`.

    bf16: forward and backward in bf16, over weights that are rounded from fp32 ones before every step.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    reading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval() if bf16 else model
    for network in (model, reading):
        network.get_input_embeddings().padding_idx = (
            None  # a token like any other here; transformers stops its gradient
        )
    named = dict(model.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if decays(n, p)], "weight_decay": optim["weight_decay"]},
        {"params": [p for n, p in named.items() if not decays(n, p)], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, betas=tuple(optim["betas"]), eps=optim["eps"])
    curve: Curve = []
    for number, rows in enumerate(steps, 1):
        for parameter, rounded in zip(model.parameters(), reading.parameters(), strict=True):
            if bf16:
                rounded.data.copy_(parameter.data)
            rounded.grad = None
        total, count = 0.0, sum(sum(row["loss_mask"][1:]) for row in rows)
        for row in rows:
            ids = torch.tensor([row["input_ids"]])
            surprise = F.cross_entropy(reading(ids).logits[0, :-1].float(), ids[0, 1:], reduction="none")
            loss = (surprise * torch.tensor(row["loss_mask"][1:])).sum() / count
            loss.backward()
            total += loss.item()
        for parameter, rounded in zip(model.parameters(), reading.parameters(), strict=True):
            parameter.grad = None if rounded.grad is None else rounded.grad.float()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), optim["clip_grad"])
        lr = rate(number, len(steps), optim["lr"], optim["min_lr"], optim["warmup_steps"])
        for group in adamw.param_groups:
            group["lr"] = lr
        adamw.step()
        curve.append({"loss": total, "grad_norm": float(norm), "lr": lr})
    model.save_pretrained(out)
    return curve
