"""What every iterative recipe asks of the command line, and how `--iteration k` comes to require k - 1."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import luigi

from datakit.clients import Sampling
from pipelines.commands.command import Command
from pipelines.commands.templated import Answering
from pipelines.graph.nodes import Node
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import folder_name
from pipelines.report.table import show
from pipelines.runtime import settings
from pipelines.runtime.parameters import AssignmentsParameter, Number, OptionalWhole, Whole, assigned_to
from pipelines.setups import source_kind, source_of
from pipelines.stages.iteration import Evaluation, IterationResult, Method, TaskSetup, evaluated, iterated
from schemas.errors import ConfigError, printable


class AlignmentIteration(Answering, Command):
    """Iteration `iteration` of a recipe over a task source."""

    title: ClassVar[str] = ""

    iteration = Whole(default=1, description="which iteration; those before it are required")
    source = luigi.Parameter(
        default="digits", description="task source: the section that says where prompts, data and models come from"
    )
    prompts_per_iteration = Whole(
        default=1024, description="prompts of one iteration; each is used in one iteration only"
    )
    samples_per_prompt = Whole(default=8, description="answers to each prompt")
    temperature = Number(default=1.0, description="of sampling")
    top_k = Whole(default=0, least=0, description="likeliest tokens to choose from; 0: all")
    top_p = Number(default=1.0, least=0, most=1, description="probability mass to choose from")
    original_share = Number(
        default=0.05, least=0, most=1, description="share of original data among training rows; 0: none"
    )
    set = AssignmentsParameter(
        default=(),
        description="a setting of the improve steps as key=value (optim.lr=1e-4), or of another training of the source "
        "(base.epochs=2, reward.optim.lr=1e-4); may be repeated",
    )
    experiment = luigi.Parameter(default="", description="folder below the recipe's; empty: the title of the source")
    seed = OptionalWhole(least=0, default=None, description="of everything; empty: that of [quiver]")

    @abstractmethod
    def keep(self, plan: Plan, label: str, rewards: Node) -> list[Node]:
        """What each improve step trains on, out of rewarded samples."""

    @functools.cached_property
    def graph(self) -> tuple[TaskSetup, Evaluation, list[IterationResult]]:
        """The source, the first policy's evaluation and all iterations up to this one."""
        if self.iteration < 1:
            raise ConfigError(
                "bad-parameter", f"iteration is {self.iteration}", expected="1 or more", kept="nothing was started"
            )
        quiver = settings.quiver_config()
        plan = Plan(quiver.root)
        seed = quiver.seed if self.seed is None else self.seed
        changes = assigned_to(self.set, "improve", source_kind(self.source))
        source = source_of(self.source, changes).source(plan, seed, self.rendering)
        eval_setup = source.eval_setup
        method = Method(
            name=self.title,
            experiment=self._experiment(eval_setup.name),
            prompts=self.prompts_per_iteration,
            sampling=Sampling(
                samples_per_prompt=self.samples_per_prompt,
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                max_new_tokens=eval_setup.max_new_tokens,
                stop=eval_setup.rendering.stop,
            ),
            keeping=self.keep,
            original_share=self.original_share,
            seed=seed,
        )
        before = evaluated(plan, f"{eval_setup.name}/first", eval_setup, source.policy, seed)
        steps: list[IterationResult] = []
        for number in range(1, self.iteration + 1):
            policy = steps[-1].policy if steps else source.policy
            steps.append(iterated(plan, source, method, number, policy))
        return source, before, steps

    def _experiment(self, title: str) -> str:
        """`--experiment`, or else the title of the source as the name of a folder."""
        name = folder_name(self.experiment or title)
        if self.experiment and name != self.experiment:
            raise ConfigError(
                "bad-parameter", f"experiment {printable(self.experiment, 80)} is no name of one folder",
                expected="letters, digits, _, +, - and . inside", kept="nothing was started",
                next=f"luigi --module pipelines {self.task_family} --experiment {name}",
            )  # fmt: skip
        return name

    def build(self, plan: Plan) -> Sequence[Node]:
        """The last policy, all evaluations, and what the reward model is held against."""
        source, before, steps = self.graph
        others = [] if source.baselines is None else [source.baselines]
        return [before.figures, *others, *(step.evaluation.figures for step in steps), steps[-1].policy]

    def requires(self) -> list[luigi.Task]:
        """The iteration before, and what this one wants. The one before is a part of the same graph: it is not planned
        anew, and answers for what it adds to its own predecessor alone.
        """
        if self.iteration == 1:
            return super().requires()
        earlier = self.clone(iteration=self.iteration - 1)
        source, before, steps = self.graph
        step = steps[earlier.iteration - 1]
        vars(earlier).setdefault("graph", (source, before, steps[: earlier.iteration]))
        vars(earlier).setdefault("targets", (step.evaluation.figures, step.policy))
        return [earlier, *super().requires()]

    def after(self) -> None:
        """The table, where the data lies, and how to go on."""
        source, before, steps = self.graph
        show(self.task_family, source, before, steps)
