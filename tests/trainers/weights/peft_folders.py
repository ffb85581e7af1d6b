"""Folders as PEFT writes them, made by hand: small whole numbers, so that every sum is exact in any order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

PREFIX = "base_model.model."
RANK = 2


def numbers(*shape: int, seed: int) -> torch.Tensor:
    """Whole numbers from -3 to 3."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


def write(folder: Path, base: str, shapes: dict[str, tuple[int, int]], **settings: Any) -> dict[str, torch.Tensor]:
    """A folder with adapters of rank 2 on the modules of `shapes` ([out, in]), alpha 4; B A of each."""
    folder.mkdir(parents=True)
    tensors, products = {}, {}
    for seed, (module, (outputs, inputs)) in enumerate(shapes.items()):
        a, b = numbers(RANK, inputs, seed=seed), numbers(outputs, RANK, seed=seed + 100)
        tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
        products[module] = b @ a
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": RANK,
        "lora_alpha": 4,
    }
    config |= {"bias": "none", "lora_dropout": 0.1, "target_modules": ["q_proj"], "peft_version": "0.21.2"}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return products


def also(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """More tensors in the folder's file."""
    file = folder / "adapter_model.safetensors"
    save_file({**load_file(file), **{PREFIX + name: tensor for name, tensor in tensors.items()}}, file)
