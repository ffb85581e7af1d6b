"""A checkpoint becomes a Hugging Face folder, as transformers and vLLM read it: config, safetensors, tokenizer."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from schemas.card import model_card
from schemas.chat_template import ChatTemplate
from schemas.end_tokens import EndTokens, TurnEnd, end_tokens
from schemas.errors import DataError, IntegrityError, QuiverError, counted
from schemas.manifest import Manifest
from schemas.store import commit
from schemas.store.ownfiles import replace_file
from schemas.store.storage import guarded
from schemas.tokenizer import parsed
from trainers.architecture import ModelConfig
from trainers.engine.checkpoint import checkpoint
from trainers.engine.checkpoint.checkpoint import Checkpoint
from trainers.engine.checkpoint.stored import Stored
from trainers.engine.megatron import lora_base
from trainers.engine.weights import check as checks
from trainers.engine.weights import padding, registry, tokenizer
from trainers.engine.weights.check import Check
from trainers.engine.weights.family import Family
from trainers.engine.weights.folder import CONFIG, INDEX, SINGLE, as_text
from trainers.engine.weights.local_paths import local
from trainers.engine.weights.tensorfile import TensorWriter
from trainers.reward_scale import FACT as SCALE
from trainers.reward_scale import recorded_scale
from trainers.tensors import Index, Stack

VERSION = 2
Dtype = Literal["keep", "fp32", "bf16", "fp16"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Types that weights can be written in."""


def export(
    source: str,
    out: str,
    *,
    family: str | None = None,
    dtype: Dtype = "keep",
    max_shard_bytes: int = 5_000_000_000,
    tokenizer_from: str | None = None,
    task_key: str = "",
    check: Check = "auto",
    say: Callable[[str], None] = print,
) -> Manifest:
    """Write the checkpoint `source` as the Hugging Face folder `out`; its manifest (`_manifest.json`, kind "export").

    family: whose architecture it takes (default: the one it was imported as, or the first that computes the same).
    dtype: "keep" writes every number as it is. max_shard_bytes: of one safetensors file, at least one tensor each.
    tokenizer_from: a tokenizer dataset or folder, in place of the checkpoint's own. task_key: the folder's. check: as
    in `import_hf`. say: takes a line of progress.

    `ConfigError` says by name what no architecture computes. One piece of one tensor is in memory at a time, and
    nothing is left behind by a failure. The same content there already is success, and with the same `task_key` nothing
    is even read.
    """
    began = time.monotonic()
    if standing := commit.find_existing(out, task_key, "export"):
        say(f"{out} is already there")
        return standing
    made = checkpoint.open_checkpoint(source)
    lora_base.check_whole(made.adapters, source)
    plan = _planned(made, _family(made, family), dtype)
    words = tokenizer.of_checkpoint(made) if tokenizer_from is None else tokenizer.at(tokenizer_from)
    if not words.files:
        say("the checkpoint has no tokenizer: the folder gets none")
    attempt = commit.begin_attempt(out)
    try:
        here = local(commit.attempt_path(out, attempt))
        with guarded("write", here):
            files = _write_weights(plan, here, max_shard_bytes)
            for name, text in _texts(plan, words.files, made, say).items():
                _put(here, name, text)
        say(f"{plan.family.name}: {counted(len(plan.slots), 'tensor')} in {counted(files, 'file')}")
        compared = _compared(plan, here, made.folder, check, dtype)
        say(compared.line)
        params = {"family": plan.family.name, "dtype": dtype, "max_shard_bytes": max_shard_bytes}
        manifest = Manifest(
            kind="export",
            task_key=task_key,
            op={"name": "export", "version": VERSION, "params": params},
            parents=(made.as_parent("checkpoint"), *words.parents),
            files=commit.hash_files(out, attempt),
            facts={**words.facts, **_scale(made), "weights_digest": made.weights_digest, "check": dict(compared.fact)},
            runtime_info={"check": dict(compared.figures), "seconds": round(time.monotonic() - began, 3)},
        )
        published = commit.publish_folder(out, attempt, manifest)
    except BaseException:
        with suppress(QuiverError, OSError):
            commit.discard_attempt(out, attempt)
        raise
    _write_card(out, published)
    return published


