"""Checkpoints of adapters, by the commit protocol: a folder that is complete or not there at all.

    adapters.safetensors     the weights that are asked; with an average over steps, the average
    adapters.json            what they are: LoRA and sampler settings, the digest of their base
    training.safetensors     of a save: the last weights, the average, the optimizer's moments
    train_state.json         of a save: where training stood
    _manifest.json           published last; names every file with its SHA-256

The base stays where it is: it is known by its digest, and looked for where it was, then at the same place relative to
the adapters.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from schemas import settings
from schemas.canonical import canonical
from schemas.errors import IntegrityError, QuiverError
from schemas.manifest import Manifest, Parent
from schemas.shards import verified_bytes
from schemas.store import commit
from schemas.store.opening import open_store
from schemas.store.storage import guarded, shown
from schemas.untrusted import strict_json
from trainers.images import FACT
from trainers.images.config import Lora, Sampler
from trainers.images.folder import base_digest, is_diffusion_folder

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, ADAPTERS, TRAINING, STATE = "adapters.safetensors", "adapters.json", "training.safetensors", "train_state.json"
BASE = "base"


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """Settings of the adapters in a checkpoint and of the sampler that they were trained under, and their base's
    digest.
    """

    lora: Lora
    sampler: Sampler
    base: str


@dataclass(frozen=True)
class ImageCheckpoint:
    """A complete checkpoint: its local folder, its manifest and what its adapters are."""

    folder: str
    manifest: Manifest
    adapters: Adapters

    def tensors(self, name: str = WEIGHTS) -> dict[str, Tensor]:
        """The tensors of one of its files; `IntegrityError` where that is not as it was written."""
        from safetensors.torch import load

        return dict(load(_read(self.folder, self.manifest, name)))

    def train_state(self) -> dict[str, Any]:
        """Where training stood; `IntegrityError` where that is not as it was written."""
        return dict(strict_json(_read(self.folder, self.manifest, STATE)))

    @property
    def base_folder(self) -> str:
        """The folder of the base; `IntegrityError` where it is gone or another model."""
        places = [str(self.manifest.runtime_info.get(BASE, ""))]
        places.append(os.path.normpath(os.path.join(self.folder, places[0])))
        there = [place for place in places if os.path.isabs(place) and is_diffusion_folder(place)]
        for place in there:
            if base_digest(place) == self.adapters.base:
                return place
        raise IntegrityError(
            "base-changed" if there else "base-missing",
            f"the base of the adapters in {shown(self.folder)} " + ("is another by now" if there else "is not there"),
            expected=f"model {self.adapters.base[:12]}, in {' or '.join(map(shown, places))}",
            where=shown(self.folder),
            kept="the adapters; nothing was changed",
            next="put the base back there",
        )


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a checkpoint's manifest says of where it came from."""

    task_key: str = ""
    op: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    seed: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def save(
    folder: str,
    adapters: Adapters,
    tensors: Mapping[str, Mapping[str, Tensor]],
    claims: Claims,
    *,
    base: str,
    state: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write and publish a checkpoint of `tensors`, by file; the manifest that stands there. `base` is the folder of the
    base. The same content there already is success, other content is `ConflictError`.
    """
    from safetensors.torch import save_file

    attempt = commit.begin_attempt(folder)
    path = open_store(commit.attempt_path(folder, attempt))[1]
    try:
        with guarded("write", path):
            for name, part in tensors.items():
                save_file({key: one.detach().cpu().contiguous() for key, one in part.items()}, os.path.join(path, name))
            texts = {ADAPTERS: canonical(adapters), **({} if state is None else {STATE: canonical(state)})}
            for name, text in texts.items():
                with open(os.path.join(path, name), "w", encoding="utf-8") as file:
                    file.write(text)
        files = commit.hash_files(folder, attempt)
        weights = next(one.sha256 for one in files if one.path == WEIGHTS)
        relative = os.path.relpath(base, open_store(folder)[1])
        manifest = Manifest(
            kind="checkpoint",
            task_key=claims.task_key,
            op=claims.op,
            parents=claims.parents,
            seed=claims.seed,
            files=files,
            facts={**claims.facts, FACT: {"base": adapters.base}, "weights_digest": weights},
            runtime_info={"seconds": claims.seconds, BASE: relative},
        )
    except BaseException:
        with suppress(QuiverError, OSError):
            commit.discard_attempt(folder, attempt)
        raise
    return commit.publish_folder(folder, attempt, manifest)


def open_checkpoint(folder: str) -> ImageCheckpoint:
    """The complete checkpoint in `folder`; else `IntegrityError`. What is read of it is verified when it is read."""
    manifest = commit.read_manifest(folder)
    if manifest is None or manifest.kind != "checkpoint" or FACT not in manifest.facts:
        raise IntegrityError(
            "checkpoint-incomplete",
            f"{shown(folder)} is not a complete checkpoint of an image model",
            expected="a manifest of adapters",
            found="no manifest" if manifest is None else f"a {manifest.kind}",
            where=shown(folder),
            kept="everything; nothing was changed",
        )
    path = open_store(folder)[1]
    text = strict_json(_read(path, manifest, ADAPTERS))
    return ImageCheckpoint(path, manifest, settings.parse(Adapters, text, where=os.path.join(path, ADAPTERS)))


def is_export(folder: str) -> bool:
    """Whether what stands in `folder` was made for other programs."""
    manifest = commit.read_manifest(folder)
    return manifest is not None and manifest.kind == "export"


def _read(folder: str, manifest: Manifest, name: str) -> bytes:
    files = [file for file in manifest.files if file.path == name]
    if not files:
        raise IntegrityError(
            "checkpoint-incomplete", f"{shown(folder)} has no {name}", where=shown(folder), kept="everything"
        )
    with closing(verified_bytes(folder, files[0], "full")) as file:
        return file.read()
