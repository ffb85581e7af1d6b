"""Adapters and their base as one folder of diffusers, which its pipelines load without knowing of any adapter."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from schemas.errors import QuiverError
from schemas.manifest import Manifest, Parent
from schemas.store import commit
from schemas.store.opening import open_store
from schemas.store.storage import guarded
from trainers.images import checkpoint, lora
from trainers.images.folder import INDEX, SCHEDULER, files_of, parts_of, read_index
from trainers.images.inference import opened

VERSION = 1


def export(source: str, out: str, *, task_key: str = "", say: Callable[[str], None] = print) -> Manifest:
    """Write the adapters in `source`, added to the weights of their base, as the folder `out`; its manifest, of the
    kind `export`. A folder with the same key is success.
    """
    if standing := commit.find_existing(out, task_key, "export"):
        return standing
    saved = checkpoint.open_checkpoint(source)
    base, attempt = saved.base_folder, commit.begin_attempt(out)
    path = Path(open_store(commit.attempt_path(out, attempt))[1])
    try:
        with guarded("write", str(path)):
            for part in {*parts_of(read_index(base)), SCHEDULER} - {"unet"}:
                (path / part).mkdir()
                for file in files_of(Path(base) / part):
                    shutil.copyfile(file, path / part / file.name)
            network = opened(source, saved.adapters.sampler)
            lora.merge(network.unet)
            network.unet.save_pretrained(str(path / "unet"), safe_serialization=True)
            network.pipeline.save_config(str(path))
            assert (path / INDEX).is_file(), f"no {INDEX} was written"
        parent = Parent("checkpoint", source, saved.manifest.content_digest, saved.manifest.task_key)
        manifest = Manifest(
            kind="export",
            task_key=task_key,
            op={"name": "export", "version": VERSION, "params": {"form": "diffusers"}},
            parents=(parent,),
            files=commit.hash_files(out, attempt),
            facts={"source_digest": saved.manifest.content_digest},
        )
    except BaseException:
        with suppress(QuiverError, OSError):
            commit.discard_attempt(out, attempt)
        raise
    say(f"diffusers folder of {network.pipeline.__class__.__name__}")
    return commit.publish_folder(out, attempt, manifest)
