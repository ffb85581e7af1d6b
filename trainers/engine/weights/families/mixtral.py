"""Mixtral: Mistral's attention over a mixture of gated experts, the best few of a softmax over the chosen ones."""

from __future__ import annotations

from typing import Any

from trainers.architecture import Experts, ModelConfig
from trainers.engine.weights import tables
from trainers.engine.weights.family import Family, Spelling, rule
from trainers.engine.weights.hfconfig import Config
from trainers.engine.weights.transforms import HALVES

_HERE, _EXPERTS = "model.layers.{layer}.", "decoder.layers.mlp.experts.experts."
_ONE = _HERE + "block_sparse_moe.experts.{expert}."

_RULES = (
    rule("decoder.layers.pre_mlp_layernorm.weight", _HERE + "post_attention_layernorm.weight"),
    rule(
        "decoder.layers.mlp.router.weight",
        _HERE + "block_sparse_moe.gate.weight",
        otherwise=Spelling((_HERE + "mlp.gate.weight",)),
    ),
    rule(
        _EXPERTS + "linear_fc1.weight",
        *(_ONE + "w1.weight", _ONE + "w3.weight"),
        through=HALVES,
        otherwise=Spelling((_HERE + "mlp.experts.gate_up_proj",), by_expert=True),
    ),
    rule(
        _EXPERTS + "linear_fc2.weight",
        _ONE + "w2.weight",
        otherwise=Spelling((_HERE + "mlp.experts.down_proj",), by_expert=True),
    ),
)


def _read(config: Config) -> dict[str, Any]:
    sizes = tables.sizes(config, groups=8)
    config.hold("hidden_act", ("silu",), "silu")
    config.hold("router_jitter_noise", (0.0, 0), 0.0)
    balanced, weight = config.flag("output_router_logits", False), config.number("router_aux_loss_coef", 0.001)
    number, chosen = config.count("num_local_experts", 8), config.count("num_experts_per_tok", 2)
    layers = sizes["num_layers"]
    return sizes | {
        "kv_channels": tables.head_size(config, sizes),
        "window": config.maybe("sliding_window"),
        "experts": Experts(number=number, per_token=chosen, balance=weight * chosen / layers if balanced else 0.0),
        "norm_epsilon": config.number("rms_norm_eps", 1e-5),
        **config.rope(sizes["max_sequence_length"], base=1e6),
    }


def _balancing(model: ModelConfig, experts: Experts) -> dict[str, Any]:
    """What transformers adds to the loss where a call returns the router's logits, and only there: one product of
    shares over all layers, in which each choice of a token counts as one; ours is a sum over layers, of shares of all
    choices (`trainers.engine.megatron.mixture`).
    """
    weight = experts.balance * model.num_layers / experts.per_token
    return {"output_router_logits": True, "router_aux_loss_coef": weight} if weight else {}


def _write(model: ModelConfig) -> dict[str, Any]:
    assert model.experts is not None, "a mixture"
    keys = tables.sizes_of(model) | tables.head_size_of(model) | tables.rope_keys(model)
    return keys | {
        "num_local_experts": model.experts.number,
        "num_experts_per_tok": model.experts.per_token,
        **_balancing(model, model.experts),
        "sliding_window": model.window,
        "rms_norm_eps": model.norm_epsilon,
    }


def _limits(model: ModelConfig) -> list[str]:
    if model.experts is None:
        return ["experts None (it has a mixture)"]
    return ["experts.softmax_first True (it chooses first)"] if model.experts.softmax_first else []


MIXTRAL = Family(
    name="mixtral",
    causal="MixtralForCausalLM",
    scalar="MixtralForSequenceClassification",
    read=_read,
    write=_write,
    rules=(*tables.TRUNK, *_RULES),
    fixed={
        **tables.LLAMA_LIKE,
        "qkv_bias": (False,),
        "linear_bias": (False,),
        "qk_layernorm": (False,),
    },
    limits=_limits,
    loose=tables.ROPE_BUFFER,
)
