"""DRaFT+: a diffusion model learns to draw what a reward likes, and stays near the model that it was.

    --data      -> prompts -> training by the reward's gradient -> adapters
    --eval-data -> prompts -> images of base and tuned model, from the same noise -> rewards -> table, side by side

The reward is a function of pixels and prompts that can be differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import luigi
from luigi.freezing import recursively_unfreeze

from datakit.clients.images import ImageSampling
from datakit.generate import Image
from datakit.label import ImageReward
from datakit.report import Measure
from datakit.sql import Query
from datakit.template import ImagePrompt
from pipelines.cli import invocation
from pipelines.cli.learning import MergedParameter, SettingNumber, SettingWhole, learning_of
from pipelines.cli.parameters import ObjectParameter, Whole
from pipelines.cli.references import model_parameter
from pipelines.commands.files import ReadsFiles
from pipelines.commands.recipe import Recipe
from pipelines.graph.backend import model_at
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import near, stem
from pipelines.graph.results import Results
from pipelines.images.node import ImageCheckpoint, image_checkpoint
from pipelines.report import suggestions
from pipelines.report.figures import Figure, FigureTable, metrics
from schemas.errors import ConfigError
from trainers.images.config import ImageTraining, image_training_of

_COLUMNS = (
    Figure("model", meaning="the base, and the same with its adapters"),
    Figure("images", ",.0f", meaning="images by which they are compared, from the same noise"),
    Figure("reward", ".4f", meaning="mean of what the reward says of them"),
    Figure("std", ".4f", meaning="its standard deviation"),
    Figure("distance", ".4g", meaning="mean square between the noise of both, at the last step of training"),
    Figure("out of range", ".1%", meaning="values of pixels that were cut to 0 and 1 at that step"),
)
_SIDE_BY_SIDE = """
SELECT tuned.prompt, tuned.seed, tuned.image_id, base.image AS base_image, tuned.image AS tuned_image,
       base.reward AS base_reward, tuned.reward AS tuned_reward
FROM base JOIN tuned USING (prompt_id, image_index) ORDER BY tuned.image_id
"""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Images of one model with their rewards, and the figures of these."""

    images: Node
    figures: Node


