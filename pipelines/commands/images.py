"""Images of an image model, as a command.

luigi --module pipelines GenerateImages --model ./stable-diffusion-v1-5 --prompts prompts.jsonl
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import luigi
from luigi.freezing import recursively_unfreeze

from datakit.clients.images import ImageSampling
from datakit.generate import Image
from pipelines.cli import invocation
from pipelines.cli.parameters import ObjectParameter
from pipelines.cli.references import model_parameter
from pipelines.commands.files import ReadsFiles
from pipelines.commands.stages import StageCommand
from pipelines.graph.backend import model_at
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.runtime import settings
from pipelines.stages.ask import ask
from schemas.errors import ConfigError
from schemas.settings import parse


class GenerateImages(ReadsFiles, StageCommand):
    """Images that a diffusion model draws of prompts."""

    family = "generate"
    example = "--model FOLDER --prompts prompts.jsonl"
    usual_format = "prompts"

    model = model_parameter("what draws", "image_generator")
    prompts = luigi.Parameter(description="dataset (name or folder) or file of prompts")
    sampling = ObjectParameter(
        default={}, description='how images are drawn, as JSON: {"steps": 50, "guidance": 7.5, "scheduler": "ddim", '
        '"images_per_prompt": 1, "annealing": "draft"}'
    )  # fmt: skip

    def build(self, plan: Plan) -> Sequence[Node]:
        """The text of each prompt, drawn."""
        if not self.model:
            raise ConfigError(
                "missing-parameter",
                f"{self.task_family} needs --model",
                expected="a folder of diffusers, or adapters on one",
                kept="nothing was started",
                next=invocation.completed(self.example),
            )
        given: Any = recursively_unfreeze(self.sampling)
        sampling = parse(ImageSampling, given, where="--sampling")
        model, rows = model_at(plan, self.model, "image_generator"), self.rows(plan, self.prompts)
        seed = settings.quiver_config().seed
        return [ask(plan, self.label(self.prompts), Image(sampling=sampling), rows, model, seed=seed)]
