"""Models from and for other programs, as commands.

    luigi --module pipelines ImportModel --folder llama-3.1-8b              a checkpoint of a Hugging Face folder
    luigi --module pipelines ImportModel --folder gpt-2b-001.nemo           or of an archive of NeMo
    luigi --module pipelines ExportModel --model quiver-data/.../policy-3f2a91c0       and the way back
    luigi --module pipelines MergeModel  --model quiver-data/.../policy-91b0c2de         LoRA into its base

Each is a graph of one conversion, which `pipelines.makers.models` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import luigi

from pipelines.backends.hf_folder import imported_model
from pipelines.cli.references import model_parameter, reference
from pipelines.commands.command import Command
from pipelines.graph.backend import checkpoint_at, model_at
from pipelines.graph.external import ConvertedModel
from pipelines.graph.model_check import check_whole
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import stem
from pipelines.images.node import DIFFUSION
from schemas.errors import ConfigError, printable


class ImportModel(Command):
    """A Hugging Face folder as a checkpoint, its logits compared with those that transformers computes; or a model of
    NeMo, read and never unpacked.
    """

    example = "--folder ./llama-3.1-8b"

    folder = luigi.Parameter(description="Hugging Face folder (config.json, *.safetensors), PEFT's, or a .nemo")
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
        model = model_at(plan, place)
        if model.opened_by == DIFFUSION:
            return [self._images(plan, model, place)]
        model = checkpoint_at(plan, place)
        check_whole(model)
        chosen = {"dtype": self.dtype, **({"family": family} if family else {})}
        label = self.name or f"exported/{stem(place)}"
        made = ConvertedModel(label=label, root=plan.root, model=model, does="export", settings=tuple(chosen.items()))
        return [plan.add(made)]

    def _images(self, plan: Plan, model: Node, place: str) -> Node:
        """A folder of diffusers; `ConfigError` where there is nothing to export or a type is asked for."""
        asked = [name for name in ("family", "architecture") if getattr(self, name)]
        if model.kind != "checkpoint" or self.dtype != "keep" or asked:
            raise ConfigError(
                "wrong-kind" if model.kind != "checkpoint" else "bad-setting",
                f"{printable(place, 200)} is an image model: its adapters are exported, in the type that its base has",
                expected="a checkpoint of adapters, without --dtype and --family",
                kept="nothing was started",
            )
        label = self.name or f"exported/{stem(place)}"
        return plan.add(ConvertedModel(label=label, root=plan.root, model=model, does="export"))


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
