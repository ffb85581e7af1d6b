"""A Hugging Face folder with PEFT's adapters on it, read as the one model that both make.

Weights are added in fp32 and rounded to the base's type. Weights that lie beside the adapters (`modules_to_save`: a
scalar head, a trained embedding) stand in place of the base's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from schemas.errors import ConfigError, DataError, printable
from schemas.store.storage import shown
from schemas.tokenizer import TOKENS
from trainers.adapter_folder import MERGE, PREFIX, TENSORS, AdapterFolder
from trainers.engine.weights.folder import Folder, listed
from trainers.engine.weights.tensorfile import DTYPES, TensorFile

_A, _B = ".lora_A.weight", ".lora_B.weight"
_LM_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight")


class AdaptedFolder(Folder):
    """The model of `adapters.base` with `adapters` on it; `DataError` for adapters that do not fit it."""

    def __init__(self, adapters: AdapterFolder) -> None:
        super().__init__(adapters.base)
        self.adapters, self._deltas = adapters, Deltas(adapters)
        self.config, self._below = adapters.config, super().tensors
        if os.path.isfile(os.path.join(adapters.path, TOKENS)):
            self.tokenizer_place = adapters.path
        self._on: dict[str, str] = {}
        faults = []
        for module in self._deltas.modules:
            name = self._own(f"{module}.weight")
            shape = self._below.get(name)
            if shape != self._deltas.shape(module):
                faults.append(f"{module}: {shape and list(shape)}, not {list(self._deltas.shape(module))}")
            self._on[name] = module
        self._instead = {self._own(name): name for name in self._deltas.whole}
        self._embedding = next((name for name in self._below if name.endswith(_EMBEDDINGS)), "")
        self._parted = not self._scalar and bool({self._embedding, _LM_HEAD} & self._instead.keys())
        if self._parted:  # PEFT trains a copy of the one matrix; the other stays as it was
            self.config["tie_word_embeddings"] = False
        if faults:
            raise DataError(
                "wrong-adapters",
                "the adapters do not fit the model that they are put on",
                expected="for every adapter a weight of its shape",
                found=listed(faults),
                where=shown(adapters.path),
                kept="nothing was written",
                next="name the model that they were trained on with --base",
            )

    @property
    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        there = {name: shape for name, shape in self._below.items() if not (self._scalar and name == _LM_HEAD)}
        if self._parted:
            there.setdefault(_LM_HEAD, there[self._embedding])
        return there | {name: self._deltas.whole[own] for name, own in self._instead.items()}

    def dtype(self, name: str) -> str:
        return self._deltas.dtype(self._instead[name]) if name in self._instead else super().dtype(self._base(name))

    def source(self, name: str) -> str:
        return self._deltas.path if name in self._instead else super().source(name)

    def read(self, name: str, row: int | None = None) -> Tensor:
        if name in self._instead:
            tensor = self._deltas.read(self._instead[name])
        elif name in self._on:
            weight = super().read(name)
            tensor = (weight.float() + self._deltas.delta(self._on[name])).to(weight.dtype)
        else:
            return super().read(self._base(name), row)
        return tensor if row is None else tensor[row]

    @torch.no_grad()
    def put_on(self, network: torch.nn.Module, *, whole: bool = True) -> None:
        """Put the adapters on `network`, the base as transformers has it in fp32, by the names of its own modules;
        whole: all of its layers are there.
        """
        if self._parted and _LM_HEAD not in self._below:
            ends: Any = network
            ends.get_output_embeddings().weight.copy_(ends.get_input_embeddings().weight)
        parameters = dict(network.named_parameters())
        for name, module in self._on.items():
            if whole or f"{module}.weight" in parameters:
                weight = parameters[f"{module}.weight"]
                weight.copy_((weight + self._deltas.delta(module)).to(DTYPES[self.dtype(name)]))
        for full in self._instead.values():
            if whole or full in parameters:
                parameters[full].copy_(self._deltas.read(full))

    def _base(self, name: str) -> str:
        """Where the base has the weight `name`: a head that was tied lies in the embedding."""
        return self._embedding if name == _LM_HEAD and name not in self._below else name

    @property
    def _scalar(self) -> bool:
        return self.adapters.scalar

    def _own(self, name: str) -> str:
        """The base's name of a weight: base models are saved without the first part of it."""
        there, short = self._below, name.partition(".")[2]
        return short if name not in there and short in there else name


