"""A `Model` as a Megatron-Core network: one pipeline stage's slice of it, with the same weights at every
layout.

`build` makes this process's part of the network for its `Layout`. Each weight is drawn whole from a generator
of its own, seeded by (seed, the weight's name in the whole network), and then cut, so tensor and pipeline
sizes do not change what a network starts from, nor does the vocabulary's padding.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.activations import squared_relu
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from schemas.errors import ConfigError
from trainers.config import Model
from trainers.engine.parallel import Layout
from trainers.engine.quiet import quiet
from trainers.engine.specs import Implementation, block_spec

Precision = Literal["fp32", "bf16"]

_ACTIVATIONS = {
    "silu": F.silu,
    "gelu": functools.partial(F.gelu, approximate="tanh"),
    "squared_relu": squared_relu,
}
_STD = 0.02
_VOCABULARY_MULTIPLE = 8


class Network(GPTModel):
    """GPTModel whose rope follows `position_ids` [b, s] (every pipeline stage is given them), packed or
    not.
    """

    architecture: Model
    layout: Layout

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
        return decoder_input, self.rope_table(position_ids), None, None, None, padding_mask

    def rope_table(self, position_ids: Tensor) -> Tensor | None:
        """Cosine and sine of each token's angles, [2, s, b, 1, d / 2]; None for learned positions."""
        if self.position_embedding_type != "rope":
            return None
        frequencies = self.rotary_pos_emb.inv_freq.to(position_ids.device)
        angles = position_ids.t()[..., None, None].float() * frequencies
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


