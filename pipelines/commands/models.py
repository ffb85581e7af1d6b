"""Models from and for other programs, as tasks and commands.

    luigi --module pipelines ImportModel --folder llama-3.1-8b              a checkpoint of a Hugging Face folder
    luigi --module pipelines ExportModel --model quiver-data/.../policy-3f2a91c0       and the way back
    luigi --module pipelines MergeModel  --model quiver-data/.../policy-91b0c2de         LoRA into its base

Conversions run in a process of their own, which holds torch and ends with its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import luigi

from pipelines.backends.hf_folder import imported_model
from pipelines.commands.command import Command
from pipelines.graph.backend import checkpoint_at
from pipelines.graph.external import ConvertedModel, ImportedModel
from pipelines.graph.model_check import check_whole
from pipelines.graph.nodes import Node
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import stem
from pipelines.runtime.console import Stage
from pipelines.runtime.references import model_parameter, reference
from pipelines.runtime.resources import open_tokenizer
from pipelines.runtime.tasks import Make, makes
from schemas.end_tokens import TurnEnd
from schemas.errors import QuiverError, WorkerError
from schemas.process.parent import end_with_parent
from schemas.store.commit import read_manifest


@makes(ImportedModel)
class ImportHF(Make):
    """Makes a checkpoint of a Hugging Face folder."""

    def make(self, node: ImportedModel, stage: Stage) -> str:
        tokenizer = None if node.tokenizer is None else node.tokenizer.url
        return _apart(_import, node.folder, node.base, node.url, node.task_key, tokenizer, node.tokenizer_folder)


@makes(ConvertedModel)
class Convert(Make):
    """Makes something else of a checkpoint."""

    def make(self, node: ConvertedModel, stage: Stage) -> str:
        work = {"export": _export, "merge": _merge}[node.does]
        return _apart(work, node.model.url, node.url, node.task_key, dict(node.settings))


class ImportModel(Command):
    """A Hugging Face folder as a checkpoint, its logits compared with those that transformers computes."""

    example = "--folder ./llama-3.1-8b"

    folder = luigi.Parameter(description="Hugging Face folder: config.json, *.safetensors, tokenizer.json; or PEFT's")
    base = luigi.Parameter(default="", description="model that PEFT's adapters belong to; empty: the one they name")
    tokenizer = luigi.Parameter(default="", description="tokenizer dataset, folder or file; empty: the folder's own")
    name = luigi.Parameter(
        default="", description="label of the checkpoint under the root; empty: made of the folder's"
    )

    def build(self, plan: Plan) -> Sequence[Node]:
        return [imported_model(plan, self.folder, self.name, self.tokenizer, self.base)]


class AdoptModel(ImportModel):
    """`ImportModel` under its older name."""


class ExportModel(Command):
    """A checkpoint as a Hugging Face folder, which transformers and vLLM load."""

    example = "--model CHECKPOINT"

    model = model_parameter("what is exported")
    checkpoint = luigi.Parameter(default="", description="--model")
    name = luigi.Parameter(
        default="", description="label of the folder under the root; empty: made of the checkpoint's"
    )
    dtype = luigi.ChoiceParameter(
        choices=["keep", "fp32", "bf16", "fp16"], default="keep", description="of the weights"
    )
    family = luigi.Parameter(default="", description="whose architecture; empty: as it was imported, or that fits")
    architecture = luigi.Parameter(default="", description="--family")

    def build(self, plan: Plan) -> Sequence[Node]:
        place, family = reference(self, "checkpoint"), self.family or self.architecture
        model = checkpoint_at(plan, place)
        check_whole(model)
        chosen = {"dtype": self.dtype, **({"family": family} if family else {})}
        label = self.name or f"exported/{stem(place)}"
        made = ConvertedModel(label=label, root=plan.root, model=model, does="export", settings=tuple(chosen.items()))
        return [plan.add(made)]


class MergeModel(Command):
    """LoRA adapters and their base as one checkpoint."""

    example = "--model CHECKPOINT"

    model = model_parameter("checkpoint of a run with lora")
    adapters = luigi.Parameter(default="", description="--model")
    name = luigi.Parameter(default="", description="label under the root; empty: made of the adapters'")

    def build(self, plan: Plan) -> Sequence[Node]:
        place = reference(self, "adapters")
        label, model = self.name or f"merged/{stem(place)}", checkpoint_at(plan, place)
        return [plan.add(ConvertedModel(label=label, root=plan.root, model=model, does="merge"))]


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


def _import(folder: str, base: str, url: str, task_key: str, tokenizer: str | None, own: str) -> str:
    from trainers.engine.weights.import_hf import import_hf

    lines: list[str] = []
    facts = _turn_end(tokenizer or own, lines).facts
    import_hf(folder, url, base=base, task_key=task_key, tokenizer_from=tokenizer, facts=facts, say=lines.append)
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
    from trainers.engine.weights.export_hf import export

    lines: list[str] = []
    export(source, url, task_key=task_key, say=lines.append, **chosen)
    return ", ".join(lines)


def _merge(source: str, url: str, task_key: str, chosen: dict[str, Any]) -> str:
    from trainers.engine.weights.lora_export import merge

    manifest = merge(source, url, task_key=task_key, **chosen)
    return f"weights {manifest.facts['weights_digest'][:12]}"
