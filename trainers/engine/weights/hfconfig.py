"""`config.json` of a Hugging Face folder, read so that nothing in it is passed over.

Every key is taken by a family, held to the one value that the engine computes, or known to be without effect on what
the network computes. What remains, and every value that is not supported, is refused by name, all at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.errors import ConfigError, printable
from trainers.architecture import RopeScaling

HARMLESS = {
    "architectures": "chose the family",
    "model_type": "says the same as architectures",
    "_name_or_path": "where the folder came from",
    "transformers_version": "who wrote the file",
    "_commit_hash": "where the folder came from",
    "unsloth_version": "who wrote the file",
    "unsloth_fixed": "who wrote the file",
    "dtype": "every tensor says its own type",
    "torch_dtype": "every tensor says its own type",
    "initializer_range": "the weights are there",
    "initializer_factor": "the weights are there",
    "use_cache": "how an answer is computed, not which",
    "pretraining_tp": "how a product is computed, not which",
    "_attn_implementation": "how attention is computed, not which",
    "_attn_implementation_autoset": "how attention is computed, not which",
    "attention_dropout": "dropout is part of training; the engine trains without",
    "hidden_dropout": "dropout is part of training; the engine trains without",
    "classifier_dropout": "dropout is part of training; the engine trains without",
    "bos_token_id": "the tokenizer's files name the token",
    "eos_token_id": "the tokenizer's files and generation_config.json name the tokens",
    "pad_token_id": "padding is never computed",
    "sep_token_id": "not used by decoder-only networks",
    "decoder_start_token_id": "not used by decoder-only networks",
    "tokenizer_class": "the tokenizer's files say it",
    "id2label": "names of the labels",
    "label2id": "names of the labels",
    "reward_scale": "what was measured of its rewards",
    "problem_type": "chooses a loss, which a run chooses here",
    "finetuning_task": "a name",
    "task_specific_params": "settings of sampling",
    "keys_to_ignore_at_inference": "what a call returns",
    "output_attentions": "what a call returns",
    "output_hidden_states": "what a call returns",
    "output_scores": "what a call returns",
    "return_dict": "what a call returns",
    "return_dict_in_generate": "what a call returns",
    "torchscript": "how the network is run",
    "use_bfloat16": "how the network is run",
    "tf_legacy_loss": "another framework's",
    "gradient_checkpointing": "how the network is trained",
    "chunk_size_feed_forward": "how a product is computed, not which",
    **dict.fromkeys(
        (
            *("max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams"),
            *("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p"),
            *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
            *("bad_words_ids", "num_return_sequences", "forced_bos_token_id", "forced_eos_token_id"),
            *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
            "prefix",
        ),
        "a setting of sampling",
    ),
}
"""Keys without effect on what a network computes, and why."""

_ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "is_decoder": (False, True),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "per_layer_config": (None,),
    "tie_last_hidden_states": (None,),
}
_ROPE_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_LLAMA3_KEYS = {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
_REQUIRED = object()
_MOST, _SHOWN = 1e18, 40


class Config:
    """The keys of one object of a `config.json`, each to be accounted for; `faults` gathers what is not supported."""

    def __init__(
        self,
        data: Mapping[str, Any],
        where: str,
        name: str = "config.json",
        harmless: Mapping[str, str] = HARMLESS,
        next: str = "",
    ) -> None:
        self.data, self.where, self.name, self.harmless, self.next = data, where, name, harmless, next
        self.faults: list[str] = []
        self._seen: set[str] = set()

    def hold_all(self) -> None:
        """Hold what no family supports to the value that says so: remote code, quantization, encoders."""
        self._seen |= {"auto_map", "quantization_config"}
        if "auto_map" in self.data:
            self.fault("auto_map asks for code that came with the folder, which is never run")
        if self.data.get("quantization_config") is not None:
            self.fault("quantization_config: quantized weights are not read; convert them to bf16 first")
        for name, values in _ALLOWED.items():
            self.hold(name, values, values[0])

    def count(self, name: str, default: Any = _REQUIRED) -> int:
        """The whole number `name`; absent or null it is `default`."""
        return int(self._take(name, int, default, 1))

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        """The number `name`; absent or null it is `default`."""
        return float(self._take(name, (int, float), default, 1.0))

    def flag(self, name: str, default: bool) -> bool:
        """The truth value `name`; absent or null it is `default`."""
        return bool(self._take(name, bool, default, default))

    def maybe(self, name: str) -> int | None:
        """The whole number `name`, or None for null or absent."""
        self._seen.add(name)
        return None if self.data.get(name) is None else self.count(name)

    def hold(self, name: str, values: tuple[Any, ...], default: Any) -> Any:
        """The value of `name`, which must be one of `values`; absent it is `default`."""
        self._seen.add(name)
        value = self.data.get(name, default)
        if not any(value == known and type(value) is type(known) for known in values):
            self.faults.append(f"{name} {printable(value)} is not supported ({', '.join(map(str, values))} is)")
        return value

    def ignore(self, names: Mapping[str, str]) -> None:
        """These keys have no effect on what the network computes."""
        self._seen.update(names)

    def fault(self, text: str) -> None:
        """One more thing that is not supported."""
        self.faults.append(text)

    def finish(self) -> None:
        """Raise `ConfigError` with every fault and every key that nobody knows."""
        unknown = [name for name in self.data if name not in self._seen | self.harmless.keys()]
        self.faults += [f"{printable(name)} is a key that is not known" for name in unknown]
        if self.faults:
            more = f" and {len(self.faults) - _SHOWN} more" if len(self.faults) > _SHOWN else ""
            raise ConfigError(
                "unsupported-model",
                f"{self.name} asks for what is not supported: {'; '.join(self.faults[:_SHOWN])}{more}",
                where=self.where,
                kept="nothing was written",
                next=self.next,
            )

    def rope(self, longest: int, base: float = 10000.0, share: float = 1.0) -> dict[str, Any]:
        """Model's `rope_base`, `rotary_percent` and `rope_scaling`, in the spelling of transformers 4 or 5.

        longest: the longest sequence. base, share: what absent keys mean. A share other than `share` is refused where
        `share` is 1.
        """
        keys: dict[str, Any] = {}
        for name in ("rope_scaling", "rope_parameters"):
            self._seen.add(name)
            part = self.data.get(name)
            if part is not None and not isinstance(part, dict):
                self.fault(f"{name} {printable(part)} is no object")
            elif part:
                keys = self._merged(keys, part, name)
        for name in ("rope_theta", "partial_rotary_factor"):
            self._seen.add(name)
            if self.data.get(name) is not None:
                keys = self._merged(keys, {name: self.data[name]}, name)
        parts = Config(keys, self.where)
        kind = keys.get("rope_type", keys.get("type", "default"))
        rope: dict[str, Any] = {"rope_base": parts.number("rope_theta", base)}
        rope["rotary_percent"] = parts.number("partial_rotary_factor", share)
        if share == 1 and rope["rotary_percent"] != 1:
            self.fault(f"partial_rotary_factor {rope['rotary_percent']} is not supported (1 is)")
        rope["rope_scaling"] = _llama3(parts, longest) if kind == "llama3" else None
        if kind not in ("default", "llama3"):
            self.fault(f"rope_type {printable(kind)} is not supported (default, llama3 is)")
        else:
            known = _ROPE_KEYS | (_LLAMA3_KEYS if kind == "llama3" else set())
            extra = [name for name in keys if name not in known and keys[name] is not None]
            self.faults += [f"rope key {printable(name)} is not known for rope_type {kind}" for name in extra]
        self.faults += parts.faults
        return rope

    def _merged(self, keys: dict[str, Any], more: Mapping[str, Any], name: str) -> dict[str, Any]:
        for key, value in more.items():
            if key in keys and keys[key] != value:
                self.fault(f"{name} says {key} {printable(value)}, another key {printable(keys[key])}")
        return keys | dict(more)

    def _take(self, name: str, kind: Any, default: Any, stand_in: Any) -> Any:
        self._seen.add(name)
        value = self.data.get(name)
        if value is None and default is not _REQUIRED:
            return default
        if value is None:
            self.fault(f"{name} is missing")
        elif not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.fault(f"{name} {printable(value)} is not {'a number' if kind is not bool else 'true or false'}")
        elif kind is not bool and not abs(value) <= _MOST:
            self.fault(f"{name} {printable(value)} is out of range")
        else:
            return value
        return stand_in


def _llama3(config: Config, longest: int) -> RopeScaling:
    return RopeScaling(
        factor=config.number("factor"),
        low_frequency=config.number("low_freq_factor"),
        high_frequency=config.number("high_freq_factor"),
        original_length=config.count("original_max_position_embeddings", longest),
    )


def rope_of(base: float, share: float | None, scaling: RopeScaling | None) -> dict[str, Any]:
    """The keys that say so, as transformers 4, transformers 5 and vLLM read them; `share` None leaves it out."""
    keys: dict[str, Any] = {"rope_theta": base, "rope_scaling": None}
    if share is not None:
        keys["partial_rotary_factor"] = share
    if scaling is not None:
        keys["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency,
            "high_freq_factor": scaling.high_frequency,
            "original_max_position_embeddings": scaling.original_length,
        }
    return keys
