"""PEFT's adapters put on weights, in fp32: LoRA (Hu et al. 2021), DoRA (Liu et al. 2024) and single rows of tokens.

    LoRA    W + scale B A
    DoRA    the same, with row i of it then stretched to the length m_i that was learnt

W is [out, in]. A Conv1D and an embedding are kept transposed: as [in, out] and as [rows, columns], where B A is
[columns, rows].
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from schemas.errors import ConfigError, DataError, printable
from schemas.store.storage import shown
from trainers.adapter_folder import MERGE, AdapterFolder
from trainers.adapter_tensors import TENSORS
from trainers.engine.weights.folder import listed
from trainers.engine.weights.tensorfile import DTYPES, TensorFile

_AT_ONCE = 1 << 26
"""Numbers of a product B A that are in memory together."""


class Deltas:
    """The tensors beside an adapter_config.json, checked; `DataError` where they are not what it describes."""

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
        self.path, self._file, self.tensors = path, TensorFile(path), adapters.tensors
        odd = list(self.tensors.odd)
        odd += [fault for module in self.tensors.adapters for fault in self._faults(module)]
        odd += [fault for module in self.tensors.tokens for fault in self._token_faults(module)]
        if adapters.settings.get("trainable_token_indices") and not self.tensors.tokens:
            odd.append("no trainable_tokens_delta for trainable_token_indices")
        odd += [
            f"{one}, which is not {other}"
            for one, other in self.tensors.twins
            if not odd and not self.equal(one, other)
        ]
        if odd:
            raise DataError(
                "wrong-adapters",
                f"{TENSORS} does not hold the adapters that its adapter_config.json describes",
                expected="for every module lora_A [rank, in] and lora_B [out, rank], and what the settings name",
                found=listed(odd),
                where=shown(path),
                kept="nothing was written",
                next=MERGE,
            )

    def shape(self, module: str, transposed: bool) -> tuple[int, ...]:
        """The shape of the weight that `module`'s adapter belongs to; transposed: it is kept as [in, out]."""
        adapter = self.tensors.adapters[module]
        outputs, inputs = self.tensors.shape(adapter.b)[0], self.tensors.shape(adapter.a)[1]
        return (inputs, outputs) if transposed or adapter.embedding else (outputs, inputs)

    def put_on(self, weight: Tensor, module: str, transposed: bool) -> None:
        """Put `module`'s adapter on `weight` (fp32, changed in place); `DataError` where that is not finite."""
        adapter, scale = self.tensors.adapters[module], self._adapters.scale(module)
        rows = weight.T if transposed or adapter.embedding else weight
        a, b = self._file.read(adapter.a).float(), self._file.read(adapter.b).float()
        lengths = self._file.read(adapter.magnitude).float() if adapter.magnitude else None
        step = max(1, _AT_ONCE // max(1, rows.shape[1]))
        for first in range(0, len(rows), step):
            here = slice(first, first + step)
            rows[here] += self._finite(module, scale * (b[here] @ a))
            if lengths is not None:
                stretch = lengths[here] / torch.linalg.vector_norm(rows[here], dim=1)
                rows[here] *= self._finite(module, stretch)[:, None]

    def put_tokens(self, weight: Tensor, module: str) -> None:
        """Put the rows that were trained into `weight`, in place."""
        rows = self.read(self.tensors.tokens[module])
        weight[torch.tensor(self._adapters.tokens(module))] = rows.to(weight.dtype)

    def dtype(self, name: str) -> str:
        """The type of a tensor, as safetensors calls it."""
        return self._file.entries[name].dtype

    def read(self, name: str) -> Tensor:
        """The whole tensor that the file calls `name`; `DataError` if not finite."""
        return self._finite(name, self._file.read(name))

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors of the file are the same numbers."""
        entries = self._file.entries
        known = self.dtype(one) == self.dtype(other) and self.dtype(one) in DTYPES
        return known and entries[one].shape == entries[other].shape and torch.equal(self.read(one), self.read(other))

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

    def _faults(self, module: str) -> list[str]:
        """What is wrong with `module`'s adapter, seen by itself."""
        adapter = self.tensors.adapters[module]
        middle = "lora_embedding" if adapter.embedding else "lora"
        missing = [f"{module} without {middle}_{end}" for end, name in (("A", adapter.a), ("B", adapter.b)) if not name]
        if bool(adapter.magnitude) != self._adapters.has_lengths:
            missing.append(f"{module} with{'out' * self._adapters.has_lengths} lora_magnitude_vector")
        if missing:
            return missing
        names = [name for name in (adapter.a, adapter.b, adapter.magnitude) if name]
        a, b, lengths = (self.tensors.shape(name) for name in (adapter.a, adapter.b, adapter.magnitude))
        sound = len(a) == len(b) == 2 and a[0] == b[1] == self._adapters.rank(module)
        sound &= not adapter.magnitude or lengths == b[:1]
        sound &= all(self.dtype(name) in DTYPES for name in names)
        shapes = ", ".join(f"{self.dtype(name)} {list(self.tensors.shape(name))}" for name in names)
        return [] if sound else [f"{module} of {shapes} for rank {self._adapters.rank(module)}"]

    def _token_faults(self, module: str) -> list[str]:
        name, ids = self.tensors.tokens[module], self._adapters.tokens(module)
        shape = self.tensors.shape(name)
        if len(shape) == 2 and shape[0] == len(ids) > 0 and self.dtype(name) in DTYPES:
            return []
        return [f"{name} of {self.dtype(name)} {list(shape)} for {len(ids)} ids"]