def _write_card(out: str, published: Manifest) -> None:
    """Leave README.md beside what was published, and not in its manifest: what it says of ancestors hangs on which of
    them are still there.
    """
    name = os.path.basename(out.rstrip("/"))
    replace_file(Path(out, "README.md"), model_card(name, published, out, {"library_name": "transformers"}))


@dataclass(frozen=True)
class Slot:
    """One tensor to write: part `number` of the piece of `stack` at `index`."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    stack: Stack
    index: Index
    number: int

    @property
    def numel(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes the tensor takes in the file."""
        return self.numel * self.dtype.itemsize

    @property
    def order(self) -> tuple[float, ...]:
        """Wide types first, so that every tensor lies on a multiple of its type; then embeddings, layers, the rest."""
        first = -1.0 if self.stack.name.startswith("embedding") else math.inf
        return (-self.dtype.itemsize, self.index[0] if self.index else first)


@dataclass(frozen=True)
class Plan:
    """What is written, in order, out of which checkpoint, as whose architecture."""

    stored: Stored
    family: Family
    model: ModelConfig
    slots: list[Slot]

    def tensors(self) -> Iterator[tuple[Slot, Tensor]]:
        """Every slot with its tensor; a piece is read once for all parts of it."""
        spelt = {stack.name: spellings[0] for stack, spellings in self.family.table(self.model)}
        for (name, index), slots in itertools.groupby(self.slots, key=lambda slot: (slot.stack.name, slot.index)):
            parts = spelt[name].transform.split(self.stored.read(name, index), self.model)
            for slot in slots:
                yield slot, _cast(parts[slot.number], slot)


def _compared(plan: Plan, here: str, place: str, check: Check, dtype: Dtype) -> checks.CheckResult:
    numel = sum(slot.numel for slot in plan.slots)
    rounded = str(DTYPES[dtype]).removeprefix("torch.") if dtype in DTYPES else None
    return checks.compare(here, place, plan.model, check, numel, scores=True, rounded=rounded)


def _family(made: Checkpoint, wish: str | None) -> Family:
    """The one that was asked for, or the one it was imported as if it still fits, or the first that fits."""
    name = str(made.manifest.facts.get("family", ""))
    if wish is None and name in registry.FAMILIES and not registry.FAMILIES[name].faults(made.model):
        return registry.FAMILIES[name]
    return registry.of_model(made.model, wish)


def _planned(made: Checkpoint, family: Family, dtype: Dtype) -> Plan:
    stored, model = Stored(os.path.join(made.folder, checkpoint.WEIGHTS)), made.model
    slots, names = [], set()
    for stack, spellings in family.table(model):
        if stack.name not in stored.tensors:
            raise _lacks(f"{stack.name} is missing")
        names.add(stack.name)
        target = DTYPES.get(dtype) or stored.dtype(stack.name)
        for index in stack.indices():
            for number, part in enumerate(spellings[0].parts(stack, index, model)):
                slots.append(Slot(part.name, target, part.shape, stack, index, number))
    if rest := sorted(stored.tensors.keys() - names):
        raise _lacks(f"{', '.join(rest)} belong to no network of this shape")
    return Plan(stored, family, model, sorted(slots, key=lambda slot: slot.order))


def _lacks(reason: str) -> IntegrityError:
    return IntegrityError(
        "wrong-tensors",
        "the checkpoint's tensors are not those of its model.json",
        found=reason,
        kept="nothing was written",
    )


def _cast(tensor: Tensor, slot: Slot) -> Tensor:
    cast = tensor.to(slot.dtype)
    if slot.dtype is torch.float16 and tensor.dtype is not torch.float16 and not torch.isfinite(cast).all():
        raise DataError("too-large", f"{slot.name} holds numbers beyond fp16", kept="nothing was written")
    return cast


