"""Which network the settings of a model of NeMo describe.

Every key is read, held to the one value that the engine computes, or known to be without effect; what Megatron itself
takes for "off" is without effect too. Whatever else there is, is refused by its name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from megatron.core.transformer.transformer_config import TransformerConfig

from schemas.errors import ConfigError, printable
from schemas.nemo.model import Settings
from trainers.architecture import Experts, ModelConfig, RopeScaling, shape_faults
from trainers.engine.weights.hfconfig import Config
from trainers.engine.weights.nemo.idle_keys import IDLE, IDLE_PARTS

_OFF = {field.name: field.default for field in dataclasses.fields(TransformerConfig)}
"""What a key of Megatron's means that nobody has set."""

_ACTIVATIONS = {
    "gelu": (False, "gelu"), "geglu": (True, "gelu"), "fast-geglu": (True, "gelu"), "swiglu": (True, "silu"),
    "fast-swiglu": (True, "silu"), "squared-relu": (False, "squared_relu"),
}  # fmt: skip
_FUNCTIONS = {"silu": "silu", "gelu": "gelu", "squared_relu": "squared_relu"}
_NORMS = {"layernorm": "LayerNorm", "layernorm1p": "LayerNorm", "rmsnorm": "RMSNorm"}
_CLASSES = {
    "MegatronGPTModel", "MegatronGPTSFTModel", "GPTSFTModel", "MegatronGPTDPOModel", "MegatronGPTKTOModel",
    "MegatronGPTRewardModel", "MegatronGPTRegressionRewardModel", "MegatronGPTActorModel", "MegatronGPTCriticModel",
    "MegatronGPTReinforceActorModel", "MegatronGPTRSModel", "MegatronGPTSPINModel", "GPTKnowledgeDistillationModel",
}  # fmt: skip
_HOME_2, _MODULES_2 = "nemo.collections.llm.gpt.model", ("base", "llama", "mistral", "mixtral", "nemotron", "qwen2")
_CLASSES_2 = re.compile(rf"{re.escape(_HOME_2)}\.({'|'.join(_MODULES_2)})\.\w+", re.ASCII)
"""Classes of NeMo 2 that compute what their settings say; others (Gemma, encoders, embedders) do more in code."""
_SPECS = ("", "megatron_gpt", "megatron_gpt_sft", "te_gpt", "megatron_gpt_full_te_layer_autocast", None)
_NAMED_2 = (
    *("gated_linear_unit", "add_bias_linear", "normalization", "layernorm_epsilon", "position_embedding_type"),
    *("share_embeddings_and_output_weights", "layernorm_zero_centered_gamma", "ffn_hidden_size"),
)
"""Keys of NeMo 2 whose default every class of configuration sets anew, so that an absent one says nothing."""

_ONLY: Mapping[str, tuple[Any, ...]] = {
    "transformer_block_type": ("pre_ln",),
    "normalize_attention_scores": (True,),
    "headscale": (False,),
    "attention_type": ("multihead",),
    "megatron_legacy": (False,),
    "use_avg_pool": (False,),
}
"""Keys of NeMo's own with a single value that the engine computes, which is also what an absent key means."""


_NEXT = "where a key changes nothing, take it out of that file: an unpacked archive comes in as a folder"


def model_of(settings: Settings, where: str, vocab_size: int) -> ModelConfig:
    """The language model of the settings for a tokenizer of `vocab_size` ids; `ConfigError` lists every key and value
    that is not supported.
    """
    values, classes = settings.values, list[str]()
    if settings.is_second:
        given = values.get("config")
        given = given if isinstance(given, dict) else {}
        classes = [str(one.get("_target_")) for one in (values, given)]
        values = {key: value for key, value in given.items() if key[:1] != "_"}
    config = Config(values, where, settings.name, IDLE, _NEXT)
    for kind in classes:
        if not _CLASSES_2.fullmatch(kind):
            config.fault(f"_target_ {printable(kind, 120)} is not supported ({', '.join(_MODULES_2)} of {_HOME_2} are)")
    fields = _common(config) | (_second(config) if settings.is_second else _first(config))
    if fields["position"] == "learned":
        fields |= {"rope_base": 10000.0, "rotary_percent": 1.0, "rope_scaling": None}
    config.ignore(dict.fromkeys((key for key, value in values.items() if _is_idle(key, value)), "off"))
    config.finish()
    model = ModelConfig(vocab_size=vocab_size, **fields)
    if faults := shape_faults(model):
        raise ConfigError("unsupported-model", "; ".join(faults), where=where, kept="nothing was written")
    return model


