"""The layers a model is made of: Megatron's, with our own norm, attention core, rope and cached attention.

One attention core for all that PyTorch's scaled-dot-product attention can do: causal, grouped queries,
window, packed sequences, explicit masks, cached decoding. With Transformer Engine (CUDA only) its linears,
norms and, for training, its attention take over. Rope comes as one table per forward pass, gathered by
position, and keys are cached rotated.

Tensor suffixes: t tokens of a packed batch, s sequence, b batch, h query heads, g key-value heads, d head
size, n sequences of a bucket, l bucket length.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core.models.gpt import gpt_layer_specs
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import is_layer_window_attention
from torch import Tensor

from schemas.errors import ConfigError
from trainers.engine.data.packing import Packed
from trainers.engine.megatron.mixture import Router
from trainers.engine.megatron.rope import rotate

Implementation = Literal["auto", "local", "te"]


class Norm(torch.nn.Module):
    """RMSNorm or LayerNorm, weight around zero or one, with the mark that sequence parallelism needs on its
    weights.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.shape, self.eps, self.centred = (hidden_size,), eps, config.layernorm_zero_centered_gamma
        start = torch.zeros if self.centred else torch.ones
        device = None if config.use_cpu_initialization else torch.cuda.current_device()
        self.weight = torch.nn.Parameter(start(hidden_size, dtype=config.params_dtype, device=device))
        self.bias = None
        if config.normalization == "LayerNorm":
            self.bias = torch.nn.Parameter(torch.zeros(hidden_size, dtype=config.params_dtype, device=device))
        for parameter in self.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """Normalised over the last dimension."""
        weight = self.weight + 1 if self.centred else self.weight
        if self.bias is None:
            return F.rms_norm(x, self.shape, weight, self.eps)
        return F.layer_norm(x, self.shape, weight, self.bias, self.eps)


class SDPA(torch.nn.Module):
    """Megatron's core attention over `F.scaled_dot_product_attention`; no parameters.

    A given mask (True = hidden) replaces the causal one, window included.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
    ) -> None:
        super().__init__()
        assert config.context_parallel_size == 1, f"context parallel size {config.context_parallel_size}"
        assert not config.apply_query_key_layer_scaling, "query-key layer scaling is not supported"
        windowed = is_layer_window_attention(config.window_size, config.window_attn_skip_freq, layer_number)
        self.window = config.window_size[0] + 1 if windowed else None
        self.scale = softmax_scale
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Packed | None = None,
    ) -> Tensor:
        """query [s, b, h, d], key and value [s, b, g, d] -> [s, b, h * d]; packed: [t, h, d], [t, g, d] ->
        [t, h, d].
        """
        if packed_seq_params is not None:
            return self._packed(query, key, value, packed_seq_params)
        shown = None if attention_mask is None else ~attention_mask
        causal = shown is None and attn_mask_type is not AttnMaskType.no_mask
        q_bhsd, k_bgsd, v_bgsd = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        out_bhsd = self._dense(q_bhsd, k_bgsd, v_bgsd, shown, causal)
        return out_bhsd.permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)

    def _packed(self, q_thd: Tensor, k_tgd: Tensor, v_tgd: Tensor, plan: Packed) -> Tensor:
        parts = []
        for bucket in plan.buckets:
            q, k, v = (self._lay(x, bucket.index_nl, bucket.count, bucket.length) for x in (q_thd, k_tgd, v_tgd))
            parts.append(self._dense(q, k, v, None, True).transpose(1, 2).reshape(-1, *q_thd.shape[1:]))
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out if plan.inverse_t is None else out.index_select(0, plan.inverse_t)

    @staticmethod
    def _lay(x: Tensor, index_nl: Tensor | None, count: int, length: int) -> Tensor:
        laid = x if index_nl is None else x.index_select(0, index_nl)
        return laid.reshape(count, length, *x.shape[1:]).transpose(1, 2)

    def _dense(self, q: Tensor, k: Tensor, v: Tensor, shown: Tensor | None, causal: bool) -> Tensor:
        if causal and ((self.window is not None and self.window < k.shape[2]) or q.shape[2] != k.shape[2]):
            shown, causal = _band(q.shape[2], k.shape[2], self.window, q.device), False
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=shown,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
            scale=self.scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )


@functools.lru_cache(maxsize=64)
def _band(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Which keys a query sees, [queries, keys]: those up to its own, the last `window` of them; the last
    query is last.
    """
    with torch.inference_mode(False):  # it is kept: training may save what inference asked for first
        ahead = torch.arange(keys, device=device) - torch.arange(keys - queries, keys, device=device)[:, None]
        return (ahead <= 0) & (ahead > -(window or keys))


