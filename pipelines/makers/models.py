"""The tasks that convert models: into a checkpoint, into another program's folder, LoRA into its base, a reward
model with the scale of its rewards.

Conversions run in a process of their own, which holds torch and ends with its memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from pipelines.backends.hf_folder import check_content
from pipelines.cli.console import Stage
from pipelines.graph.external import ConvertedModel, ImportedModel, MeasuredModel
from pipelines.runtime.resources import open_tokenizer
from pipelines.runtime.tasks import Make, makes
from schemas.dataset import Dataset
from schemas.end_tokens import TurnEnd
from schemas.errors import QuiverError, WorkerError
from schemas.manifest import Parent
from schemas.process.parent import end_with_parent
from schemas.stats import std
from schemas.store.commit import read_manifest
from trainers.images import FACT


@makes(ImportedModel)
class ImportHF(Make):
    """Makes a checkpoint of a Hugging Face folder."""

    def make(self, node: ImportedModel, stage: Stage) -> str:
        tokenizer = None if node.tokenizer is None else node.tokenizer.url
        named = node.content_digest
        return _apart(_import, node.folder, node.base, node.url, node.task_key, tokenizer, node.tokenizer_folder, named)


@makes(ConvertedModel)
class Convert(Make):
    """Makes something else of a checkpoint."""

    def make(self, node: ConvertedModel, stage: Stage) -> str:
        work = {"export": _export, "merge": _merge}[node.does]
        return _apart(work, node.model.url, node.url, node.task_key, dict(node.settings))


@makes(MeasuredModel)
class MeasureModel(Make):
    """Makes the checkpoint of a reward model that carries mean and spread of its rewards."""

    def make(self, node: MeasuredModel, stage: Stage) -> str:
        rewards = Dataset.open(node.rewards.url)
        scale = {
            name: figures
            for name, stats in rewards.stats["columns"].items()
            if name in node.output_names and (figures := _spread_of(stats))
        }
        parent = rewards.as_parent("rewards")
        return _apart(_measured, node.model.url, node.url, node.task_key, dict(node.work), scale, parent)


def _spread_of(stats: Mapping[str, Any]) -> dict[str, float]:
    """Mean, standard deviation and count of a column; empty where all values are equal, or too far apart."""
    if stats["count"] < 2 or "mean" not in stats or stats["min"] == stats["max"]:
        return {}
    return {"mean": stats["mean"], "std": std(stats), "count": stats["count"]}


def _measured(
    source: str, url: str, task_key: str, work: dict[str, Any], scale: dict[str, dict[str, float]], rewards: Parent
) -> str:
    from trainers.engine.weights.measured import with_scale

    with_scale(source, url, scale, rewards=rewards, task_key=task_key, op=work)
    parts = [f"{name} {figures['mean']:.4f} (spread {figures['std']:.4f})" for name, figures in scale.items()]
    return ", ".join(parts) or "all rewards are equal: no scale"


def _apart(work: Callable[..., str], *given: Any) -> str:
    with ProcessPoolExecutor(1, get_context("forkserver"), initializer=end_with_parent) as pool:
        try:
            return pool.submit(work, *given).result()
        except BrokenProcessPool:
            raise WorkerError(
                "conversion-died",
                "the process that converts the weights died",
                expected="a process that lives until it is done",
                found="killed, as the system does when memory runs out",
                kept="every finished stage; of this one nothing",
                next="run the same command again",
            ) from None


def _import(folder: str, base: str, url: str, task_key: str, tokenizer: str | None, own: str, named: str) -> str:
    from trainers.engine.weights.import_hf import import_hf

    lines: list[str] = []
    facts = _turn_end(tokenizer or own, lines).facts
    given: dict[str, Any] = {"task_key": task_key, "tokenizer_from": tokenizer, "facts": facts, "say": lines.append}
    import_hf(folder, url, base=base, as_named=functools.partial(check_content, folder, base, named), **given)
    return ", ".join(lines)


def _turn_end(place: str, lines: list[str]) -> TurnEnd:
    """The tokens with which the chat template of the tokenizer at `place` ends a turn; `lines` takes why that is not
    known.
    """
    from datakit.template import turn_end_of

    try:
        manifest = read_manifest(place)
        kind = "checkpoint" if manifest is None else manifest.kind
        return TurnEnd(turn_end_of(open_tokenizer(place, kind)).tokens)
    except QuiverError as error:
        lines.append(f"how the chat template ends a turn is not known: {error.what}")
        return TurnEnd()


def _export(source: str, url: str, task_key: str, chosen: dict[str, Any]) -> str:
    lines: list[str] = []
    manifest = read_manifest(source)
    if manifest is not None and FACT in manifest.facts:
        from trainers.images.export import export as export_images

        export_images(source, url, task_key=task_key, say=lines.append)
        return ", ".join(lines)
    from trainers.engine.weights.export_hf import export

    export(source, url, task_key=task_key, say=lines.append, **chosen)
    return ", ".join(lines)


def _merge(source: str, url: str, task_key: str, chosen: dict[str, Any]) -> str:
    from trainers.engine.weights.lora_export import merge

    manifest = merge(source, url, task_key=task_key, **chosen)
    return f"weights {manifest.facts['weights_digest'][:12]}"