def _is_idle(key: str, value: Any) -> bool:
    """Whether a key that nobody reads says nothing: by its name, or by the value that Megatron takes for off."""
    if value in (None, "") or (isinstance(value, list | dict) and not value):
        return True
    off = _OFF.get(key, dataclasses.MISSING)
    return key.startswith(tuple(IDLE_PARTS)) or (type(value) is type(off) and value == off)


def _common(config: Config) -> dict[str, Any]:
    """What NeMo 1 and 2 call by the same names."""
    heads, hidden = config.count("num_attention_heads"), config.count("hidden_size")
    channels = config.maybe("kv_channels")
    kind = config.hold("position_embedding_type", ("rope", "learned_absolute"), "learned_absolute")
    factor = config.number("seq_len_interpolation_factor", 1.0)
    if factor != 1:
        config.fault(f"seq_len_interpolation_factor {factor} is not supported (1 is)")
    return {
        "num_layers": config.count("num_layers"),
        "hidden_size": hidden,
        "ffn_hidden_size": config.count("ffn_hidden_size", 4 * hidden),
        "num_attention_heads": heads,
        "num_query_groups": config.count("num_query_groups", heads),
        "kv_channels": None if channels is None or channels * heads == hidden else channels,
        "position": "rope" if kind == "rope" else "learned",
        "rope_base": config.number("rotary_base", 10000.0),
        "norm_epsilon": config.number("layernorm_epsilon", 1e-5),
        "qk_layernorm": config.flag("qk_layernorm", False),
        "tie_embeddings": config.flag("share_embeddings_and_output_weights", True),
        "window": _window(config),
        "experts": _experts(config),
    }


def _first(config: Config) -> dict[str, Any]:
    """What model_config.yaml of NeMo 1 says by names of its own."""
    target = str(config.data.get("target", "MegatronGPTModel")).rpartition(".")[2]
    config.ignore({"target": "a name"})
    if target not in _CLASSES:
        config.fault(f"target {printable(target, 80)} is not supported (a GPT model is)")
    config.hold("name", _SPECS, "")
    for key, values in _ONLY.items():
        config.hold(key, values, values[0])
    _hold_reward(config)
    longest = config.count("max_position_embeddings", config.count("encoder_seq_length", 1 << 11))
    gated, activation = _ACTIVATIONS.get(str(config.data.get("activation", "gelu")), (False, ""))
    config.ignore({"activation": "read"})
    if not activation:
        config.fault(
            f"activation {printable(config.data['activation'])} is not supported ({', '.join(_ACTIVATIONS)} is)"
        )
    norm = str(config.data.get("normalization", "layernorm")).lower()
    config.ignore({"normalization": "read", "override_vocab_size": "the rows of the embedding say it"})
    if norm not in _NORMS:
        config.fault(f"normalization {printable(norm)} is not supported ({', '.join(_NORMS)} is)")
    bias = config.flag("bias", True)
    _check_gelu(config, activation, bias or gated, config.flag("openai_gelu", False))
    scaled, scale = config.flag("scale_positional_embedding", False), config.number("scale_factor", 8.0)
    if config.flag("multi_query_attention", False):
        config.fault("multi_query_attention True is not supported (num_query_groups 1 says it)")
    return {
        "max_sequence_length": longest,
        "rotary_percent": config.number("rotary_percentage", 1.0),
        "rope_scaling": RopeScaling(factor=scale) if scaled else None,
        "normalization": _NORMS.get(norm, "LayerNorm"),
        "zero_centered_norm": config.flag("layernorm_zero_centered_gamma", False) or norm == "layernorm1p",
        "gated": gated,
        "activation": activation,
        "linear_bias": bias,
        "qkv_bias": config.flag("qkv_bias", False) and not bias,
    }


