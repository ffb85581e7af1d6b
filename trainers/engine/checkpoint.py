"""Checkpoints: a folder that any layout can load, complete or not there at all.

    weights/      the network, as a Megatron distributed checkpoint (resharding is its business)
    optimizer/    the optimizer's state, where it was handed in
    model.json    the architecture;  train_state.json: where training stood
    tokenizer.json, tokenizer_config.json    what text the ids stand for
    _manifest.json    published last (schemas.commit); names every file with its SHA-256

`weights_digest` in the manifest's facts identifies the weights alone: SHA-256 over the sorted tensors' names,
types, shapes and bytes, vocabulary padding left out, so it is the same at every layout. Nothing in a
checkpoint is unpickled before `vetting` has read it with a restricted reader. Every function here is called
by all ranks together.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import queue
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.dist_checkpointing.validation import StrictHandling
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from schemas import commit, settings
from schemas.errors import ConfigError, IntegrityError, QuiverError
from schemas.localstore import LocalStore
from schemas.manifest import File, Manifest, Parent
from schemas.storage import open_store, shown
from trainers.config import Model
from trainers.engine import moments, vetting
from trainers.engine.model import Network, build
from trainers.engine.parallel import Layout
from trainers.engine.quiet import quiet
from trainers.engine.specs import Implementation

T = TypeVar("T")

WEIGHTS, OPTIMIZER, MODEL, TRAIN_STATE = "weights", "optimizer", "model.json", "train_state.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
Verify = Literal["full", "size", "off"]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its local folder, its manifest and its architecture."""

    folder: str
    manifest: Manifest
    model: Model

    @property
    def weights_digest(self) -> str:
        """SHA-256 in hex of the weights alone."""
        return str(self.manifest.facts["weights_digest"])

    def text(self, name: str) -> str | None:
        """One of its text files, or None where it has none of that name."""
        if not any(file.path == name for file in self.manifest.files):
            return None
        with open(os.path.join(self.folder, name), encoding="utf-8") as file:
            return file.read()

    def train_state(self) -> dict[str, Any]:
        """Where training stood; empty for weights alone."""
        return cast(dict[str, Any], json.loads(self.text(TRAIN_STATE) or "{}"))

    def vocabulary(self) -> dict[str, str]:
        """Its tokenizer files by name, to hand on to the next checkpoint."""
        return {name: text for name in TOKENIZER if (text := self.text(name)) is not None}


