"""Checkpoints: a folder that any layout can load, complete or not there at all.

    weights/      the network, as a Megatron distributed checkpoint (resharding is its business)
    optimizer/    the optimizer's state, where it was handed in
    model.json    the architecture;  train_state.json: where training stood
    lora.json     where `weights/` holds adapters alone: what they are, and the digest of their base
    tokenizer.json, tokenizer_config.json    what text the ids stand for
    _manifest.json    published last (schemas.store.commit); names every file with its SHA-256

`weights_digest` in the manifest's facts identifies the weights alone: SHA-256 over the sorted tensors' names,
types, shapes and bytes, vocabulary padding left out, so it is the same at every layout; that of adapters
covers `lora.json`, and so their base, too. Nothing in a checkpoint is unpickled before `safe_unpickle` has read it
with an unpickler that knows the classes of an index and no others.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.validation import StrictHandling

from schemas import settings
from schemas.canonical import canonical, plain
from schemas.errors import ConfigError, IntegrityError, QuiverError
from schemas.manifest import File, Manifest, Parent
from schemas.store import commit
from schemas.store.local import LocalStore
from schemas.store.opening import open_store
from schemas.store.storage import guarded, shown
from schemas.tokenizer import files_identity
from trainers.architecture import ModelConfig, shape_faults
from trainers.config import Lora
from trainers.engine.checkpoint import checkpoint_writer, optimizer_state, safe_unpickle
from trainers.engine.checkpoint.stored import Stored
from trainers.engine.megatron import lora as adapting
from trainers.engine.megatron import lora_base
from trainers.engine.megatron.lora_base import BASE, LORA
from trainers.engine.megatron.model import Network, build
from trainers.engine.megatron.parallel import Layout, is_rank_zero, on_rank_zero
from trainers.engine.megatron.quiet import quiet
from trainers.engine.megatron.specs import Implementation

WEIGHTS, OPTIMIZER, MODEL, TRAIN_STATE = "weights", "optimizer", "model.json", "train_state.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
Verify = Literal["full", "size", "off"]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its local folder, its manifest and its architecture."""

    folder: str
    manifest: Manifest
    model: ModelConfig

    @property
    def weights_digest(self) -> str:
        """SHA-256 in hex of the weights alone."""
        return str(self.manifest.facts["weights_digest"])

    def as_parent(self, name: str) -> Parent:
        """This checkpoint as an input of something else, called `name` there."""
        return Parent(name, self.folder, self.manifest.content_digest, self.manifest.task_key)

    @property
    def adapters(self) -> lora_base.Adapters | None:
        """What adapters it holds; None where it holds a whole network."""
        text = self.text(LORA)
        return None if text is None else lora_base.parse(text, os.path.join(self.folder, LORA))

    @property
    def has_optimizer(self) -> bool:
        """Whether it holds the state of an optimizer, too."""
        return any(file.path.startswith(f"{OPTIMIZER}/") for file in self.manifest.files)

    def text(self, name: str) -> str | None:
        """One of its text files, or None where it has none of that name."""
        if not any(file.path == name for file in self.manifest.files):
            return None
        with safe_unpickle.reading(path := os.path.join(self.folder, name)), open(path, encoding="utf-8") as file:
            return file.read()

    def train_state(self) -> dict[str, Any]:
        """Where training stood; empty for weights alone."""
        with safe_unpickle.reading(os.path.join(self.folder, TRAIN_STATE)):
            state = json.loads(self.text(TRAIN_STATE) or "{}")
            if not isinstance(state, dict):
                raise TypeError(f"{type(state).__name__}, not an object")
            return state

    def tokenizer_files(self) -> dict[str, str]:
        """Its tokenizer files by name, to hand on to the next checkpoint."""
        return {name: text for name in TOKENIZER if (text := self.text(name)) is not None}


