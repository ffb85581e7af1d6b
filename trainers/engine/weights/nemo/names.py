"""What NeMo's models call the tensors of a network: as Megatron-Core does, or as NeMo did before it.

Both keep query, key and value of a layer grouped, group by group, as the engine does; a gate stands over the other
half of an MLP's first linear, or beside it in a tensor of its own (`dense_h_to_4h_2`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from trainers.architecture import ModelConfig
from trainers.engine.weights.family import Spelling
from trainers.engine.weights.transforms import HALVES, PLAIN, VOCABULARY
from trainers.tensors import Stack, stacks

EMBEDDINGS = ("embedding.word_embeddings.weight", "language_model.embedding.word_embeddings.weight")
HEADS = ("output_layer.weight", "language_model.output_layer.weight")
LAST_BIASES = ("decoder.final_layernorm.bias", "language_model.encoder.final_layernorm.bias")
REWARD = "rm_head.weight"
REWARD_BIAS = "rm_head.bias"
_PREFIX = re.compile(r"(?:model\.|module\.)+")
_IDLE = re.compile(
    r"(?:optimizer|chained)\b.*|.*_extra_state(?:/.*)?|.*rotary_pos_emb\.inv_freq|.*rotary_emb\.inv_freq"
)
_STACKED = "decoder.layers."
_ONE = "decoder.layers.{layer}."
_NORMS = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
}
_EARLIER = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "post_attention_layernorm.",
    "self_attention.linear_qkv.": "self_attention.query_key_value.",
    "self_attention.linear_proj.": "self_attention.dense.",
    "mlp.linear_fc1.": "mlp.dense_h_to_4h.",
    "mlp.linear_fc2.": "mlp.dense_4h_to_h.",
}


def bare(name: str) -> str:
    """The name without what NeMo's classes put before it."""
    return _PREFIX.sub("", name, count=1) if _PREFIX.match(name) else name


def is_weight(name: str) -> bool:
    """Whether the network of that name computes with it: neither an optimizer's, nor computed from settings."""
    return not _IDLE.fullmatch(name)


def is_earlier(names: Mapping[str, object]) -> bool:
    """Whether the names are those from before Megatron-Core."""
    return any(name.startswith("language_model.") for name in names)


@dataclass(frozen=True)
class NemoNames:
    """The tensors of a network under the names that `spellings` gives each."""

    spellings: Callable[[str, ModelConfig], tuple[Spelling, ...]]
    prefix: str = ""
    loose: Mapping[str, str] = field(default_factory=dict)

    def table(self, model: ModelConfig) -> Iterator[tuple[Stack, tuple[Spelling, ...]]]:
        """Every tensor of the network of `model`, with its spellings."""
        for name, stack in sorted(stacks(model).items()):
            if name == HEADS[0] and model.head == "scalar":
                yield stack, (Spelling((REWARD,)),)
            else:
                yield stack, self.spellings(name, model)


def _core(name: str, model: ModelConfig) -> tuple[Spelling, ...]:
    """Megatron-Core's own names; the norm before a linear stands in it, or alone."""
    through = VOCABULARY if name in (EMBEDDINGS[0], HEADS[0]) else PLAIN
    if ".experts.experts." in name:
        one = name.replace(_STACKED, _ONE).replace(".experts.experts.", ".experts.local_experts.{expert}.")
        grouped = name.replace(_STACKED, _ONE).replace(".experts.experts.", ".experts.") + "{expert}"
        return Spelling((one,)), Spelling((grouped,))
    own = name.replace(_STACKED, _ONE)
    alone = next((own.replace(*pair) for pair in _NORMS.items() if pair[0] in own), None)
    return (Spelling((own,), through), *((Spelling((alone,)),) if alone else ()))


def _before(name: str, model: ModelConfig) -> tuple[Spelling, ...]:
    """A network's tensor as NeMo's GPT called it before Megatron-Core."""
    if not name.startswith("decoder."):
        return (Spelling((f"language_model.{name}",), PLAIN if "position" in name else VOCABULARY),)
    own = f"language_model.encoder.{name.removeprefix('decoder.').replace('layers.', 'layers.{layer}.', 1)}"
    own = next((own.replace(*pair) for pair in _EARLIER.items() if pair[0] in own), own)
    if model.gated and "dense_h_to_4h." in own:
        return Spelling((own, own.replace("dense_h_to_4h.", "dense_h_to_4h_2.")), HALVES), Spelling((own,))
    return (Spelling((own,)),)


CORE, EARLIER = NemoNames(_core), NemoNames(_before)