def save(
    folder: str,
    *,
    model: torch.nn.Module,
    optimizer: Any = None,
    train_state: Mapping[str, Any] | None = None,
    vocabulary: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    key: str = "",
    op: Mapping[str, Any] | None = None,
    parents: tuple[Parent, ...] = (),
    seed: int = 0,
    circumstance: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write and publish a checkpoint; the manifest that stands there.

    model: a Network, wrapped or not. train_state: plain JSON. vocabulary: tokenizer files by name. The same
    content there already is success, other content is `ConflictError`.
    """
    network = _bare(model)
    parts = [WEIGHTS] if optimizer is None else [WEIGHTS, OPTIMIZER]
    attempt = _together(lambda: commit.begin_attempt(folder, parts))
    path = _local(commit.attempt_path(folder, attempt))
    try:
        _write(_tensors(network), os.path.join(path, WEIGHTS))
        if optimizer is not None:
            _write(moments.to_save(optimizer, _tensors(network)), os.path.join(path, OPTIMIZER))

        def publish() -> Manifest:
            texts = {MODEL: settings.canonical(network.architecture), **(vocabulary or {})}
            if train_state is not None:
                texts[TRAIN_STATE] = settings.canonical(train_state)
            for name, text in texts.items():
                with open(os.path.join(path, name), "w", encoding="utf-8") as file:
                    file.write(text)
            for part in parts:
                vetting.normalise(os.path.join(path, part))
            digest = weights_digest(os.path.join(path, WEIGHTS), network.architecture)
            manifest = Manifest(
                kind="checkpoint",
                key=key,
                op=dict(op or {}),
                parents=parents,
                seed=seed,
                files=commit.hash_files(folder, attempt),
                facts={**(facts or {}), "weights_digest": digest},
                circumstance=dict(circumstance or {}),
            )
            return commit.publish_folder(folder, attempt, manifest)

        return _together(publish)
    except BaseException:
        if _first():
            commit.discard_attempt(folder, attempt)
        raise


def open_checkpoint(folder: str, verify: Verify = "full", parts: Iterable[str] = (WEIGHTS,)) -> Checkpoint:
    """The complete checkpoint in `folder`, with its loose files and `parts` verified; else `IntegrityError`.

    verify: full reads every file once and compares its SHA-256, size compares sizes, off trusts the manifest.
    """
    path, manifest = _local(folder), commit.read_manifest(folder)
    if manifest is None or manifest.kind != "checkpoint":
        raise IntegrityError(
            "checkpoint-incomplete",
            f"{shown(folder)} is not a complete checkpoint",
            expected="a manifest of a checkpoint",
            found="no manifest" if manifest is None else f"a {manifest.kind}",
            where=shown(folder),
            kept="everything; nothing was changed",
            next="run the training again; it goes on from its last complete checkpoint",
        )
    wanted = [file for file in manifest.files if "/" not in file.path or file.path.split("/")[0] in parts]
    _together(functools.partial(_verify_all, path, wanted, verify))
    with open(os.path.join(path, MODEL), encoding="utf-8") as file:
        model = settings.parse(Model, json.load(file), where=file.name)
    return Checkpoint(path, manifest, model)


def load_model(
    checkpoint: str | Checkpoint,
    layout: Layout,
    *,
    model: Model | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    seed: int = 0,
    implementation: Implementation = "auto",
    inference: bool = False,
    **overrides: Any,
) -> Network:
    """The checkpoint's network, cut for `layout`.

    model: what to build instead; it may differ in its head (which then starts fresh from `seed`), in
    `max_sequence_length` (rope only) and in nothing else.
    """
    source = open_checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
    wanted = model or source.model
    fresh_head = (wanted.head, wanted.head_size) != (source.model.head, source.model.head_size)
    _same_trunk(source, wanted)
    options = {"precision": precision, "implementation": implementation, "inference": inference, **overrides}
    network = build(wanted, layout, seed=seed if fresh_head else None, **options)
    load_weights(network, source, head=not fresh_head)
    return network


def load_weights(model: torch.nn.Module, checkpoint: Checkpoint, *, head: bool = True) -> None:
    """Fill a network's weights from a checkpoint; `head=False` leaves the output layer as it is."""
    network, folder = _bare(model), os.path.join(checkpoint.folder, WEIGHTS)
    tensors = {name: part for name, part in _tensors(network).items() if head or name != "output_layer.weight"}
    loaded = _read({"model": tensors}, folder)["model"]
    missing = network.load_state_dict(loaded, strict=False).missing_keys
    lost = [name for name in missing if not name.endswith("_extra_state") and (head or name != "output_layer.weight")]
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
    moments.load(optimizer, _tensors(_bare(model)), functools.partial(_read, folder=folder))


def weights_digest(folder: str, model: Model) -> str:
    """SHA-256 in hex of the weights in the distributed checkpoint `folder`; reads one tensor at a time."""
    index, total = vetting.read_index(folder), hashlib.sha256()
    reader = dcp.FileSystemReader(folder)
    for name in sorted(index.state_dict_metadata):
        entry = index.state_dict_metadata[name]
        if not isinstance(entry, TensorStorageMetadata):
            continue
        tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
        with quiet():
            dcp.load({name: tensor}, storage_reader=reader, no_dist=True)
        if name == "embedding.word_embeddings.weight" or (name == "output_layer.weight" and model.head == "lm"):
            tensor = tensor[: model.vocab_size]
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(memoryview(tensor.contiguous().view(torch.uint8).numpy().data))
    return total.hexdigest()


def _bare(model: torch.nn.Module) -> Network:
    while not isinstance(model, Network):
        model = cast(torch.nn.Module, model.module)
    return model


def _tensors(network: Network) -> dict[str, Any]:
    """The network's weights as Megatron saves them, without Transformer Engine's loose objects (empty outside
    FP8).
    """
    parts = network.sharded_state_dict(metadata=moments.metadata())
    return {name: part for name, part in parts.items() if not name.endswith("_extra_state")}


def _write(tensors: Mapping[str, Any], folder: str) -> None:
    if filesystem_async._results_queue is None:
        # Only this process reads it. Megatron's own is a server process, which outlives a killed run with its pipes
        # open.
        filesystem_async._results_queue = queue.Queue()
    with quiet():
        strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1)
        dist_checkpointing.save({"model": dict(tensors)}, folder, strategy)


def _read(request: dict[str, Any], folder: str) -> dict[str, Any]:
    _together(lambda: vetting.vet(folder) and None)
    try:
        with quiet():
            return cast(dict[str, Any], dist_checkpointing.load(request, folder, strict=StrictHandling.LOG_UNEXPECTED))
    except (QuiverError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # CheckpointException is no Exception
        raise vetting.unusable(folder, error) from error


def _same_trunk(source: Checkpoint, wanted: Model) -> None:
    free = {"head", "head_size"} | ({"max_sequence_length"} if wanted.position == "rope" else set())
    if wanted.head == "scalar":
        free.add("tie_embeddings")
    have, want = settings.plain(source.model), settings.plain(wanted)
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
    found = "no file" if size is None else f"{size} bytes"
    if size == file.bytes and verify == "full":
        found = f"sha256 {_sha256(path)}"
    elif size == file.bytes:
        return
    if verify != "off" and found != f"sha256 {file.sha256}":
        raise IntegrityError(
            "checkpoint-damaged",
            f"{file.path} is not the file that was published",
            expected=f"{file.bytes} bytes, sha256 {file.sha256}",
            found=found,
            where=path,
            kept="everything; nothing was changed",
            next="copy the checkpoint again, or train again",
        )


def _sha256(path: str) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def _local(url: str) -> str:
    store, root = open_store(url)
    if not isinstance(store, LocalStore):
        raise ConfigError(
            "checkpoint-not-local",
            f"{shown(url)} is not on a file system",
            expected="a folder that all ranks can write",
        )
    return root


def _first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _together(action: Callable[[], T]) -> T:
    """Run `action` on the first rank; every rank gets its result, or its error."""
    result: list[Any] = [None, None]
    if _first():
        try:
            result[0] = action()
        except Exception as error:
            result[1] = error
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(result, src=0)
    if result[1] is not None:
        raise result[1]
    return cast(T, result[0])
