"""Which tensors of another program's model make up each of a network's, held against one another before any is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from schemas.errors import DataError
from schemas.store.storage import shown
from trainers.architecture import ModelConfig
from trainers.engine.weights.check import Check, CheckResult
from trainers.engine.weights.family import Spelling
from trainers.engine.weights.folder import listed
from trainers.engine.weights.tensorfile import DTYPES
from trainers.engine.weights.tokenizer import TokenizerFiles
from trainers.tensors import Index, Stack

_HEAD = "lm_head.weight"
_ENOUGH = 10_000
"""Missing tensors after which a folder is refused without looking for more."""


class TensorSource(Protocol):
    """Another program's model: its tensors by name, `described` by a file of settings."""

    path: str
    described: str

    @property
    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor, by its name."""

    def dtype(self, name: str) -> str:
        """The type of a tensor, as safetensors calls it."""

    def source(self, name: str) -> str:
        """Where one looks for a tensor that is not as it should be."""

    def read(self, name: str, row: int | None = None) -> Tensor:
        """A tensor, or one slice of its first dimension."""


class Names(Protocol):
    """What that program calls a network's tensors, and in which pieces it keeps them."""

    @property
    def prefix(self) -> str:
        """What may stand before every name but the head's."""

    @property
    def loose(self) -> Mapping[str, str]:
        """Patterns of tensors that carry nothing, with the reason."""

    def table(self, model: ModelConfig) -> Iterator[tuple[Stack, tuple[Spelling, ...]]]:
        """Every tensor of the network of `model`, with its spellings."""


@dataclass(frozen=True)
class Plan:
    """How every tensor of a network is made from a folder's; `dtypes` in the order of writing."""

    folder: TensorSource
    model: ModelConfig
    dtypes: list[tuple[Stack, torch.dtype]]
    spelt: Mapping[str, Spelling]
    prefix: tuple[str, str]

    def make(self, stack: Stack, index: Index) -> Tensor:
        """Megatron's piece of `stack` at `index`."""
        spelling = self.spelt[stack.name]
        parts = spelling.parts(stack, index, self.model)
        tensors = [self.folder.read(_bare(part.name, self.prefix), part.row) for part in parts]
        return spelling.transform.join(tensors, stack.shape, self.model)


@dataclass(frozen=True)
class Incoming:
    """Another program's model, ready to be written: with its tokenizer, the family that computes the same (empty:
    none), and how its logits are compared with those of the checkpoint in a folder.
    """

    plan: Plan
    words: TokenizerFiles
    family: str
    compare: Callable[[str, Check], CheckResult]


def planned(folder: TensorSource, family: Names, model: ModelConfig) -> Plan:
    """The plan for `folder`; `DataError` names every tensor that is missing, unexpected or of a wrong shape or type."""
    there, faults = folder.tensors, _Faults()
    prefix = (family.prefix, family.prefix if any(name.startswith(family.prefix) for name in there) else "")
    used: set[str] = set()
    dtypes, spelt = [], {}
    for stack, spellings in family.table(model):
        spelt[stack.name] = spelling = _spelling(spellings, stack, model, there, prefix)
        kinds, sources = set(), set()
        for index in stack.indices():
            for part in spelling.parts(stack, index, model):
                name = _bare(part.name, prefix)
                used.add(name)
                if name not in there:
                    faults.miss(name, folder)
                elif there[name] != part.shape:
                    faults.shapes[name] = (part.shape, there[name])
                    faults.sources.add(folder.source(name))
                else:
                    kinds.add(folder.dtype(name))
                    sources.add(folder.source(name))
        faults.see_types(stack.name, kinds, sources)
        dtypes.append((stack, DTYPES.get(next(iter(kinds), ""), torch.float32)))
    loose = [re.compile(pattern) for pattern in family.loose]
    rest = {name: _full(name, prefix) for name in there if name not in used}
    faults.unexpected = [name for name, full in rest.items() if not any(one.fullmatch(full) for one in loose)]
    if model.tie_embeddings and _HEAD in faults.unexpected and not faults.any_of_tensors:
        faults.unexpected.remove(_HEAD)
        _check_tied(folder, _bare(spelt["embedding.word_embeddings.weight"].names[0], prefix))
    faults.sources.update(map(folder.source, faults.unexpected))
    faults.finish(folder.path, folder.described)
    return Plan(folder, model, dtypes, spelt, prefix)


class _Faults:
    def __init__(self) -> None:
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self.types: list[str] = []
        self.sources: set[str] = set()
        """Where tensors lie that are there and should not be, or not so."""

    @property
    def any_of_tensors(self) -> bool:
        return bool(self.missing or self.shapes or self.types)

    def miss(self, name: str, folder: TensorSource) -> None:
        """A tensor that is not there; with too many of them the rest is not looked for."""
        self.missing.append(name)
        if len(self.missing) >= _ENOUGH:
            self.finish(folder.path, folder.described)

    def see_types(self, name: str, kinds: set[str], sources: set[str]) -> None:
        """Those of one network's tensor, made of tensors that lie at `sources`."""
        if kinds - DTYPES.keys() or len(kinds) > 1:
            self.sources |= sources
        if kinds - DTYPES.keys():
            self.types.append(f"{name} would be of type {', '.join(sorted(kinds))} ({', '.join(DTYPES)} are read)")
        elif len(kinds) > 1:
            self.types.append(f"{name} would be of types {' and '.join(sorted(kinds))} at once")

    def finish(self, path: str, described: str) -> None:
        faults = [f"missing: {listed(self.missing)}"] if self.missing else []
        faults += [f"unexpected: {listed(self.unexpected)}"] if self.unexpected else []
        wrong = [f"{name} {list(shape)}, not {list(expected)}" for name, (expected, shape) in self.shapes.items()]
        faults += [f"wrong shape: {'; '.join(wrong[:40])}"] if wrong else []
        faults += [f"wrong type: {'; '.join(self.types[:40])}"] if self.types else []
        if faults:
            raise DataError(
                "wrong-tensors",
                f"the tensors are not those of the model that {described} describes",
                found="; ".join(faults),
                where=", ".join(map(shown, sorted(self.sources | ({path} if self.missing else set())))),
                kept="nothing was written",
            )


def _spelling(
    spellings: tuple[Spelling, ...], stack: Stack, model: ModelConfig, there: Mapping[str, Any], prefix: tuple[str, str]
) -> Spelling:
    """The first spelling whose first piece is there; the first of all if none is."""
    for spelling in spellings:
        parts = spelling.parts(stack, tuple(0 for _ in stack.lead), model)
        if all(_bare(part.name, prefix) in there for part in parts):
            return spelling
    return spellings[0]


def _bare(name: str, prefix: tuple[str, str]) -> str:
    """The name as the folder has it: base models are saved without the prefix."""
    whole, own = prefix
    return own + name.removeprefix(whole) if name.startswith(whole) else name


def _full(name: str, prefix: tuple[str, str]) -> str:
    return name if prefix[1] else prefix[0] + name


def _check_tied(folder: TensorSource, embedding: str) -> None:
    if torch.equal(folder.read(_HEAD), folder.read(embedding)):
        return
    raise DataError(
        "not-tied",
        f"config.json ties the embeddings, yet {_HEAD} and {embedding} differ",
        where=shown(folder.path),
        kept="nothing was written",
        next='set "tie_word_embeddings": false in config.json if the head is one of its own',
    )
