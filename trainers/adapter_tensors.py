"""What each tensor of an adapter_model.safetensors does, by its name, without torch.

    <module>.lora_A.weight [rank, in], .lora_B.weight [out, rank]              the adapter of a linear
    <module>.lora_embedding_A [rank, rows], .lora_embedding_B [columns, rank]  the adapter of an embedding
    <module>.lora_magnitude_vector [out], of an embedding [columns]            DoRA: the length of each output's weights
    <module>.token_adapter.trainable_tokens_delta [tokens, columns]            rows of an embedding that were trained
    <module>.weight, .bias                                                     in place of the model's
    <module>.base_layer.weight, .bias (.original_module, .token_adapter.base_layer)
                                       the model's own below an adapter: a trained bias, an embedding of another length

A module that `modules_to_save` names is a copy that was trained in place of the model's; all other whole tensors are
the model's own, and so are those of what is tied to them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from trainers.safetensors_header import Entry, entries

TENSORS = "adapter_model.safetensors"
PREFIX = "base_model.model."
EMBEDDINGS = ("embed_tokens.weight", "wte.weight")

_PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "a",
    ".lora_embedding_B": "b",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}
_TOKENS = ".token_adapter.trainable_tokens_delta"
_BELOW = re.compile(r"(.+?)\.(?:token_adapter\.base_layer|base_layer|original_module)\.(\w+)")
_COPY = re.compile(r"(.+)\.modules_to_save\.(\w+)")
_NEVER = re.compile(r"(^|\.)(lora_\w+|base_layer|original_module|modules_to_save|token_adapter|default)(\.|$)")


@dataclass(kw_only=True)
class Adapter:
    """The tensors of one module's adapter, by their names in the file; `embedding`: as an embedding's are called."""

    a: str = ""
    b: str = ""
    magnitude: str = ""
    embedding: bool = False


@dataclass
class AdapterTensors:
    """The tensors of one file, sorted; values are names in the file, keys such as the model has.

    `adapters` and `tokens` go by module, `below` (the model's own) and `copies` by weight; `twins` holds names of
    tensors that have to be equal, `odd` the names that have no place here.
    """

    entries: Mapping[str, Entry]
    adapters: dict[str, Adapter] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    below: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    twins: list[tuple[str, str]] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the tensor that the file calls `name`; empty where it is not there."""
        return self.entries[name].shape if name in self.entries else ()

    @property
    def vocab_size(self) -> int | None:
        """Rows of the embedding, or else of the head, where one came whole with the adapters."""
        for ends in (EMBEDDINGS, ("lm_head.weight",)):
            shapes = [self.shape(full) for name, full in {**self.below, **self.copies}.items() if name.endswith(ends)]
            if len(shapes) == 1 and shapes[0]:
                return shapes[0][0]
        return None


def read_tensors(folder: str, copied: Iterable[str]) -> AdapterTensors:
    """The tensors of the adapters in `folder`; copied: ends of the names of modules that were trained whole."""
    tensors = AdapterTensors(entries(os.path.join(folder, TENSORS)))
    plain: dict[str, str] = {}
    for full in sorted(tensors.entries):
        name = full.removeprefix(PREFIX)
        end = next((end for end in _PARTS if name.endswith(end) and name != end), None)
        if end is not None:
            _add_part(tensors, name.removesuffix(end), end, full)
        elif name.endswith(_TOKENS):
            tensors.tokens[name.removesuffix(_TOKENS)] = full
        elif match := _BELOW.fullmatch(name) or _COPY.fullmatch(name):
            place = tensors.below if match.re is _BELOW else tensors.copies
            _put(tensors, place, ".".join(match.groups()), full)
        else:
            plain[name] = full
    wrapped = tensors.adapters.keys() | tensors.tokens.keys()
    ends = tuple(copied)
    for name, full in plain.items():
        module = name.rpartition(".")[0]
        if module in wrapped:
            tensors.odd.append(full)
        elif name in tensors.copies:
            tensors.twins.append((full, tensors.copies[name]))
        else:
            _put(tensors, tensors.copies if module.endswith(ends) else tensors.below, name, full)
    both = tensors.adapters.keys() & tensors.tokens.keys() | {
        name.rpartition(".")[0] for name in tensors.copies if name.rpartition(".")[0] in wrapped
    }
    tensors.odd += [f"{module}, trained in two ways" for module in sorted(both)]
    return tensors


def _add_part(tensors: AdapterTensors, module: str, end: str, full: str) -> None:
    adapter = tensors.adapters.setdefault(module, Adapter(embedding="embedding" in end))
    is_one = end.startswith(".lora_magnitude") or adapter.embedding == ("embedding" in end)
    if getattr(adapter, _PARTS[end]) or not is_one:
        tensors.odd.append(full)
    setattr(adapter, _PARTS[end], full)


def _put(tensors: AdapterTensors, place: dict[str, str], name: str, full: str) -> None:
    if name in place or _NEVER.search(name) or "." not in name:
        tensors.odd.append(full)
    place.setdefault(name, full)