@dataclass(frozen=True)
class Draft:
    """A checkpoint that is planned, its tensors held, and nothing of it published yet."""

    folder: str
    attempt: str
    parts: tuple[checkpoint_writer.Part, ...]
    texts: Mapping[str, str]
    model: ModelConfig
    claims: Mapping[str, Any]

    def publish(self, group: Any = None) -> Manifest:
        """Write and publish it; the manifest that stands there. Outside the main thread with a `group` of that thread's
        own.
        """
        try:
            checkpoint_writer.write(self.parts, group)
            return on_rank_zero(self._publish, group)
        except BaseException:
            if is_rank_zero():
                with suppress(QuiverError, OSError):
                    commit.discard_attempt(self.folder, self.attempt)
            raise

    def _publish(self) -> Manifest:
        path = _local(commit.attempt_path(self.folder, self.attempt))
        for name, text in self.texts.items():
            with guarded("write", path), open(os.path.join(path, name), "w", encoding="utf-8") as file:
                file.write(text)
        of_weights = weights_digest(os.path.join(path, WEIGHTS), self.model, self.texts.get(LORA, ""))
        speaks = {"tokenizer": files_identity(self.texts)} if TOKENIZER[0] in self.texts else {}
        claims = {**self.claims, "facts": {**self.claims["facts"], **speaks, "weights_digest": of_weights}}
        manifest = Manifest(kind="checkpoint", files=commit.hash_files(self.folder, self.attempt), **claims)
        return commit.publish_folder(self.folder, self.attempt, manifest)


def save(folder: str, **contents: Any) -> Manifest:
    """Write and publish a checkpoint of these `contents` (see `draft`); the manifest that stands there.

    The same content there already is success, other content is `ConflictError`.
    """
    return draft(folder, **contents).publish()


def draft(
    folder: str,
    *,
    model: torch.nn.Module,
    optimizer: Any = None,
    train_state: Mapping[str, Any] | None = None,
    tokenizer_files: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    task_key: str = "",
    op: Mapping[str, Any] | None = None,
    parents: tuple[Parent, ...] = (),
    seed: int = 0,
    runtime_info: Mapping[str, Any] | None = None,
    copy: bool = False,
) -> Draft:
    """A checkpoint to `publish`; with `copy` of the tensors as they are now, whatever becomes of them meanwhile.

    model: a Network, wrapped or not. train_state: plain JSON. tokenizer_files: by name; their identity is
    the fact `tokenizer`.
    """
    network = _bare(model)
    tensors = {WEIGHTS: _tensors(network)}
    if optimizer is not None:
        tensors[OPTIMIZER] = optimizer_state.to_save(optimizer, tensors[WEIGHTS])
    attempt = on_rank_zero(lambda: commit.begin_attempt(folder, tensors))
    path = _local(commit.attempt_path(folder, attempt))
    texts = {MODEL: canonical(network.architecture), **(tokenizer_files or {})}
    if train_state is not None:
        texts[TRAIN_STATE] = canonical(train_state)
    claims: dict[str, Any] = {"task_key": task_key, "op": dict(op or {}), "parents": parents, "seed": seed}
    claims |= {"facts": dict(facts or {}), "runtime_info": dict(runtime_info or {})}
    if (adaptation := adapting.of(network)) is not None:
        texts[LORA] = canonical(lora_base.Adapters(lora=adaptation.lora, base=adaptation.base))
        claims["parents"] = (*parents, adaptation.parent)
        claims["runtime_info"][BASE] = os.path.relpath(adaptation.parent.url, _local(folder))
    try:
        with guarded("write", path):
            parts = tuple(
                checkpoint_writer.plan(part, os.path.join(path, name), copy=copy) for name, part in tensors.items()
            )
    except BaseException:
        if is_rank_zero():
            with suppress(QuiverError, OSError):
                commit.discard_attempt(folder, attempt)
        raise
    return Draft(folder, attempt, parts, texts, network.architecture, claims)


