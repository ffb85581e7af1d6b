"""What a GPT of Megatron's tensors computes, from the papers' formulas in float64: nothing of the engine is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IDS = 43
"""Ids of the tokenizer."""

Weights = dict[str, Tensor]


def channels(config: Mapping[str, Any]) -> int:
    """Size of a head."""
    return int(config.get("kv_channels") or config["hidden_size"] // config["num_attention_heads"])


def heads_of(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Heads of queries, keys and values."""
    groups = config.get("num_query_groups") or config["num_attention_heads"]
    return config["num_attention_heads"], groups, groups


def is_gated(config: Mapping[str, Any]) -> bool:
    """Whether an MLP has a gate."""
    return str(config["activation"]).endswith("glu")


def hidden_states(config: Mapping[str, Any], w: Weights, ids: Tensor) -> Tensor:
    """What the last norm gives for `ids` [b, s]: [b, s, h], in float64."""
    w = {name: tensor.double() for name, tensor in w.items()}
    length = ids.shape[1]
    x = w["embedding.word_embeddings.weight"][ids]
    if "embedding.position_embeddings.weight" in w:
        x = x + w["embedding.position_embeddings.weight"][:length]
    for layer in range(config["num_layers"]):
        here = f"decoder.layers.{layer}."
        x = x + _attention(
            config, w, f"{here}self_attention.", _norm(config, w, f"{here}self_attention.linear_qkv.layer_norm_", x)
        )
        if config.get("num_moe_experts"):
            x = x + _mixture(config, w, f"{here}mlp.", _norm(config, w, f"{here}pre_mlp_layernorm.", x))
        else:
            x = x + _mlp(config, w, f"{here}mlp.", _norm(config, w, f"{here}mlp.linear_fc1.layer_norm_", x))
    return _norm(config, w, "decoder.final_layernorm.", x)


def logits(config: Mapping[str, Any], w: Weights, ids: Tensor) -> Tensor:
    """Logits of `ids` [b, s]: [b, s, ids of the tokenizer]; with a reward head its numbers."""
    x = hidden_states(config, w, ids)
    if "rm_head.weight" in w:
        return (x @ w["rm_head.weight"].double().T + w.get("rm_head.bias", torch.zeros(())).double()).float()
    head = w.get("output_layer.weight", w["embedding.word_embeddings.weight"]).double()
    return (x @ head.T)[..., :IDS].float()


def _norm(config: Mapping[str, Any], w: Weights, name: str, x: Tensor) -> Tensor:
    scale, epsilon = w[f"{name}weight"], config["layernorm_epsilon"]
    if config["normalization"] == "rmsnorm":
        return x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * scale
    centred = x - x.mean(-1, keepdim=True)
    scale = scale + 1 if config["normalization"] == "layernorm1p" else scale
    return centred / (centred.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * scale + w[f"{name}bias"]


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    out = x @ w[f"{name}.weight"].T
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def _attention(config: Mapping[str, Any], w: Weights, here: str, x: Tensor) -> Tensor:
    batch, length, _ = x.shape
    heads, groups, _ = heads_of(config)
    size, per = channels(config), heads // groups
    mixed = _linear(w, f"{here}linear_qkv", x).reshape(batch, length, groups, per + 2, size)
    q, k, v = mixed[..., :per, :].flatten(2, 3), mixed[..., per, :], mixed[..., per + 1, :]
    if config["position_embedding_type"] == "rope":
        q, k = _turned(config, q), _turned(config, k)
    k, v = (part.repeat_interleave(per, dim=2) for part in (k, v))
    scores = torch.einsum("bshd,bthd->bhst", q, k) / math.sqrt(size)
    age = torch.arange(length)[:, None] - torch.arange(length)
    seen = age >= 0
    if window := config.get("window_size"):
        seen &= age <= window[0]
    out = torch.einsum("bhst,bthd->bshd", scores.masked_fill(~seen, -math.inf).softmax(-1), v)
    return _linear(w, f"{here}linear_proj", out.flatten(2))


def _turned(config: Mapping[str, Any], x: Tensor) -> Tensor:
    size = int(x.shape[-1] * config.get("rotary_percentage", 1.0))
    frequency = config.get("rotary_base", 10000.0) ** (-torch.arange(0, size, 2).double() / size)
    if config.get("scale_positional_embedding"):
        wavelength = 2 * math.pi / frequency
        smooth = ((8192 / wavelength - 1) / 3).clamp(0, 1)
        frequency = frequency * smooth + frequency / 8 * (1 - smooth)
    angle = torch.arange(x.shape[1]).double()[:, None] * frequency
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    one, two, rest = x[..., : size // 2], x[..., size // 2 : size], x[..., size:]
    return torch.cat([one * cos - two * sin, two * cos + one * sin, rest], dim=-1)


def _mlp(config: Mapping[str, Any], w: Weights, here: str, x: Tensor) -> Tensor:
    up = _linear(w, f"{here}linear_fc1", x)
    if is_gated(config):
        gate, up = up.chunk(2, dim=-1)
        up = gate * torch.sigmoid(gate) * up
    else:
        up = up.relu() ** 2 if config["activation"] == "squared-relu" else F.gelu(up, approximate="tanh")
    return _linear(w, f"{here}linear_fc2", up)


def _mixture(config: Mapping[str, Any], w: Weights, here: str, x: Tensor) -> Tensor:
    best, chosen = (x @ w[f"{here}router.weight"].T).topk(config["moe_router_topk"], dim=-1)
    out = torch.zeros_like(x)
    for expert in range(config["num_moe_experts"]):
        share = (best.softmax(-1) * (chosen == expert)).sum(-1, keepdim=True)
        out = out + share * _mlp(config, w, f"{here}experts.local_experts.{expert}.", x)
    return out