class Deltas:
    """The tensors beside an adapter_config.json: what the adapters add, by the names of the modules."""

    def __init__(self, adapters: AdapterFolder) -> None:
        self._adapters, path = adapters, os.path.join(adapters.path, TENSORS)
        if not os.path.isfile(path):
            raise ConfigError(
                "no-safetensors",
                f"{shown(adapters.path)} has no {TENSORS}",
                expected="adapters as safetensors",
                where=shown(adapters.path),
                kept="nothing was written",
                next="where you trust the folder: save_pretrained(new) of PEFT writes safetensors",
            )
        self.path, self._file = path, TensorFile(path)
        names = {name.removeprefix(PREFIX): name for name in self._file.entries}
        self._names = names
        self.modules = sorted(name.removesuffix(_A) for name in names if name.endswith(_A))
        pairs = {module + end for module in self.modules for end in (_A, _B)}
        self.whole = {name: self._file.entries[full].shape for name, full in names.items() if name not in pairs}
        """Shapes of the weights that stand in place of the base's."""
        odd = [name for name in self.whole if "lora_" in name or "base_layer" in name] + sorted(pairs - names.keys())
        odd += [module for module in self.modules if not self._sound(module)] if not odd else []
        if odd:
            raise DataError(
                "wrong-adapters",
                f"{TENSORS} does not hold the adapters that its adapter_config.json describes",
                expected="for every module lora_A [rank, in] and lora_B [out, rank]",
                found=listed(odd),
                where=shown(path),
                kept="nothing was written",
                next=MERGE,
            )

    def shape(self, module: str) -> tuple[int, int]:
        """The shape of the weight that `module`'s adapter belongs to."""
        inputs, outputs = self._shape(module, _A)[1], self._shape(module, _B)[0]
        return (inputs, outputs) if self._adapters.transposed else (outputs, inputs)

    def delta(self, module: str) -> Tensor:
        """What the adapter adds to that weight, in fp32; `DataError` where that is not finite."""
        b, a = self._tensor(module + _B).float(), self._tensor(module + _A).float()
        delta = self._finite(module, self._adapters.scale(module) * (b @ a))
        return delta.T if self._adapters.transposed else delta

    def dtype(self, name: str) -> str:
        """The type of a tensor, as safetensors calls it."""
        return self._file.entries[self._names[name]].dtype

    def read(self, name: str) -> Tensor:
        """The whole tensor `name` that stands in place of the model's of that name; `DataError` if not finite."""
        return self._finite(name, self._tensor(name))

    def _tensor(self, name: str) -> Tensor:
        return self._file.read(self._names[name])

    def _finite(self, name: str, tensor: Tensor) -> Tensor:
        if bool(tensor.isfinite().all()):
            return tensor
        raise DataError(
            "wrong-adapters",
            "the adapters hold values that are not finite, or make such ones",
            expected="adapters of finite numbers",
            found=printable(name, 200),
            where=shown(self.path),
            kept="nothing was written",
            next="take adapters from before their training diverged",
        )

    def _shape(self, module: str, end: str) -> tuple[int, ...]:
        return self._file.entries[self._names[module + end]].shape

    def _sound(self, module: str) -> bool:
        a, b = self._shape(module, _A), self._shape(module, _B)
        known = all(self.dtype(module + end) in DTYPES for end in (_A, _B))
        return known and len(a) == len(b) == 2 and a[0] == b[1] == self._adapters.rank(module)