def open_checkpoint(folder: str, verify: Verify = "full", parts: Iterable[str] = (WEIGHTS,)) -> Checkpoint:
    """The complete checkpoint in `folder`, with its loose files and `parts` verified; else `IntegrityError`.

    verify: full reads every file once and compares its SHA-256, size compares sizes, off trusts the manifest.
    """
    path, manifest = _local(folder), commit.read_manifest(folder)
    if manifest is None or manifest.kind != "checkpoint":
        there = os.path.isdir(path)
        raise IntegrityError(
            "checkpoint-incomplete",
            f"{shown(folder)} is not a complete checkpoint" if there else f"there is no folder {shown(folder)}",
            expected="a manifest of a checkpoint",
            found="no manifest" if manifest is None else f"a {manifest.kind}",
            where=shown(folder),
            kept="everything; nothing was changed",
            next="run the training again; it goes on from its last complete checkpoint" if there else "quiver ls",
        )
    files = [file for file in manifest.files if "/" not in file.path or file.path.split("/")[0] in parts]
    on_rank_zero(functools.partial(_verify_all, path, files, verify))
    with safe_unpickle.reading(where := os.path.join(path, MODEL)):
        with open(where, encoding="utf-8") as file:
            model = settings.parse(ModelConfig, json.load(file), where=where)
        if faults := shape_faults(model):
            raise ValueError("; ".join(faults))
    return Checkpoint(path, manifest, model)


