"""Tiny random folders of diffusers: Stable Diffusion and SDXL, with a tokenizer of whole words of a few letters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WIDTH = 32


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Letters one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=16)


def _text_config(**more: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=2 * len(LETTERS) + 2, hidden_size=WIDTH, intermediate_size=37, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=16, bos_token_id=52, eos_token_id=53, pad_token_id=53, **more,
    )  # fmt: skip


def _unet(**more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, sample_size=8, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **{"cross_attention_dim": WIDTH, "attention_head_dim": 4, **more},
    )  # fmt: skip


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, in_channels=3, out_channels=3, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip


def stable_diffusion(folder: Path, seed: int = 0) -> str:
    """A tiny Stable Diffusion: 16 x 16 pixels, 8 x 8 latents."""
    torch.manual_seed(seed)
    StableDiffusionPipeline(
        unet=_unet(),
        vae=_vae(),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        tokenizer=tokenizer(folder.with_name(f"{folder.name}.tokenizer")),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(str(folder))  # fmt: skip
    return str(folder)


def stable_diffusion_xl(folder: Path, seed: int = 0) -> str:
    """A tiny SDXL: two encoders of text, sizes beside the time."""
    torch.manual_seed(seed)
    words = tokenizer(folder.with_name(f"{folder.name}.tokenizer"))
    unet = _unet(
        cross_attention_dim=2 * WIDTH, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH, use_linear_projection=True,
    )  # fmt: skip
    StableDiffusionXLPipeline(
        unet=unet,
        vae=_vae(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
            timestep_spacing="leading",
        ),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(projection_dim=WIDTH)).eval(),
        tokenizer=words,
        tokenizer_2=words,
    ).save_pretrained(str(folder))  # fmt: skip
    return str(folder)
