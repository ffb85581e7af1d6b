"""A Hugging Face folder becomes a checkpoint: checked whole, copied tensor by tensor, compared with transformers."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from schemas.canonical import canonical
from schemas.end_tokens import TurnEnd
from schemas.errors import DataError, QuiverError
from schemas.manifest import Manifest
from schemas.store import commit
from schemas.store.storage import shown
from trainers.adapter_folder import is_adapters, read_adapters
from trainers.architecture import ModelConfig
from trainers.engine.checkpoint import checkpoint
from trainers.engine.weights import check as checks
from trainers.engine.weights import padding, registry, stream, tokenizer
from trainers.engine.weights.adapted_folder import AdaptedFolder
from trainers.engine.weights.check import Check
from trainers.engine.weights.family import Family, Spelling
from trainers.engine.weights.folder import CONFIG, Folder, listed
from trainers.engine.weights.local_paths import local
from trainers.engine.weights.tensorfile import DTYPES
from trainers.tensors import Index, Stack

VERSION = 2
_HEAD = "lm_head.weight"
_ENOUGH = 10_000
"""Missing tensors after which a folder is refused without looking for more."""


def import_hf(
    source: str,
    out: str,
    *,
    base: str = "",
    tokenizer_from: str | None = None,
    task_key: str = "",
    facts: Mapping[str, Any] | None = None,
    check: Check = "auto",
    say: Callable[[str], None] = print,
) -> Manifest:
    """Write the model in the Hugging Face folder `source` as the checkpoint `out`; the manifest that stands there.

    `source` may hold PEFT's adapters: the model is then that which they make of the one in `base`, or of the one that
    they name. tokenizer_from: a tokenizer dataset or folder, in place of the folder's own tokenizer. task_key: the
    checkpoint's, if it has one. facts: more facts for its manifest; `turn_end` is how its chat template ends a turn.
    check: "auto" compares logits with transformers where that is possible and says why it is not, "on" insists, "off"
    does not. say: takes a line of progress.

    One piece of one tensor is in memory at a time; the comparison runs in a process of its own. `ConfigError` for a
    config or folder that is not supported, `DataError` for missing, unexpected or misshapen tensors and for logits
    that differ: all by name, and nothing is left behind. The same content there already is success, and with the same
    `task_key` nothing is even read.
    """
    began = time.monotonic()
    standing = commit.find_existing(out, task_key, "checkpoint")
    if standing is not None:
        say(f"{out} is already there")
        return standing
    path = local(source)
    adapters = read_adapters(path, base and local(base)) if is_adapters(path) else None
    folder = Folder(path) if adapters is None else AdaptedFolder(adapters)
    config = os.path.join(folder.path, CONFIG)
    family = registry.of_config(folder.config, config)
    model = family.model(folder.config, config)
    plan = planned(folder, family, model)
    words = tokenizer.chosen(folder, tokenizer_from, model, say, TurnEnd.of(facts or {}))
    if model.head == "scalar" and folder.config.get(padding.PAD) in padding.ends_of(folder.config):
        say("pad_token_id is an end token: transformers reads scores before it, the engine at it")
    say(f"{family.name}: {sum(_numel(stack) for stack, _ in plan.dtypes):,} parameters, {_types(plan)}")
    attempt = commit.begin_attempt(out, (checkpoint.WEIGHTS,))
    try:
        here = local(commit.attempt_path(out, attempt))
        stream.write(os.path.join(here, checkpoint.WEIGHTS), plan.dtypes, plan.make)
        compared = checks.compare(folder.path, here, model, check, folder.numel(), adapters=adapters)
        say(compared.line)
    except BaseException:
        with suppress(QuiverError, OSError):
            commit.discard_attempt(out, attempt)
        raise
    claims = {
        "task_key": task_key,
        "op": {"name": "adopt", "version": VERSION, "params": {"family": family.name}},
        "parents": words.parents,
        "seed": 0,
        "facts": {**(facts or {}), "tokenizer": words.identity, "family": family.name, "check": compared.fact},
        "runtime_info": {"source": path, "check": compared.figures, "seconds": round(time.monotonic() - began, 3)},
    }
    texts = {checkpoint.MODEL: canonical(model), **words.files}
    return checkpoint.Draft(out, attempt, (), texts, model, claims).publish()


@dataclass(frozen=True)
class Plan:
    """How every tensor of a network is made from a folder's; `dtypes` in the order of writing."""

    folder: Folder
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


def planned(folder: Folder, family: Family, model: ModelConfig) -> Plan:
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
                    faults.miss(name, folder.path)
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
    faults.finish(folder.path)
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

    def miss(self, name: str, path: str) -> None:
        """A tensor that is not there; with too many of them the rest is not looked for."""
        self.missing.append(name)
        if len(self.missing) >= _ENOUGH:
            self.finish(path)

    def see_types(self, name: str, kinds: set[str], sources: set[str]) -> None:
        """Those of one network's tensor, made of tensors that lie at `sources`."""
        if kinds - DTYPES.keys() or len(kinds) > 1:
            self.sources |= sources
        if kinds - DTYPES.keys():
            self.types.append(f"{name} would be of type {', '.join(sorted(kinds))} ({', '.join(DTYPES)} are read)")
        elif len(kinds) > 1:
            self.types.append(f"{name} would be of types {' and '.join(sorted(kinds))} at once")

    def finish(self, path: str) -> None:
        faults = [f"missing: {listed(self.missing)}"] if self.missing else []
        faults += [f"unexpected: {listed(self.unexpected)}"] if self.unexpected else []
        wrong = [f"{name} {list(shape)}, not {list(expected)}" for name, (expected, shape) in self.shapes.items()]
        faults += [f"wrong shape: {'; '.join(wrong[:40])}"] if wrong else []
        faults += [f"wrong type: {'; '.join(self.types[:40])}"] if self.types else []
        if faults:
            raise DataError(
                "wrong-tensors",
                "the folder's tensors are not those of the model that its config.json describes",
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


def _check_tied(folder: Folder, embedding: str) -> None:
    if torch.equal(folder.read(_HEAD), folder.read(embedding)):
        return
    raise DataError(
        "not-tied",
        f"config.json ties the embeddings, yet {_HEAD} and {embedding} differ",
        where=shown(folder.path),
        kept="nothing was written",
        next='set "tie_word_embeddings": false in config.json if the head is one of its own',
    )


def _numel(stack: Stack) -> int:
    count = 1
    for size in stack.size:
        count *= size
    return count


def _types(plan: Plan) -> str:
    return ", ".join(sorted({str(dtype).removeprefix("torch.") for _, dtype in plan.dtypes}))
