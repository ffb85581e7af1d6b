"""The rows of a step of an online run: asked for, drawn, rewarded and labelled by operations, and kept.

    <run>/rollouts/step=000001-<key>/             what was learnt, every column that led to it beside
    <run>/rollouts/step=000001-<key>.answers/     what was drawn and how it was judged
    <run>/rollouts/step=000001-<key>.prompts/     what was asked

Three datasets are committed for a step; nothing of them depends on when it was made, so a run that goes on from a save
finds those it needs. They count only for the very weights that they were drawn from: their manifests hold a checksum
of these, and what others drew is removed, with a note.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from datakit.apply import apply
from datakit.clients import TOKENIZED_PROMPTS
from datakit.filter import Window
from datakit.op import Op
from datakit.run.progress import Progress
from datakit.run.resource import Resource
from pipelines.online.config import OnlineRun, identity
from pipelines.online.logprobs import served
from pipelines.online.models import Policy, opened, tokenizer_of
from schemas.dataset import Dataset
from schemas.errors import HealthError
from schemas.rows.samples import CUT
from schemas.settings import json_digest
from schemas.store.commit import read_manifest
from schemas.store.opening import open_store
from schemas.store.storage import shown
from trainers.engine.megatron import parallel
from trainers.engine.megatron.leading import Lead
from trainers.engine.training.trainer import Trainer

WEIGHTS = "generator"
"""What an answer comes from: the resource, and the fact that holds the checksum of the weights."""


class StepRows:
    """Called with how many optimizer steps were made: the rows of the next one, and figures of its rollouts.

    prompts: PROMPTS with `prompt_ids`, in the order in which they are asked. task_key: that of the run.
    """

    def __init__(self, online: OnlineRun, trainer: Trainer, prompts: Dataset, task_key: str) -> None:
        self.online, self.trainer, self.prompts = online, trainer, prompts
        self.key = json_digest({"run": task_key, "step": identity(online.step)})
        self._answering, self._labelling = online.step.answering, online.step.labelling
        self._lead = Lead({"generate": trainer.generator().generate, **served(trainer, online.step.logprobs)})
        self._models = opened(online, self._answering, prompts) if parallel.is_rank_zero() else {}

    def __call__(self, number: int) -> tuple[pa.Table, Mapping[str, float]]:
        """`HealthError` where nothing is left to learn."""
        updates = self.online.step.updates
        step, part = divmod(number, updates)
        weights = self.trainer.weights_checksum
        url = self._lead.run(lambda: self._made(step, weights, begun=part > 0))
        rollouts = Dataset.open(url)
        rows = rollouts.read()
        first, stop = (rows.num_rows * at // updates for at in (part, part + 1))
        if first == stop:
            raise HealthError(
                "no-rows-left",
                f"nothing is left to learn of the answers of step {step + 1}",
                expected=f"{updates} rows at least",
                found=f"{rows.num_rows}",
                where=shown(url),
                next=f"quiver show {shown(url)}",
            )
        return rows.slice(first, stop - first), figures(rollouts, rows)

    def _made(self, step: int, weights: str, *, begun: bool) -> str:
        """Where the rollouts of `step` lie, made where they are not. Those of a step that is `begun` were drawn from
        the weights before its first update.
        """
        key = json_digest({"run": self.key, "step": step})
        url = f"{self.online.run.paths.folder}/rollouts/step={step + 1:06d}-{key[:8]}"
        if begun and (manifest := read_manifest(url)) is not None:
            weights = str(manifest.facts[WEIGHTS])
        for place in (url, f"{url}.answers"):
            _remove_of_others(place, weights)
        if Dataset.exists(url):
            return url
        count, seed = self.online.step.prompts, self.online.run.learning.seed
        drawing = int(json_digest({"seed": seed, "step": step})[:15], 16)
        asked = Window(offset=step * count, limit=count, wrap=True)
        prompts = self._apply(asked, self.prompts, f"{url}.prompts", key, drawing, {})
        own = Resource(weights, lambda: Policy(self._lead), TOKENIZED_PROMPTS, tokenizer_of(self.trainer))
        models = {WEIGHTS: own, **self._models}
        drawn = json_digest({"step": key, "weights": weights})
        answers = self._apply(self._answering, prompts, f"{url}.answers", drawn, drawing, models)
        return self._apply(self._labelling, answers, url, json_digest({"rows of": drawn}), drawing, models).url

    def _apply(
        self, op: Op, rows: Dataset, into: str, task_key: str, seed: int, models: Mapping[str, Resource]
    ) -> Dataset:
        """`apply` in this process, under this key."""
        needed = {name: models[name] for name in op.needs if name in models}
        return apply(op, rows, into, resources=needed, seed=seed, task_key=task_key, on_progress=self._progressed)

    def _progressed(self, _: Progress) -> None:
        self._lead.progressed()


def figures(rollouts: Dataset, rows: pa.Table) -> dict[str, float]:
    """Of a step's rollouts: means of `reward` and `correct`, tokens of an answer, the shares of those that
    were cut and of groups whose answers are all rewarded alike, rows that were dropped.
    """
    columns, counts = rollouts.stats["columns"], rollouts.stats["counts"]
    made = {name: columns[name]["mean"] for name in ("reward", "correct") if "mean" in columns.get(name, {})}
    if "mean" in columns.get("response_ids.length", {}):
        made["answer_tokens"] = columns["response_ids.length"]["mean"]
    if rows.num_rows and "finish_reason" in rows.column_names:
        made["cut"] = pc.mean(pc.equal(rows["finish_reason"], CUT).cast(pa.float64())).as_py()
    if counts.get("groups"):
        made["equal_groups"] = counts.get("groups_with_equal_rewards", 0) / counts["groups"]
    return {**made, "dropped": float(sum(file.rows for file in rollouts.rejected))}


def _remove_of_others(place: str, weights: str) -> None:
    """Remove what other weights drew: a run that was changed, or went on at another layout, draws its own."""
    manifest = read_manifest(place)
    if manifest is None or manifest.facts.get(WEIGHTS) == weights:
        return
    print(f"note: {shown(place)} was drawn from other weights than stand here: it is made anew", file=sys.stderr)
    store, folder = open_store(place)
    store.remove_tree(folder)
