"""How good a policy is, as a command of its own: over prompts with a verifier or a reward model, or by benchmarks.

luigi --module pipelines Evaluate --model CHECKPOINT --prompts prompts.jsonl
luigi --module pipelines Evaluate --model CHECKPOINT --suite gsm8k --data gsm8k.jsonl
"""

from __future__ import annotations

from collections.abc import Sequence

import luigi
from luigi.freezing import recursively_unfreeze

from datakit.registry import op_of
from pipelines.cli import invocation
from pipelines.cli.parameters import ObjectParameter
from pipelines.cli.references import model_parameter, reference
from pipelines.commands.stages import StageCommand
from pipelines.commands.suited import Suited
from pipelines.graph.backend import model_at
from pipelines.graph.node import Node
from pipelines.graph.placement import parted
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import names_in
from pipelines.report.figures import lines
from pipelines.report.iterations import not_verified
from pipelines.runtime import settings
from pipelines.stages.iteration import EvalSetup, evaluated
from pipelines.suites import REWARDBENCH
from pipelines.suites.registry import suite_of
from pipelines.suites.suite import Suite
from schemas.errors import ConfigError
from schemas.process import terminal


class Evaluate(Suited, StageCommand):
    """A policy's answers to held-out prompts: verified, scored, and the figures; or what it makes of a benchmark
    (`--suite`).
    """

    usual_format = "prompts"
    example = "--model CHECKPOINT --prompts prompts.jsonl"

    model = model_parameter("policy", "generator")
    policy = luigi.Parameter(default="", description="--model")
    prompts = luigi.Parameter(
        default="",
        description="dataset (name or folder) or file of prompts; with answers, if they are to be verified",
    )
    verifier = ObjectParameter(
        default={}, bare="kind", description='settings of label.verify, e.g. {"kind": "number"}; empty: none'
    )
    reward_model = luigi.Parameter(default="", description="model that scores the answers; empty: none")

    asked: Node
    """The prompts, once the graph is planned: their file may be gone when it is done."""

    def build(self, plan: Plan) -> Sequence[Node]:
        chosen = self._chosen()
        if chosen:
            compares = any(suite.compares for suite in chosen)
            scores = compares or any(suite.role == "scorer" for suite in chosen)
            self.without_suites(
                prompts=self.prompts,
                verifier=self.verifier,
                judge=not compares and self.judge,
                reward_model=not scores and self.reward_model,
            )
            return self.suites(plan, chosen, self._asked_by, self.name or "evaluate")
        place = reference(self, "policy")
        self.unsuited()
        if not self.prompts:
            raise ConfigError(
                "missing-parameter",
                "Evaluate needs --prompts, or --suite and --data",
                expected="a file or dataset folder of prompts; or a benchmark of quiver suites, and its rows",
                kept="nothing was started",
                next=invocation.completed(self.example),
            )
        verifier = recursively_unfreeze(dict(self.verifier))
        policy = model_at(plan, place, "generator")
        reward_model = model_at(plan, self.reward_model, "scorer") if self.reward_model else None
        longest, answer = self.bounds([policy, reward_model])
        self.asked = self.rows(plan, self.prompts)
        eval_setup = EvalSetup(
            name=self.label(parted(place)[0], self.prompts),
            held_out=self.asked,
            tokenizer=policy,
            reward_model=reward_model,
            verifier=op_of("label.verify", verifier) if verifier else None,
            max_new_tokens=answer,
            max_length=longest,
            rendering=self.rendering,
        )
        return [evaluated(plan, eval_setup.name, eval_setup, policy, settings.quiver_config().seed).figures]

    def _chosen(self) -> list[Suite]:
        """The suites of `--suite`; of a reward model over pairs alone the one that is for those."""
        pairs = self.reward_model and self.data and not self.prompts
        return [suite_of(name) for name in names_in(self.suite) or ([REWARDBENCH.name] if pairs else [])]

    def _asked_by(self, suite: Suite) -> str:
        """The model that a suite is for: a reward model by either of its flags."""
        scores = suite.role == "scorer" and self.reward_model
        return self.reward_model if scores else reference(self, "policy")

    def after(self) -> None:
        """The figures, and where they lie."""
        if self._chosen():
            print(self.tables())
            super().after()
            return
        print(lines(self.targets[0].url))
        if not self.verifier:
            print(terminal.wrapped(f"correct is not measured: {not_verified(self.asked, '--verifier')}"))
        super().after()
