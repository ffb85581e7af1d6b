"""What every iterative recipe asks of the command line, and how `--iteration k` comes to require k - 1."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import luigi

from pipelines.cli.invocation import flag_of
from pipelines.cli.parameters import Number, Whole
from pipelines.commands.recipe import SetupRecipe
from pipelines.commands.templated import Sampled
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.graph.row_counts import fewer_than
from pipelines.report import suggestions
from pipelines.report.figures import FigureTable
from pipelines.report.iterations import cut_answers, iteration_table, pair_table, unmeasured
from pipelines.setups import setup_kind
from pipelines.stages.fine_tuning import fine_tuned
from pipelines.stages.iteration import (
    Evaluation,
    Grown,
    IterationResult,
    TaskSetup,
    drawn_prompts,
    evaluated,
    iterated,
    next_prompts,
)
from schemas.errors import ConfigError, DataError, counted
from schemas.store.storage import shown


@dataclass(frozen=True, kw_only=True)
class Iterations(Results):
    """What the iterations of a recipe make. The last one's results have plain names (`samples`, `policy`), those of
    others the iteration in front (`iter=1/samples`).
    """

    task_setup: TaskSetup
    before: Evaluation
    steps: tuple[IterationResult, ...]

    @staticmethod
    def named(
        task_setup: TaskSetup, before: Evaluation, steps: tuple[IterationResult, ...], targets: tuple[Node, ...]
    ) -> Iterations:
        """All results under their names."""
        datasets: dict[str, Node] = {}
        checkpoints = {"first": task_setup.policy}
        if task_setup.reward_model is not None and task_setup.reward_model.kind == "checkpoint":
            checkpoints["reward_model"] = task_setup.reward_model
        figures = {"first": before.figures}
        if task_setup.baselines is not None:
            figures["baselines"] = task_setup.baselines
        for step in steps:
            prefix = "" if step is steps[-1] else f"iter={step.number}/"
            datasets |= {f"{prefix}{name}": node for name, node in step.datasets.items()}
            checkpoints[f"{prefix}policy"] = step.policy
            figures[f"iter={step.number}"] = step.evaluation.figures
            if step.divergence is not None:
                figures[f"iter={step.number}/divergence"] = step.divergence
        return Iterations(
            targets=targets,
            datasets=datasets,
            checkpoints=checkpoints,
            figures=figures,
            task_setup=task_setup,
            before=before,
            steps=steps,
        )

    @property
    def folder(self) -> str:
        """Below the root, where every iteration has a folder."""
        return self.steps[0].samples.label.rpartition("/iter=")[0]

    def without_last(self) -> Iterations:
        """All but the last iteration; wanted is what the one before it adds."""
        steps = self.steps[:-1]
        return Iterations.named(self.task_setup, self.before, steps, (*_figures(steps[-1:]), steps[-1].policy))


def _figures(steps: Sequence[IterationResult]) -> list[Node]:
    """What the policies of `steps` are judged by."""
    return [node for step in steps for node in (step.evaluation.figures, step.divergence) if node is not None]


class SampledIteration(Sampled, SetupRecipe[Iterations]):
    """Iteration `iteration` of a recipe over a task setup that learns from its own answers."""

    title: ClassVar[str] = ""
    scores: ClassVar[bool] = True
    """Whether the setup's reward model scores the answers."""

    iteration = Whole(default=1, description="which iteration; those before it are required")
    prompts_per_iteration = Whole(
        default=1024, description="prompts of one iteration; each is used in one iteration only"
    )
    prompt_order = luigi.ChoiceParameter(
        default="drawn",
        choices=["drawn", "rows"],
        description="prompts of an iteration: drawn by lot, or the next in the order of the rows (sample_split of "
        "NeMo-Aligner)",
    )
    samples_per_prompt = Whole(default=8, description="answers to each prompt")
    divergence = luigi.BoolParameter(
        description="measure how far each policy is from the first one (KL on its held-out answers, read by the first)"
    )

    def prompts(self, plan: Plan, label: str, task_setup: TaskSetup, number: int) -> Node:
        """The prompts that iteration `number` answers."""
        rows, count = task_setup.prompts, self.prompts_per_iteration
        if self.prompt_order == "rows":
            return next_prompts(plan, label, rows, count, number)
        return drawn_prompts(plan, label, rows, count, number, self.settled_seed)

    def original(self, task_setup: TaskSetup, use: str) -> Node:
        """The original data of the setup; `ConfigError` where it has none, which says the `use` of them."""
        if task_setup.original is None:
            raise ConfigError(
                "missing-setting",
                f"the setup {self.setup} has no original data {use}",
                expected="answers that the policy was taught, or should give",
                kept="nothing was started",
                next="--own-original answers.jsonl",
            )
        return task_setup.original

    @abstractmethod
    def keep(self, plan: Plan, grown: Grown) -> list[Node]:
        """What each improve step trains on, out of the samples."""

    @abstractmethod
    def improve(self, plan: Plan, grown: Grown, step: int, rows: Node, policy: Node) -> Node:
        """`policy` after improve step number `step` (from 1) on `rows`."""

    def results_of(self, plan: Plan, task_setup: TaskSetup) -> Iterations:
        """The first policy's evaluation and all iterations up to this one."""
        seed, eval_setup = self.settled_seed, task_setup.eval_setup
        plan.attempt(lambda: self._enough(task_setup.prompts), lambda: None)
        before = evaluated(plan, f"{eval_setup.name}/first", eval_setup, task_setup.policy, seed)
        steps: list[IterationResult] = []
        while len(steps) < self.iteration:
            steps.append(iterated(plan, task_setup, self, tuple(steps)))
        others = [] if task_setup.baselines is None else [task_setup.baselines]
        targets = (before.figures, *others, *_figures(steps), steps[-1].policy)
        return Iterations.named(task_setup, before, tuple(steps), targets)

    def _enough(self, prompts: Node) -> None:
        """`DataError` where it is known that the `prompts` do not suffice for so many iterations."""
        needed = self.fresh_prompts * self.iteration
        there = fewer_than(needed, prompts)
        if there is None:
            return
        fewer = there // self.iteration
        iterations, prompts_each = counted(self.iteration, "iteration"), counted(self.prompts_per_iteration, "prompt")
        raise DataError(
            "too-few-prompts",
            f"{iterations} of {prompts_each} need {needed}, and {prompts.label} has {there}",
            expected=f"lower {self.fewer_prompts}, or more prompts",
            found=counted(there, "prompt"),
            where=shown(prompts.url),
            kept="nothing was started",
            next=f"--prompts-per-iteration {fewer}" if fewer else "give a file with more prompts",
        )

    @property
    def fewer_prompts(self) -> str:
        """The flags that decide for how many iterations prompts suffice."""
        share = self._setup_flag("held_out")
        return f"--prompts-per-iteration{f' or {share}' if share else ''}"

    def _setup_flag(self, name: str) -> str:
        """The flag of the setup's parameter `name`; empty where it has none."""
        return flag_of(f"{self.setup}_{name}") if hasattr(setup_kind(self.setup), name) else ""

    def requires(self) -> list[luigi.Task]:
        """The iteration before, and what this one wants. The one before is a part of the same graph: it is not planned
        anew, and answers for what it adds to its own predecessor alone.
        """
        if self.iteration == 1:
            return super().requires()
        earlier = self.clone(iteration=self.iteration - 1)
        vars(earlier).setdefault("graph", self.graph.without_last())
        return [earlier, *super().requires()]

    def report(self) -> Sequence[FigureTable]:
        """A row for every iteration; how good the reward model is."""
        title = f"{self.task_family} on {self.graph.task_setup.eval_setup.name}: {self.graph.folder}"
        eval_setup = self.graph.task_setup.eval_setup
        notes = unmeasured(eval_setup, self._setup_flag("verifier"), f"--{self.setup}-reward")
        notes += cut_answers(self.graph.steps, eval_setup.max_new_tokens, self._setup_flag("max_new_tokens"))
        table = iteration_table(title, self.graph.before, self.graph.steps)
        return [replace(table, notes=(*table.notes, *notes)), pair_table(self.graph.task_setup)]

    def go_on(self) -> None:
        """Where the data lies, and how to go on."""
        last = self.graph.steps[-1]
        print(suggestions.section(self.graph.task_setup, last, self.fresh_prompts, self.fewer_prompts))

    @property
    def fresh_prompts(self) -> int:
        """Prompts of the setup that one iteration uses up."""
        return int(self.prompts_per_iteration)


class AlignmentIteration(SampledIteration):
    """An iteration whose improve steps are fine-tuning on what a filter keeps of rewarded samples."""

    training = "improve"

    original_share = Number(
        default=0.05, least=0, most=1, description="share of original data among training rows; 0: none"
    )

    def learning(self, task_setup: TaskSetup, step: int) -> Mapping[str, Any]:
        """Settings of improve step number `step`: those of the setup."""
        return task_setup.learning

    def improve(self, plan: Plan, grown: Grown, step: int, rows: Node, policy: Node) -> Node:
        task_setup = replace(grown.task_setup, learning=self.learning(grown.task_setup, step))
        label = f"{grown.label}/step={step}"
        return fine_tuned(plan, label, task_setup, rows, policy, grown.seed, self.original_share)
