"""A reward model's checkpoint once more, with what was measured of its numbers; the weights are the same files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from schemas.errors import QuiverError
from schemas.manifest import Manifest, Parent
from schemas.store import commit
from schemas.store.storage import guarded
from trainers.engine.checkpoint.checkpoint import OPTIMIZER, WEIGHTS, open_checkpoint
from trainers.engine.megatron.lora_base import BASE
from trainers.engine.weights.local_paths import local
from trainers.reward_scale import FACT


def with_scale(
    source: str,
    out: str,
    scale: Mapping[str, Mapping[str, float]],
    *,
    rewards: Parent,
    task_key: str,
    op: Mapping[str, Any],
) -> Manifest:
    """Publish the checkpoint `source` as `out`, with `scale` (of `rewards`) as the fact `reward_scale`; its manifest.

    Every file is a hard link, or a copy where the file system has none; `IntegrityError` where one is not what the
    manifest of `source` says.
    """
    if standing := commit.find_existing(out, task_key, "checkpoint"):
        return standing
    made = open_checkpoint(source, parts=(WEIGHTS, OPTIMIZER))
    before, folder = made.manifest, local(out)
    attempt = commit.begin_attempt(out)
    try:
        here = local(commit.attempt_path(out, attempt))
        for file in before.files:
            _link(os.path.join(made.folder, file.path), os.path.join(here, file.path))
        base = before.runtime_info.get(BASE)
        place = {} if base is None else {BASE: os.path.relpath(os.path.join(made.folder, base), folder)}
        manifest = Manifest(
            kind="checkpoint",
            task_key=task_key,
            op=op,
            parents=(made.as_parent("checkpoint"), rewards, *(one for one in before.parents if one.name == BASE)),
            seed=before.seed,
            files=before.files,
            facts={**before.facts, FACT: {name: dict(figures) for name, figures in scale.items()}},
            runtime_info=place,
        )
        return commit.publish_folder(out, attempt, manifest)
    except BaseException:
        with suppress(QuiverError, OSError):
            commit.discard_attempt(out, attempt)
        raise


def _link(source: str, target: str) -> None:
    with guarded("write", target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
