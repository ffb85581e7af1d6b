"""A Hugging Face folder with PEFT's adapters on it, read as the one model that both make.

Adapters are added in fp32 and rounded to the base's type. What a weight is made of, in this order:

    below       the model's own: the base's, or what the adapters' file has in its place (a trained bias, a resized
                embedding), for all that is tied to it
    copies      what was trained whole in its place (`modules_to_save`: a scalar head, a trained embedding)
    tokens      rows of an embedding that were trained
    adapters    LoRA and DoRA

Where the base ties its embedding and its head, whatever was trained on one of them alone parts the two, as in PEFT.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from schemas.errors import DataError
from schemas.store.storage import shown
from schemas.tokenizer import TOKENS
from trainers.adapter_folder import MERGE, AdapterFolder
from trainers.adapter_tensors import EMBEDDINGS
from trainers.engine.weights import registry
from trainers.engine.weights.adapter_deltas import Deltas
from trainers.engine.weights.family import Family
from trainers.engine.weights.folder import CONFIG, Folder, listed
from trainers.engine.weights.tensorfile import DTYPES
from trainers.engine.weights.transforms import GROUPED_TRANSPOSED, TRANSPOSED

_LM_HEAD = "lm_head.weight"


class AdaptedFolder(Folder):
    """The model of `adapters.base` with `adapters` on it; `DataError` for adapters that do not fit it."""

    def __init__(self, adapters: AdapterFolder) -> None:
        super().__init__(adapters.base)
        self.adapters, self.deltas = adapters, Deltas(adapters)
        self.config, self._base = adapters.config, super().tensors
        if os.path.isfile(os.path.join(adapters.path, TOKENS)):
            self.tokenizer_place = adapters.path
        family = registry.of_config(self.config, os.path.join(self.path, CONFIG))
        self._prefix, self._turned = family.prefix, set(_turned(family))
        named = self.deltas.tensors
        self._below = {self._own(name): full for name, full in named.below.items()}
        self._copies = {self._own(name): full for name, full in named.copies.items()}
        self._on = {self._own(f"{module}.weight"): module for module in named.adapters}
        self._tokens = {self._own(f"{module}.weight"): module for module in named.tokens}
        names = {*named.below, *named.copies, *(f"{module}.weight" for module in (*named.adapters, *named.tokens))}
        self.theirs = {self._own(name): name for name in sorted(names)}
        """What is made of the adapters' file, by the names of PEFT's modules."""
        self.embedding = next((name for name in {**self._base, **self.theirs} if name.endswith(EMBEDDINGS)), "")
        self._tied = not adapters.scalar and bool(self.config.get("tie_word_embeddings", family.tied))
        if self._tied and _LM_HEAD in self._below:
            self._below.setdefault(self.embedding, self._below[_LM_HEAD])
        self._faults = [f"{name}, of two names" for name in names - {*self.theirs.values()}] + list(self._misfits())
        self.parted = self._tied and self._part()
        if self.parted:
            self.config["tie_word_embeddings"] = False
        elif self._tied:
            for there in (self._tokens, self._below, self.theirs):
                there.pop(_LM_HEAD, None)
        if self._faults:
            raise DataError(
                "wrong-adapters",
                "the adapters do not fit the model that they are put on",
                expected="for every adapter a weight of its shape",
                found=listed(self._faults),
                where=shown(adapters.path),
                kept="nothing was written",
                next=f"name the model that they were trained on with --base; or {MERGE}",
            )

    @property
    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        names = {*self._base, *self._below, *self._copies}
        if self.parted:
            names.add(_LM_HEAD)
        return {name: self._shape(name) for name in names if not (self.adapters.scalar and name == _LM_HEAD)}

    def dtype(self, name: str) -> str:
        if name in self._copies:
            return self.deltas.dtype(self._copies[name])
        root = self._root(name)
        if root not in self._below:
            return super().dtype(root)
        there = self.deltas.dtype(self._below[root])
        return super().dtype(root) if there in DTYPES and root in self._base else there

    def source(self, name: str) -> str:
        return self.deltas.path if name in self._copies or name in self._below else super().source(name)

    def read(self, name: str, row: int | None = None) -> Tensor:
        root = self._root(name)
        if name not in self.theirs and root not in self._below:
            return super().read(root, row)
        copied = name in self._copies
        tensor = self.deltas.read(self._copies[name]) if copied else self.read_below(name)
        if name in self._tokens:
            tensor = tensor.clone()
            self.deltas.put_tokens(tensor, self._tokens[name])
        if name in self._on:
            summed = tensor.to(torch.float32, copy=True)
            self.deltas.put_on(summed, self._on[name], self._is_turned(self._on[name]))
            tensor = summed.to(tensor.dtype)
        return tensor if row is None else tensor[row]

    def read_below(self, name: str) -> Tensor:
        """The model's own tensor `name`, as it is below everything that was trained on this one alone."""
        root = self._root(name)
        if root not in self._below:
            return super().read(root)
        tensor = self.deltas.read(self._below[root])
        return tensor.to(DTYPES[super().dtype(root)]) if root in self._base else tensor

    def parts(self, name: str) -> list[str]:
        """The tensors of the adapters' file that the tensor `name` is made of, by their names there."""
        named = self.deltas.tensors
        parts = [there[name] for there in (self._below, self._copies) if name in there]
        parts += [named.tokens[self._tokens[name]]] if name in self._tokens else []
        adapter = named.adapters[self._on[name]] if name in self._on else None
        return parts + ([part for part in (adapter.a, adapter.b, adapter.magnitude) if part] if adapter else [])

    @torch.no_grad()
    def put_on(self, network: torch.nn.Module, *, whole: bool = True) -> None:
        """Give `network`, the base as transformers has it in fp32, the weights that the adapters make, by the names of
        its own modules; whole: all of its layers are there.
        """
        self.fit(network)
        parameters = dict(network.named_parameters())
        for name, full in self.theirs.items():
            if whole or full in parameters:
                parameters[full].copy_(self.read(name))

    @torch.no_grad()
    def fit(self, network: Any) -> None:
        """Give `network` the rows of ids that the adapted model has, and both ends what they are below the adapters."""
        if self.embedding and self._shape(self.embedding)[0] != network.get_input_embeddings().weight.shape[0]:
            network.resize_token_embeddings(self._shape(self.embedding)[0], mean_resizing=False)
        if self.embedding in self._below:
            network.get_input_embeddings().weight.copy_(self.read_below(self.embedding))
        if self.parted:
            network.get_output_embeddings().weight.copy_(self.read_below(_LM_HEAD))

    def _misfits(self) -> Iterator[str]:
        """Adapters whose weight has another shape or is not there, tokens beyond the rows."""
        if self.adapters.scalar and _LM_HEAD in self.theirs:
            yield f"{_LM_HEAD} for a classifier (task_type SEQ_CLS), which has none"
        for name, module in self._on.items():
            shape, expected = self._shape(name), self.deltas.shape(module, self._is_turned(module))
            if shape != expected:
                yield f"{module}: {list(shape) if shape else None}, not {list(expected)}"
        for name, module in self._tokens.items():
            shape, width = self._shape(name), self.deltas.tensors.shape(self.deltas.tensors.tokens[module])[1]
            if len(shape) != 2 or shape[1] != width or max(self.adapters.tokens(module)) >= shape[0]:
                yield f"{module}: {list(shape) if shape else None} for tokens up to {max(self.adapters.tokens(module))}"

    def _part(self) -> bool:
        """Whether embedding and head of a model that ties them differ by what was trained."""
        ends, named = (self.embedding, _LM_HEAD), self.deltas.tensors
        if all(name in self._below for name in ends) and not self.deltas.equal(*(self._below[name] for name in ends)):
            self._faults.append(f"{_LM_HEAD}, which is tied to {self.embedding}, yet differs")
        trained = [name for name in ends if name in self._copies or name in self._on]
        if self.embedding in self._tokens:
            if trained:
                self._faults.append(f"tokens of {self.embedding}, which is tied to {_LM_HEAD}, beside {trained[0]}")
            if _LM_HEAD not in self._tokens:
                return False
            modules = [self._tokens[name] for name in ends]
            if self.adapters.tokens(modules[0]) != self.adapters.tokens(modules[1]):
                return True
            if not self.deltas.equal(*(named.tokens[module] for module in modules)):
                self._faults.append(f"tokens of {_LM_HEAD}, which is tied to {self.embedding}, yet differ")
            return False
        if self.adapters.settings.get("ensure_weight_tying") and len(trained) == 1:
            self._faults.append(f"ensure_weight_tying, yet only {trained[0]} was trained")
        return bool(trained) or _LM_HEAD in self._tokens

    def _shape(self, name: str) -> tuple[int, ...]:
        if name in self._copies:
            return self.deltas.tensors.shape(self._copies[name])
        root = self._root(name)
        return self.deltas.tensors.shape(self._below[root]) if root in self._below else self._base.get(root, ())

    def _root(self, name: str) -> str:
        """Whose value the model's own tensor `name` has: a head that is tied has the embedding's."""
        alone = name in self._below or (name in self._base and self.embedding not in self._below)
        return name if name != _LM_HEAD or alone or not self._tied else self.embedding

    def _is_turned(self, module: str) -> bool:
        return module.rpartition(".")[2] in self._turned

    def _own(self, name: str) -> str:
        """The base's name of a weight: base models are saved without the prefix."""
        there, short = self._base, name.removeprefix(self._prefix)
        return short if name not in there and short in there else name


def _turned(family: Family) -> Iterator[str]:
    """Last names of the modules whose weights are kept as [in, out]."""
    for spelling in (spelling for rule in family.rules for spelling in rule.spellings):
        if spelling.transform in (TRANSPOSED, GROUPED_TRANSPOSED):
            yield from (name.rsplit(".", 2)[-2] for name in spelling.names if name.endswith(".weight"))