def _second(config: Config) -> dict[str, Any]:
    """NeMo 2: the `config` of context/model.yaml, which names every field of its class."""
    given = config.data.get("activation_func")
    target = str(given.get("_target_", "")) if isinstance(given, dict) else str(given)
    activation = _FUNCTIONS.get(target.rpartition(".")[2], "")
    config.ignore({"activation_func": "read", "vocab_size": "the rows of the embedding say it"})
    if not activation:
        config.fault(f"activation_func {printable(target, 80)} is not supported ({', '.join(_FUNCTIONS)} is)")
    for key in _NAMED_2:
        if config.data.get(key) is None:
            config.fault(f"{key} is missing")
    bias, gated = config.flag("add_bias_linear", True), config.flag("gated_linear_unit", False)
    _check_gelu(config, activation, bias or gated, False)
    scaling = None
    if config.data.get("scale_factor") is not None:
        scaling = RopeScaling(
            factor=config.number("scale_factor"),
            low_frequency=config.number("low_freq_factor", 1.0),
            high_frequency=config.number("high_freq_factor", 4.0),
            original_length=config.count("old_context_len", 8192),
        )
    return {
        "max_sequence_length": config.count("seq_length"),
        "rotary_percent": config.number("rotary_percent", 1.0),
        "rope_scaling": scaling,
        "normalization": config.hold("normalization", ("LayerNorm", "RMSNorm"), "LayerNorm"),
        "zero_centered_norm": config.flag("layernorm_zero_centered_gamma", False),
        "gated": gated,
        "activation": activation,
        "linear_bias": bias,
        "qkv_bias": config.flag("add_qkv_bias", False) and not bias,
    }


def _check_gelu(config: Config, activation: str, fits: bool, tanh: bool) -> None:
    """NeMo's GELU is the tanh form, which the engine has, only where it is OpenAI's or fused with the bias."""
    fused = config.flag("bias_activation_fusion", config.flag("bias_gelu_fusion", True))
    if activation == "gelu" and not tanh and not (fused and fits):
        config.fault("gelu in its exact form (no openai_gelu, no bias_activation_fusion) is not supported (tanh is)")


def _hold_reward(config: Config) -> None:
    """What NeMo-Aligner does with a reward head beyond its product."""
    for name, key, idle in (("regression", "merge_attributes", False), ("reward_standardization", "enable", False)):
        part = config.data.get(name)
        config.ignore({name: "read"})
        if isinstance(part, dict) and part.get(key, idle) is not idle:
            config.fault(f"{name}.{key} {printable(part[key])} is not supported ({idle} is)")
    config.ignore({"output_sequence": "every token has its numbers here"})


def _window(config: Config) -> int | None:
    """Tokens in attention: `[LEFT, 0]` is a token and LEFT before it."""
    config.ignore({"window_size": "read"})
    config.hold("window_attn_skip_freq", (None,), None)
    given = config.data.get("window_size")
    if given is None:
        return None
    numbers = given if isinstance(given, list) and len(given) == 2 else [None, None]
    if type(numbers[0]) is not int or numbers[0] < 0 or numbers[1] != 0:
        config.fault(f"window_size {printable(given)} is not supported ([tokens before, 0] is)")
        return None
    return int(numbers[0]) + 1


def _experts(config: Config) -> Experts | None:
    number = config.maybe("num_moe_experts")
    if number is None:
        config.ignore({key: "no mixture" for key in config.data if key.startswith("moe_")})
        return None
    kind = config.hold("moe_router_load_balancing_type", ("aux_loss", "none"), "aux_loss")
    coefficient, width = config.number("moe_aux_loss_coeff", 0.0), config.maybe("moe_ffn_hidden_size")
    if width not in (None, config.data.get("ffn_hidden_size")):
        config.fault(f"moe_ffn_hidden_size {width} is not supported (that of ffn_hidden_size is)")
    return Experts(
        number=number,
        per_token=config.count("moe_router_topk", 2),
        softmax_first=config.flag("moe_router_pre_softmax", False),
        balance=coefficient if kind == "aux_loss" else 0.0,
    )