class CachedSelfAttention(SelfAttention):
    """Megatron's self-attention that rotates queries and keys itself, and caches keys as rotated."""

    def _adjust_key_value_for_inference(
        self,
        inference_context: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rotary_pos_emb: tuple[Tensor, Tensor] | None,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor, Tensor, None, AttnMaskType, None]:
        if rotary_pos_emb is not None:
            query, key = rotate(query, rotary_pos_emb[0]), rotate(key, rotary_pos_emb[0])
        if inference_context is not None:
            key, value = inference_context.extend(self.layer_number, key, value)
        return query, key, value, None, self.attn_mask_type, None


def choose(implementation: Implementation) -> Literal["local", "te"]:
    """`auto` takes Transformer Engine where it and CUDA are present; `te` without them is a `ConfigError`."""
    present = torch.cuda.is_available() and gpt_layer_specs.HAVE_TE
    if implementation == "te" and not present:
        raise ConfigError(
            "no-transformer-engine",
            "Transformer Engine is not usable here",
            expected="CUDA and the transformer_engine package",
            found=f"CUDA {torch.cuda.is_available()}, transformer_engine {gpt_layer_specs.HAVE_TE}",
            next="implementation=local",
        )
    if implementation == "auto":
        return "te" if present else "local"
    return implementation


def block_spec(
    config: TransformerConfig, implementation: Implementation = "auto", *, inference: bool = False
) -> TransformerBlockSubmodules:
    """The layers of this pipeline stage. `inference` takes our attention core under Transformer Engine too
    (masks).
    """
    chosen = choose(implementation)
    if chosen == "te":
        layer = gpt_layer_specs.get_gpt_layer_with_transformer_engine_spec(
            num_experts=config.num_moe_experts,
            moe_grouped_gemm=config.moe_grouped_gemm,
            qk_layernorm=config.qk_layernorm,
        )
        final: Any = gpt_layer_specs.TENorm
    else:
        layer = gpt_layer_specs.get_gpt_layer_local_spec(
            num_experts=config.num_moe_experts,
            moe_grouped_gemm=False,
            qk_layernorm=config.qk_layernorm,
            normalization=config.normalization,
        )
        final = Norm
        _local_norms(layer, config)
    if config.num_moe_experts:
        layer.submodules.mlp.submodules.router = Router
    attention = layer.submodules.self_attention
    attention.module = CachedSelfAttention
    if chosen == "local" or inference:
        attention.submodules.core_attention = SDPA
    return TransformerBlockSubmodules(layer_specs=[layer] * get_num_layers_to_build(config), layer_norm=final)


def _local_norms(layer: ModuleSpec, config: TransformerConfig) -> None:
    parts = layer.submodules
    parts.input_layernorm = parts.pre_mlp_layernorm = Norm
    if config.qk_layernorm:
        parts.self_attention.submodules.q_layernorm = parts.self_attention.submodules.k_layernorm = Norm
    if (
        config.num_moe_experts
    ):  # Transformer Engine's MoE layer keeps this norm under its own name: so must the checkpoint
        parts.sharded_state_dict_keys_map.pop("pre_mlp_layernorm.")