def padded_vocabulary(model: Model, tensor: int) -> int:
    """Rows of the embedding: the vocabulary filled up so that `tensor` slices are equal and a multiple of
    8.
    """
    multiple = _VOCABULARY_MULTIPLE * tensor
    return -(-model.vocab_size // multiple) * multiple


def build(
    model: Model,
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
    config = _config(model, layout, precision, overrides)
    tied = model.tie_embeddings and model.head == "lm"
    with quiet():
        network = Network(
            config=config,
            transformer_layer_spec=block_spec(config, implementation, inference=inference),
            vocab_size=padded_vocabulary(model, layout.tensor),
            max_sequence_length=model.max_sequence_length,
            pre_process=layout.first,
            post_process=layout.last,
            share_embeddings_and_output_weights=tied,
            position_embedding_type="rope" if model.position == "rope" else "learned_absolute",
            rotary_base=model.rope_base,
            parallel_output=True,
        )
    if model.head == "scalar" and layout.last:
        network.output_layer = ScalarHead(config, model.head_size)
    network.architecture, network.layout = model, layout
    network.to(layout.device)
    _mark_cut(network, model)
    if seed is not None:
        initialise(network, model, layout, seed)
    return network


def _config(model: Model, layout: Layout, precision: Precision, overrides: dict[str, Any]) -> TransformerConfig:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    fields: dict[str, Any] = {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": model.num_query_groups,
        "kv_channels": model.kv_channels or model.hidden_size // model.num_attention_heads,
        "normalization": model.normalization,
        "layernorm_epsilon": model.norm_epsilon,
        "gated_linear_unit": model.gated,
        "activation_func": _ACTIVATIONS[model.activation],
        "add_bias_linear": model.linear_bias,
        "add_qkv_bias": model.qkv_bias,
        "qk_layernorm": model.qk_layernorm,
        "window_size": None if model.window is None else (model.window - 1, 0),
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "tensor_model_parallel_size": layout.tensor,
        "pipeline_model_parallel_size": layout.pipeline,
        "sequence_parallel": layout.sequence,
        "bf16": precision == "bf16",
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
        "variable_seq_lengths": layout.pipeline > 1,
        "moe_token_dispatcher_type": "alltoall",
        "cuda_graph_scope": [],
    }
    return TransformerConfig(**(fields | overrides))


def _check(model: Model, layout: Layout) -> None:
    tensor, pipeline = layout.tensor, layout.pipeline
    groups = model.num_query_groups
    faults = [
        f"{name} {size} is not a multiple of {kind} {parts}"
        for name, size, kind, parts in (
            ("num_attention_heads", model.num_attention_heads, "num_query_groups", groups),
            ("num_attention_heads", model.num_attention_heads, "tensor", tensor),
            ("num_query_groups", max(groups, tensor), "tensor / num_query_groups", min(groups, tensor)),
            ("ffn_hidden_size", model.ffn_hidden_size, "tensor", tensor),
            ("num_layers", model.num_layers, "pipeline", pipeline),
        )
        if size % parts
    ]
    if faults:
        raise ConfigError("parallel-size", "the model cannot be cut so", found="; ".join(faults))


def initialise(network: Network, model: Model, layout: Layout, seed: int) -> None:
    """Draw all weights: normal, 0.02, residual outputs divided by sqrt(2 layers) (GPT-2); norms one, biases
    zero.
    """
    first_layer = network.decoder.layers[0].layer_number - 1
    with torch.no_grad():
        for local, parameter in network.named_parameters():
            name = _whole_name(local, first_layer, network.share_embeddings_and_output_weights)
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.copy_(_cut(name, _drawn(name, parameter, model, layout, seed), parameter, model, layout))


def _whole_name(local: str, first_layer: int, tied: bool) -> str:
    if tied and local == "output_layer.weight":
        return "embedding.word_embeddings.weight"
    return re.sub(r"(?<=\.layers\.)\d+", lambda found: str(int(found.group()) + first_layer), local)


def _dimension(name: str, model: Model) -> int | None:
    """Along which dimension tensor parallelism cuts a weight."""
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return 1
    replicated = name.startswith("embedding.position") or (name == "output_layer.weight" and model.head == "scalar")
    return None if replicated else 0


def _mark_cut(network: Network, model: Model) -> None:
    """Tell the optimizer which weights are slices; it adds the rest up once per tensor group in the
    gradient's norm.
    """
    for name, parameter in network.named_parameters():
        whole = "norm" in name or name.endswith(("linear_proj.bias", "linear_fc2.bias"))
        dimension = None if whole else _dimension(name, model)
        parameter.tensor_model_parallel = dimension is not None
        parameter.partition_dim, parameter.partition_stride = -1 if dimension is None else dimension, 1


def _of_vocabulary(name: str, model: Model) -> bool:
    return name == "embedding.word_embeddings.weight" or (name == "output_layer.weight" and model.head == "lm")


def _drawn(name: str, parameter: Tensor, model: Model, layout: Layout, seed: int) -> Tensor:
    """The whole weight, fp32 on the CPU; vocabulary rows without their padding."""
    shape = list(parameter.shape)
    dimension = _dimension(name, model)
    if dimension is not None:
        shape[dimension] *= layout.tensor
    if _of_vocabulary(name, model):
        shape[0] = model.vocab_size
    std = _STD / math.sqrt(2 * model.num_layers) if dimension == 1 else _STD
    number = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1
    return torch.empty(shape).normal_(0.0, std, generator=torch.Generator().manual_seed(number))


def _cut(name: str, whole: Tensor, parameter: Tensor, model: Model, layout: Layout) -> Tensor:
    """This tensor-parallel rank's slice; gate and up projections are cut one by one, vocabulary rows filled
    with zeros.
    """
    dimension, tensor, rank = _dimension(name, model), layout.tensor, layout.tensor_rank
    if _of_vocabulary(name, model):
        whole = F.pad(whole, (0, 0, 0, parameter.shape[0] * tensor - model.vocab_size))
    if dimension is None:
        return whole
    if name.endswith("linear_fc1.weight") and model.gated:
        return torch.cat([half.chunk(tensor)[rank] for half in whole.chunk(2)])
    return whole.chunk(tensor, dim=dimension)[rank]
