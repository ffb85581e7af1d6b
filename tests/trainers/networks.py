"""Small networks for tests, and the same weights in a Hugging Face Llama."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from trainers.architecture import ModelConfig
from trainers.engine.megatron import parallel
from trainers.engine.megatron.model import Network, build
from trainers.parallel import Parallel

SMALL = ModelConfig(
    num_layers=2,
    hidden_size=32,
    ffn_hidden_size=64,
    num_attention_heads=4,
    num_query_groups=2,
    vocab_size=43,
    max_sequence_length=64,
)


def network(seed: int = 0, **changes: Any) -> Network:
    """A network like SMALL on one process."""
    return build(dataclasses.replace(SMALL, **changes), parallel.start(Parallel()), seed=seed)


def louder(net: Network, factor: float = 8.0) -> Network:
    """The same network with larger weights, so that its distributions are far from uniform."""
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "norm" not in name:
                weight.mul_(factor)
    return net


def words(size: int = SMALL.vocab_size) -> Tokenizer:
    """A tokenizer of the words w0, w1, ...; w1 is the end token."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def vocabulary(size: int = SMALL.vocab_size) -> dict[str, str]:
    """Its files, as a checkpoint carries them."""
    return {"tokenizer.json": words(size).to_str(), "tokenizer_config.json": '{"eos_token": "w1"}'}


def llama(net: Network) -> Any:
    """`net` as transformers' LlamaForCausalLM; with a scalar head as its LlamaForSequenceClassification."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    model = net.architecture
    heads, groups = model.num_attention_heads, model.num_query_groups
    size = model.head_channels
    config = LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=size,
        max_position_embeddings=model.max_sequence_length,
        rms_norm_eps=model.norm_epsilon,
        rope_theta=model.rope_base,
        tie_word_embeddings=False,
        attention_bias=False,
        num_labels=1,
        pad_token_id=0,
    )
    theirs, ours = {}, net.state_dict()
    theirs["model.embed_tokens.weight"] = ours["embedding.word_embeddings.weight"][: model.vocab_size]
    head = "score.weight" if model.head == "scalar" else "lm_head.weight"
    theirs[head] = ours["output_layer.weight"][: model.vocab_size]
    theirs["model.norm.weight"] = ours["decoder.final_layernorm.weight"]
    for i in range(model.num_layers):
        here, there = f"decoder.layers.{i}.", f"model.layers.{i}."
        qkv = ours[here + "self_attention.linear_qkv.weight"].view(groups, heads // groups + 2, size, -1)
        q, k, v = qkv[:, :-2], qkv[:, -2], qkv[:, -1]
        for name, part in (("q", q), ("k", k), ("v", v)):
            theirs[f"{there}self_attn.{name}_proj.weight"] = part.reshape(-1, model.hidden_size)
        theirs[there + "self_attn.o_proj.weight"] = ours[here + "self_attention.linear_proj.weight"]
        gate, up = ours[here + "mlp.linear_fc1.weight"].chunk(2)
        theirs |= {there + "mlp.gate_proj.weight": gate, there + "mlp.up_proj.weight": up}
        theirs[there + "mlp.down_proj.weight"] = ours[here + "mlp.linear_fc2.weight"]
        theirs[there + "input_layernorm.weight"] = ours[here + "input_layernorm.weight"]
        theirs[there + "post_attention_layernorm.weight"] = ours[here + "pre_mlp_layernorm.weight"]
    kind = LlamaForSequenceClassification if model.head == "scalar" else LlamaForCausalLM
    hf = kind(config).eval()
    hf.load_state_dict(theirs)
    return hf
