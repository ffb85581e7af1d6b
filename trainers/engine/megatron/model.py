"""A `ModelConfig` as a Megatron-Core network: one pipeline stage's slice of it, with the same weights at every
layout.

`build` makes this process's part of the network for its `Layout`; what it starts from is said in `weight_init`, rope
in `rope`, the mixture of experts in `mixture`, the layers in `specs`.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.activations import squared_relu
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from schemas.errors import ConfigError
from trainers.architecture import ModelConfig, padded_vocabulary
from trainers.engine.megatron import rope, weight_init
from trainers.engine.megatron.parallel import Layout
from trainers.engine.megatron.quiet import quiet
from trainers.engine.megatron.specs import Implementation, block_spec, choose
from trainers.parallel import Parallel, parallel_errors

Precision = Literal["fp32", "bf16"]

_ACTIVATIONS = {
    "silu": F.silu,
    "gelu": functools.partial(F.gelu, approximate="tanh"),
    "squared_relu": squared_relu,
}


class Network(GPTModel):
    """GPTModel whose rope follows `position_ids` [b, s] (every pipeline stage is given them), packed or
    not.
    """

    architecture: ModelConfig
    layout: Layout
    frequencies: Tensor

    def _preprocess(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        decoder_input: Tensor | None = None,
        inference_context: Any = None,
        packed_seq_params: Any = None,
        padding_mask: Tensor | None = None,
    ) -> tuple[Any, ...]:
        if decoder_input is None and self.pre_process:
            decoder_input = self.embedding(input_ids=input_ids, position_ids=position_ids)
        if padding_mask is not None and self.config.sequence_parallel:
            padding_mask = tensor_parallel.scatter_to_sequence_parallel_region(padding_mask.t().contiguous()).t()
        return decoder_input, self.rope_table(position_ids), None, None, None, padding_mask

    def rope_table(self, position_ids: Tensor) -> Tensor | None:
        """Cosine and sine of each token's angles, [2, s, b, 1, r / 2]; None for learned positions."""
        if self.position_embedding_type != "rope":
            return None
        angles = position_ids.t()[..., None, None].float() * self.frequencies
        return torch.stack((angles.cos(), angles.sin())).to(self.config.params_dtype)


class ScalarHead(torch.nn.Module):
    """`head_size` numbers per token instead of logits, [s, b, n] in fp32; the same on every tensor-parallel
    rank.
    """

    def __init__(self, config: TransformerConfig, head_size: int) -> None:
        super().__init__()
        device = None if config.use_cpu_initialization else torch.cuda.current_device()
        self.sequence_parallel = config.sequence_parallel
        self.weight = torch.nn.Parameter(
            torch.zeros(head_size, config.hidden_size, dtype=config.params_dtype, device=device)
        )

    def forward(
        self, hidden: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor, None]:
        """Called as GPTModel calls its output layer."""
        if self.sequence_parallel:
            hidden = tensor_parallel.gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
        return F.linear(hidden.float(), self.weight.float()), None


def build(
    model: ModelConfig,
    layout: Layout,
    *,
    precision: Precision = "fp32",
    seed: int | None = 0,
    implementation: Implementation = "auto",
    inference: bool = False,
    **overrides: Any,
) -> Network:
    """This process's part of the network, on `layout.device`, weights in `precision`.

    seed: None leaves the weights to be loaded. `overrides` are fields of Megatron's TransformerConfig
    (recompute, ...). The activation "gelu" is the tanh form of GPT-2. Called as `network(tokens_1t,
    plan.positions, None, packed_seq_params=plan)` with `plan = packing.pack(lengths)`. Megatron's groups must
    run (`parallel.start`).
    """
    _check(model, layout)
    tied = model.tie_embeddings and model.head == "lm"
    with quiet():
        grouped = {"moe_grouped_gemm": model.experts is not None and choose(implementation) == "te"}
        config = _config(model, layout, precision, grouped | overrides)
        network = Network(
            config=config,
            transformer_layer_spec=block_spec(config, implementation, inference=inference),
            vocab_size=padded_vocabulary(model, layout.tensor),
            max_sequence_length=model.max_sequence_length,
            pre_process=layout.first,
            post_process=layout.last,
            share_embeddings_and_output_weights=tied,
            position_embedding_type="rope" if model.position == "rope" else "learned_absolute",
            parallel_output=True,
        )
    if model.head == "scalar" and layout.last:
        network.output_layer = ScalarHead(config, model.head_size)
    network.architecture, network.layout = model, layout
    network.frequencies = rope.frequencies(model).to(layout.device)
    network.to(layout.device)
    if model.position == "learned" and layout.first:
        network.embedding.position_embeddings.to(config.params_dtype)  # Megatron leaves them in fp32
    weight_init.mark_cut(network, model)
    if seed is not None:
        weight_init.initialise(network, model, layout, seed)
    return network


def _config(model: ModelConfig, layout: Layout, precision: Precision, overrides: dict[str, Any]) -> TransformerConfig:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return TransformerConfig(**(_shape(model) | _cut(layout) | _numbers(dtype, layout) | _mixture(model) | overrides))


def _shape(model: ModelConfig) -> dict[str, Any]:
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": model.num_query_groups,
        "kv_channels": model.head_channels,
        "normalization": model.normalization,
        "layernorm_epsilon": model.norm_epsilon,
        "layernorm_zero_centered_gamma": model.zero_centered_norm,
        "gated_linear_unit": model.gated,
        "activation_func": _ACTIVATIONS[model.activation],
        "add_bias_linear": model.linear_bias,
        "add_qkv_bias": model.qkv_bias,
        "qk_layernorm": model.qk_layernorm,
        "window_size": None if model.window is None else (model.window - 1, 0),
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }


def _cut(layout: Layout) -> dict[str, Any]:
    return {
        "tensor_model_parallel_size": layout.tensor,
        "pipeline_model_parallel_size": layout.pipeline,
        "expert_model_parallel_size": layout.expert,
        "expert_tensor_parallel_size": layout.expert_tensor,
        "sequence_parallel": layout.sequence,
        "variable_seq_lengths": layout.pipeline > 1,
    }


def _numbers(dtype: torch.dtype, layout: Layout) -> dict[str, Any]:
    return {
        "bf16": dtype == torch.bfloat16,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "use_cpu_initialization": layout.device.type == "cpu",
        "perform_initialization": False,
        "gradient_accumulation_fusion": False,
        "masked_softmax_fusion": False,
        "bias_dropout_fusion": False,
        "bias_activation_fusion": False,
        "apply_rope_fusion": False,
        "persist_layer_norm": False,
        "cuda_graph_scope": [],
    }


def _mixture(model: ModelConfig) -> dict[str, Any]:
    experts = model.experts
    dispatcher = {"moe_token_dispatcher_type": "alltoall"}  # sizes that vary need it, without experts too
    if experts is None:
        return dispatcher
    return dispatcher | {
        "num_moe_experts": experts.number,
        "moe_ffn_hidden_size": model.ffn_hidden_size,
        "moe_router_topk": experts.per_token,
        "moe_router_pre_softmax": experts.softmax_first,
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "aux_loss" if experts.balance > 0 else "none",
        "moe_aux_loss_coeff": experts.balance,
    }


def _check(model: ModelConfig, layout: Layout) -> None:
    tensor, pipeline, expert = layout.tensor, layout.pipeline, layout.expert
    parallel = Parallel(tensor=tensor, pipeline=pipeline, expert=expert, sequence=layout.sequence)
    if faults := parallel_errors(model, parallel, training=False):
        raise ConfigError("parallel-size", "the model cannot be cut so", found="; ".join(faults))
