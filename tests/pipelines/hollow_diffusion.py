"""A folder that looks like one of diffusers, made without torch: what planning reads of a base, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

PARTS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
}


def write(folder: Path) -> str:
    """Names of parts, and weights that hold nothing."""
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    for name, kind in PARTS.items():
        (folder / name).mkdir(parents=True)
        index[name] = ["diffusers" if name in ("unet", "vae") else "transformers", kind]
        (folder / name / "config.json").write_text("{}")
        (folder / name / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / "model_index.json").write_text(json.dumps(index))
    return str(folder)
