"""GPT-2: LayerNorm, GELU in its tanh form, learned positions, biases everywhere, weights transposed (Conv1D)."""

from __future__ import annotations

from typing import Any

from trainers.architecture import ModelConfig
from trainers.engine.weights.family import Family, rule
from trainers.engine.weights.hfconfig import Config
from trainers.engine.weights.transforms import GROUPED_TRANSPOSED, TRANSPOSED, VOCABULARY

_HERE, _ATTENTION, _MLP = "transformer.h.{layer}.", "decoder.layers.self_attention.", "decoder.layers.mlp."

_RULES = (
    rule("embedding.word_embeddings.weight", "transformer.wte.weight", through=VOCABULARY),
    rule("embedding.position_embeddings.weight", "transformer.wpe.weight"),
    rule(_ATTENTION + "linear_qkv.layer_norm_weight", _HERE + "ln_1.weight"),
    rule(_ATTENTION + "linear_qkv.layer_norm_bias", _HERE + "ln_1.bias"),
    rule(_ATTENTION + "linear_qkv.weight", _HERE + "attn.c_attn.weight", through=GROUPED_TRANSPOSED),
    rule(_ATTENTION + "linear_qkv.bias", _HERE + "attn.c_attn.bias", through=GROUPED_TRANSPOSED),
    rule(_ATTENTION + "linear_proj.weight", _HERE + "attn.c_proj.weight", through=TRANSPOSED),
    rule(_ATTENTION + "linear_proj.bias", _HERE + "attn.c_proj.bias"),
    rule(_MLP + "linear_fc1.layer_norm_weight", _HERE + "ln_2.weight"),
    rule(_MLP + "linear_fc1.layer_norm_bias", _HERE + "ln_2.bias"),
    rule(_MLP + "linear_fc1.weight", _HERE + "mlp.c_fc.weight", through=TRANSPOSED),
    rule(_MLP + "linear_fc1.bias", _HERE + "mlp.c_fc.bias"),
    rule(_MLP + "linear_fc2.weight", _HERE + "mlp.c_proj.weight", through=TRANSPOSED),
    rule(_MLP + "linear_fc2.bias", _HERE + "mlp.c_proj.bias"),
    rule("decoder.final_layernorm.weight", "transformer.ln_f.weight"),
    rule("decoder.final_layernorm.bias", "transformer.ln_f.bias"),
)

_DROPOUT = "dropout is part of training; the engine trains without"
_SUMMARY = "a head of another architecture"


def _read(config: Config) -> dict[str, Any]:
    config.hold("activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new")
    config.hold("scale_attn_weights", (True,), True)
    config.hold("scale_attn_by_inverse_layer_idx", (False,), False)
    hidden, heads, longest = config.count("n_embd"), config.count("n_head"), config.count("n_positions")
    config.hold("n_ctx", (longest,), longest)
    return {
        "num_layers": config.count("n_layer"),
        "hidden_size": hidden,
        "ffn_hidden_size": config.count("n_inner", 4 * hidden),
        "num_attention_heads": heads,
        "num_query_groups": heads,
        "vocab_size": config.count("vocab_size"),
        "max_sequence_length": longest,
        "norm_epsilon": config.number("layer_norm_epsilon", 1e-5),
    }


def _write(model: ModelConfig) -> dict[str, Any]:
    return {
        "n_layer": model.num_layers,
        "n_embd": model.hidden_size,
        "n_inner": model.ffn_hidden_size,
        "n_head": model.num_attention_heads,
        "n_positions": model.max_sequence_length,
        "n_ctx": model.max_sequence_length,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": model.norm_epsilon,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def _limits(model: ModelConfig) -> list[str]:
    grouped = model.num_query_groups != model.num_attention_heads
    faults = [f"num_query_groups {model.num_query_groups} (it has one for each head)"] if grouped else []
    size = model.kv_channels
    if size is not None and size * model.num_attention_heads != model.hidden_size:
        faults.append(f"kv_channels {size} (it has hidden_size over heads)")
    return faults


GPT2 = Family(
    name="gpt2",
    causal="GPT2LMHeadModel",
    scalar="GPT2ForSequenceClassification",
    read=_read,
    write=_write,
    rules=_RULES,
    prefix="transformer.",
    tied=True,
    fixed={
        "position": ("learned",),
        "rotary_percent": (1.0,),
        "rope_scaling": (None,),
        "normalization": ("LayerNorm",),
        "zero_centered_norm": (False,),
        "gated": (False,),
        "activation": ("gelu",),
        "linear_bias": (True,),
        "qk_layernorm": (False,),
        "window": (None,),
        "experts": (None,),
    },
    limits=_limits,
    harmless={
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"), _DROPOUT),
        **dict.fromkeys(("summary_activation", "summary_proj_to_labels", "summary_type", "summary_use_proj"), _SUMMARY),
        "reorder_and_upcast_attn": "how attention is computed, not which",
    },
    loose={r"transformer\.h\.\d+\.attn\.(bias|masked_bias)": "the causal mask"},
)