def _write_weights(plan: Plan, here: str, most: int) -> int:
    """Write the shards, and their index if there is more than one; how many they are."""
    shards: list[list[Slot]] = [[]]
    for slot in plan.slots:
        if shards[-1] and sum(one.bytes for one in shards[-1]) + slot.bytes > most:
            shards.append([])
        shards[-1].append(slot)
    total = len(shards)
    names = [SINGLE] if total == 1 else [f"model-{n + 1:05d}-of-{total:05d}.safetensors" for n in range(total)]
    tensors = plan.tensors()
    for name, shard in zip(names, shards, strict=True):
        with TensorWriter(os.path.join(here, name), [(s.name, s.dtype, s.shape) for s in shard]) as writer:
            for _ in shard:
                slot, tensor = next(tensors)
                writer.write(slot.name, tensor)
    if total > 1:
        size = sum(slot.bytes for slot in plan.slots)
        weight_map = {slot.name: name for name, shard in zip(names, shards, strict=True) for slot in shard}
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        _put(here, INDEX, json.dumps(index, indent=2) + "\n")
    return total


def _texts(plan: Plan, words: Mapping[str, str], made: Checkpoint, say: Callable[[str], None]) -> dict[str, str]:
    """The text files of the folder by name; `say` takes what has to be known of them."""
    config = plan.family.config(plan.model)
    widest = max(plan.slots, key=lambda slot: slot.numel).dtype
    config["torch_dtype"] = str(widest).removeprefix("torch.")
    if tokenizer.TOKENS in words:
        config |= tokenizer.ids(words, plan.family.name)
        generation = json.loads(words.get(tokenizer.GENERATION, "{}"))
        config |= {name: generation[name] for name in tokenizer.IDS if generation.get(name) is not None}
        ends = _ends(words, made, say)
        config = tokenizer.with_ends(config, ends)
        words = {**words, tokenizer.GENERATION: as_text(tokenizer.with_ends(generation, ends))}
        if plan.model.head == "scalar":
            words = _padded(config, words, plan.model, say)
    config |= _scale(made)
    config_text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    return {CONFIG: config_text, **tokenizer.exported(words, made.folder, ChatTemplate.of(made.manifest.facts))}


def _scale(made: Checkpoint) -> dict[str, Any]:
    """Mean and spread of a reward model's numbers, where its checkpoint carries them."""
    return {SCALE: made.manifest.facts[SCALE]} if recorded_scale(made.manifest.facts.get(SCALE)) else {}


def _ends(words: Mapping[str, str], made: Checkpoint, say: Callable[[str], None]) -> EndTokens:
    """What ends an answer of the checkpoint when it speaks the tokenizer in the files `words`."""
    own = tokenizer.opened(words[tokenizer.TOKENS], made.folder)
    taught = TurnEnd.of(made.manifest.facts)
    ends = end_tokens(words, own.token_to_id, made.model.vocab_size, taught, made.folder)
    if line := ends.differences(own.id_to_token):
        say(line)
    if ends.texts:
        texts = json.dumps(list(ends.texts))
        say(f"answers end at texts, too, which generation_config.json cannot say: generate(stop_strings={texts}, ...)")
    return ends


def _padded(
    config: dict[str, Any], words: Mapping[str, str], model: ModelConfig, say: Callable[[str], None]
) -> dict[str, str]:
    """The tokenizer's files of a reward model, with the token that fills batches named in them and in `config`."""
    generation = parsed(words.get(tokenizer.GENERATION), tokenizer.GENERATION)
    ends = padding.ends_of(config, generation, tokenizer.ids(words, tokenizer.TOKENS))
    pad = padding.chosen(words, generation.get(padding.PAD), ends, model)
    if pad.note is not None:
        say(pad.note)
    config[padding.PAD] = generation[padding.PAD] = pad.number
    files = {**pad.files, tokenizer.GENERATION: as_text(generation)}
    if model.position == "learned":  # transformers counts positions from the left edge, padding included
        files[tokenizer.SETTINGS] = as_text({**parsed(files[tokenizer.SETTINGS], CONFIG), "padding_side": "right"})
    return files


def _put(folder: str, name: str, text: str) -> None:
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        file.write(text)