class DraftPlus(ReadsFiles, Recipe[Results]):
    """Adapters of `model` that draw the prompts in `data` as `reward` likes them."""

    example = "--model FOLDER --data prompts.jsonl --reward MODULE:FUNCTION"
    usual_format = "prompts"
    needed: ClassVar[tuple[str, ...]] = ("model", "data", "reward")

    model = model_parameter("base", "image_generator")
    data = luigi.Parameter(default="", description="file or dataset (name or folder) of prompts to learn from")
    reward = model_parameter("reward that can be differentiated", "image_scorer")
    eval_data = luigi.Parameter(
        default="", description="prompts by which base and tuned model are compared; empty: --data"
    )
    eval_images = Whole(default=1, description="images of each of these prompts")
    annealing = luigi.Parameter(
        default="draft", description="how the tuned model draws these: draft, base, linear, power_P or step_P"
    )
    algorithm = luigi.Parameter(default="draft_plus", description="draft_plus, draft (without a base) or draft_lv")
    options = ObjectParameter(
        default={}, description="settings of the algorithm, as JSON (kl_coefficient of draft_plus: 0.1)"
    )
    learning = MergedParameter(
        default={"max_steps": 100, "optim": {"lr": 2.5e-4, "clip_grad": 10.0}, "save_every": 50},
        kind=ImageTraining,
        description="learning (trainers.images.config), over the defaults",
    )
    lr = SettingNumber(setting="optim.lr", least=0)
    max_steps = SettingWhole(setting="max_steps")
    batch_size = SettingWhole(setting="global_batch_size", about="images of an optimizer step")

    def results(self, plan: Plan) -> Results:
        """The adapters, images of both models with their rewards, and both side by side."""
        missing = [f"--{name}" for name in self.needed if not getattr(self, name)]
        if missing:
            raise ConfigError(
                "missing-parameter",
                f"{self.task_family} needs {', '.join(missing)}",
                expected="a folder of diffusers, prompts, and a reward of images",
                kept="nothing was started",
                next=invocation.completed(" ".join(f"--{name} {name.upper()}" for name in self.needed)),
            )
        label = f"draft/{self.folder(stem(self.data))}"
        base, reward = model_at(plan, self.model, "image_generator"), model_at(plan, self.reward, "image_scorer")
        prompts = self._texts(plan, f"{label}/prompts", self.rows(plan, self.data))
        judged = prompts
        if self.eval_data:
            judged = self._texts(plan, f"{label}/eval-prompts", self.rows(plan, self.eval_data))
        made = ImageCheckpoint(
            label=f"{label}/tuned",
            root=plan.root,
            training=self._training(label),
            data=prompts,
            base=base,
            reward=reward,
        )
        tuned = image_checkpoint(plan, made)
        both = {name: self._compared(plan, f"{label}/{name}-images", judged, model, reward, made.training, annealing)
                for name, model, annealing in (("base", base, "draft"), ("tuned", tuned, self.annealing))}  # fmt: skip
        query = Query(query=_SIDE_BY_SIDE, tables=("base", "tuned"), key=("image_id",))
        beside = plan.table(f"{label}/side-by-side", query, both["base"].images, both["tuned"].images)
        return Results(
            targets=(*(one.figures for one in both.values()), beside, tuned),
            datasets={"prompts": prompts, "side_by_side": beside, **{n: one.images for n, one in both.items()}},
            checkpoints={"tuned": tuned},
            figures={name: one.figures for name, one in both.items()},
        )

    def report(self) -> Sequence[FigureTable]:
        """What the reward says of both models' images."""
        manifest = self.graph.checkpoints["tuned"].manifest()
        stats = {} if manifest is None else manifest.facts["stats"]
        rows = []
        for name in ("base", "tuned"):
            figures = metrics(self.graph.figures[name])
            last = (stats.get("kl"), stats.get("out_of_range")) if name == "tuned" else (None, None)
            rows.append((name, *(figures[f"reward.{of}"] for of in ("count", "mean", "std")), *last))
        return [FigureTable(f"{self.task_family}: {self.graph.checkpoints['tuned'].label}", _COLUMNS, tuple(rows))]

    def go_on(self) -> None:
        """Where the results lie, and the commands that use the adapters."""
        super().go_on()
        tuned = self.graph.checkpoints["tuned"]
        if tuned.manifest() is not None:
            words = ["--model", near(tuned.url), "--prompts", self.data]
            drawn = suggestions.command("GenerateImages", *words)
            print(f"\n{suggestions.listed([drawn, suggestions.exported(tuned)])}")

    def _training(self, label: str) -> ImageTraining:
        options: Any = recursively_unfreeze(self.options)
        settings = learning_of(self, {"settings": options} if options else {})
        where = f"learning of {label}"
        return image_training_of(settings, algorithm=self.algorithm, seed=self.settled_seed, where=where)

    def _texts(self, plan: Plan, label: str, rows: Node) -> Node:
        return rows if "prompt" in rows_of(rows) else plan.table(label, ImagePrompt(), rows)

    def _compared(
        self, plan: Plan, label: str, prompts: Node, model: Node, reward: Node, training: ImageTraining, annealing: str
    ) -> Compared:
        of = training.learning.sampler
        size = {"width": of.width, "height": of.height}
        how: dict[str, Any] = {"scheduler": of.scheduler, "steps": of.steps, "guidance": of.guidance, **size}
        sampling = ImageSampling(images_per_prompt=self.eval_images, annealing=annealing, **how)
        seed = self.settled_seed
        drawn = plan.table(f"{label}.drawn", Image(sampling=sampling), prompts, seed=seed, image_generator=model)
        rewarded = plan.table(label, ImageReward(), drawn, image_scorer=reward)
        return Compared(
            images=rewarded,
            figures=plan.table(f"{label}.figures", Measure(stage=label, columns=("reward",)), rewarded),
        )