def base_of(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself, or the base of its adapters; `IntegrityError` when that is gone or changed."""
    adapters = checkpoint.adapters
    if adapters is None:
        return checkpoint
    return open_checkpoint(lora_base.place_of(adapters, checkpoint.folder, checkpoint.manifest))


def load_model(
    checkpoint: str | Checkpoint,
    layout: Layout,
    *,
    model: ModelConfig | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    seed: int = 0,
    implementation: Implementation = "auto",
    inference: bool = False,
    lora: Lora | None = None,
    **overrides: Any,
) -> Network:
    """The checkpoint's network, cut for `layout`; adapters in it are folded into the weights of their base.

    model: what to build instead; it may differ in its head (which then starts fresh from `seed`), in
    `max_sequence_length` (rope only) and in nothing else. lora: leave the weights frozen and train adapters, those in
    the checkpoint or new ones from `seed`.
    """
    source = open_checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
    target, base, adapters = model or source.model, base_of(source), source.adapters
    kind = (target.head, target.head_size)
    own, heads = kind == (source.model.head, source.model.head_size), (base.model.head, base.model.head_size)
    _same_trunk(source, target)
    _same_trunk(base, target)
    fresh = not own and kind != heads
    options = {"precision": precision, "implementation": implementation, "inference": inference, **overrides}
    network = build(target, layout, seed=seed if fresh else None, **options)
    load_weights(network, base, head=kind == heads)
    settled = lora if adapters is None else lora or adapters.lora
    if settled is None:
        return network
    if adapters is not None:
        lora_base.check_same(settled, adapters, source.folder)
    parent = Parent(BASE, base.folder, base.manifest.content_digest, base.manifest.task_key)
    adapting.attach(network, settled, base=base.weights_digest, parent=parent, seed=seed)
    if adapters is not None:
        load_weights(network, source, head=own)
        if lora is None:
            adapting.fold(network)
    return network


def load_weights(model: torch.nn.Module, checkpoint: Checkpoint, *, head: bool = True) -> None:
    """Fill a network's weights from a checkpoint; `head=False` leaves the output layer as it is."""
    network, folder = _bare(model), os.path.join(checkpoint.folder, WEIGHTS)
    tensors = {name: part for name, part in _tensors(network).items() if head or name != "output_layer.weight"}
    loaded = _read({"model": tensors}, folder)["model"]
    missing = network.load_state_dict(loaded, strict=False).missing_keys
    whole = adapting.of(network) is None
    lost = [name for name in missing if not name.endswith("_extra_state") and (head or name != "output_layer.weight")]
    lost = [name for name in lost if whole or ".lora." in name]
    assert not lost, f"{folder}: not loaded {lost}"


def load_optimizer(checkpoint: str | Checkpoint, *, model: torch.nn.Module, optimizer: Any) -> None:
    """Fill the optimizer's state; the network's weights must be loaded already."""
    source = open_checkpoint(checkpoint, parts=(OPTIMIZER,)) if isinstance(checkpoint, str) else checkpoint
    folder = os.path.join(source.folder, OPTIMIZER)
    if not os.path.isdir(folder):
        raise ConfigError(
            "no-optimizer-state",
            f"{shown(source.folder)} holds weights alone",
            expected="a checkpoint saved during training",
            where=shown(source.folder),
            next="start a new run from it (init) instead of resuming",
        )
    optimizer_state.load(optimizer, _tensors(_bare(model)), functools.partial(_read, folder=folder))


def weights_digest(folder: str, model: ModelConfig, lora: str = "") -> str:
    """SHA-256 in hex of the weights in the distributed checkpoint `folder`; reads one piece at a time.

    lora: the text of `lora.json` beside adapters.
    """
    stored, total = Stored(folder), hashlib.sha256(lora.encode())
    for name in stored.tensors:
        over_vocab = name == "embedding.word_embeddings.weight"
        over_vocab |= name == "output_layer.weight" and model.head == "lm"
        size = list(stored.size(name))
        if over_vocab:
            size[0] = model.vocab_size
        total.update(json.dumps([name, str(stored.dtype(name)), size]).encode())
        for index in itertools.product(*map(range, size[:-2])):
            piece = stored.read(name, index)
            piece = piece[: model.vocab_size] if over_vocab else piece
            total.update(piece.contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _bare(model: torch.nn.Module) -> Network:
    while not isinstance(model, Network):
        model = cast(torch.nn.Module, model.module)
    return model


def _tensors(network: Network) -> dict[str, Any]:
    """The network's weights as Megatron saves them, without Transformer Engine's loose objects (empty outside
    FP8); of a network with adapters those alone.
    """
    if adapting.of(network) is not None:
        return adapting.tensors(network)
    parts = network.sharded_state_dict(metadata=optimizer_state.metadata())
    return {name: part for name, part in parts.items() if not name.endswith("_extra_state")}


def _read(request: dict[str, Any], folder: str) -> dict[str, Any]:
    on_rank_zero(lambda: safe_unpickle.vet(folder) and None)
    with safe_unpickle.reading(folder), quiet():
        return cast(dict[str, Any], dist_checkpointing.load(request, folder, strict=StrictHandling.LOG_UNEXPECTED))


def _same_trunk(source: Checkpoint, target: ModelConfig) -> None:
    free = {"head", "head_size"} | ({"max_sequence_length"} if target.position == "rope" else set())
    if target.head == "scalar":
        free.add("tie_embeddings")
    have, want = plain(source.model), plain(target)
    unlike = [f"{name} {have[name]} -> {want[name]}" for name in have if name not in free and have[name] != want[name]]
    if unlike:
        raise ConfigError(
            "other-model",
            "the checkpoint is of another network",
            found=", ".join(unlike),
            where=shown(source.folder),
        )


def _verify_all(root: str, files: Iterable[File], verify: Verify) -> None:
    for file in files:
        _verify(root, file, verify)


def _verify(root: str, file: File, verify: Verify) -> None:
    path = os.path.join(root, file.path)
    size = os.path.getsize(path) if os.path.isfile(path) else None
    actual = "no file" if size is None else f"{size} bytes"
    if size == file.bytes and verify == "full":
        actual = f"sha256 {_sha256(path)}"
    elif size == file.bytes:
        return
    if verify != "off" and actual != f"sha256 {file.sha256}":
        raise IntegrityError(
            "checkpoint-damaged",
            f"{file.path} is not the file that was published",
            expected=f"{file.bytes} bytes, sha256 {file.sha256}",
            found=actual,
            where=path,
            kept="everything; nothing was changed",
            next="copy the checkpoint again, or train again",
        )


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _local(url: str) -> str:
    store, root = open_store(url)
    if not isinstance(store, LocalStore):
        raise ConfigError(
            "checkpoint-not-local",
            f"{shown(url)} is not on a file system",
            expected="a folder that all ranks can write",
        )
    return root
