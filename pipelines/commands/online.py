"""What every online recipe asks of the command line: a policy answers, is rewarded, and learns, step by step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import luigi
from luigi.freezing import recursively_unfreeze

from datakit.filter import ZeroVariance
from datakit.generate import Complete
from datakit.label import ImportanceWeights
from datakit.online import StepAgreement, StepVersion
from datakit.op import Op
from datakit.tokenize import Drawn
from pipelines.cli import invocation
from pipelines.cli.console import say
from pipelines.cli.invocation import flag_of
from pipelines.cli.learning import ByAlgorithm, MergedParameter
from pipelines.cli.parameters import ObjectParameter, OptionalNumber, OptionalWhole, Whole
from pipelines.cli.references import model_parameter
from pipelines.cli.unread import refuse_unread
from pipelines.commands.recipe import SetupRecipe
from pipelines.commands.templated import Sampled
from pipelines.graph.backend import model_at
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import near
from pipelines.graph.results import Results
from pipelines.graph.row_counts import fewer_than
from pipelines.online.arrangement import Arrangement
from pipelines.online.config import StepConfig, settings_of
from pipelines.online.guards import Guards
from pipelines.online.kept_rollouts import KeepRollouts
from pipelines.online.node import LearnerTraining, OnlineCheckpoint, online_checkpoint
from pipelines.report import suggestions
from pipelines.report.figures import FigureTable
from pipelines.report.iterations import unmeasured
from pipelines.report.online import online_table
from pipelines.stages.ask import readable
from pipelines.stages.conversing import Conversing
from pipelines.stages.iteration import Evaluation, TaskSetup, evaluated
from pipelines.stages.online import check_learns, rewarded, rewarded_by_several, shuffled_prompts, weights_of
from schemas.errors import ConfigError, counted
from schemas.process import terminal
from schemas.rows.rollouts import ADVANTAGES, RESPONSE_MASK
from schemas.run_layout import ROLLOUTS, run_folder_of
from schemas.settings import parse
from trainers.algorithm import Algorithm
from trainers.config import Execution, Training
from trainers.registry import configured

LEARNING = {
    "max_steps": 60,
    "optim": {"lr": 5e-4, "warmup_steps": 5, "schedule": "linear", "min_lr": 5e-5},
    "save_every": 20,
}
"""For the small policies that setups train from scratch; a large one wants a rate of about 1e-6."""

_PROMPTS = 64
"""Prompts of a step, where nobody says how many and there are so many."""


def learning_over(**default: Any) -> Any:
    """The parameter of the training, with its defaults."""
    return MergedParameter(
        default={**LEARNING, **default},
        description="learning (trainers.config), over the defaults; a global_batch_size below the rows of a step "
        "makes several optimizer steps of it; of the algorithms over advantages those over old_logprobs can learn so",
    )


@dataclass(frozen=True, kw_only=True)
class Online(Results):
    """What an online recipe makes: a policy, and its answers to held-out prompts before and after."""

    task_setup: TaskSetup
    policy: OnlineCheckpoint
    before: Evaluation
    after: Evaluation


def _learns_advantages(algorithm: Algorithm) -> bool:
    return ADVANTAGES.name in algorithm.rows


class OnlineRecipe(ByAlgorithm, Sampled, SetupRecipe[Online]):
    """A policy that learns from its own answers as it stands at every step."""

    title: ClassVar[str] = ""
    asks: ClassVar[tuple[str, ...]] = ()
    fits = staticmethod(_learns_advantages)
    unfit = "does not learn from advantages"
    fitting = "an algorithm over token rows with advantages, or a preset of one"

    prompts_per_step = OptionalWhole(
        description="prompts of a step: the next in a random order, again and again; empty: 64, or all where they are "
        "fewer"
    )
    samples_per_prompt = Whole(default=8, description="answers to each prompt")
    reward_source = luigi.ChoiceParameter(
        default="auto",
        choices=["auto", "environment", "verifier", "model"],
        description="what rewards an answer: --environment, the setup's verifier (1 where it is right) or its reward "
        "model; auto: the first of these that there is",
    )
    rewards = ObjectParameter(
        default={},
        description='weights of several rewards at once, as JSON: {"verifier": 1, "model": 0.5}; each is a column, and '
        "reward their weighted sum (label.weighted)",
    )
    environment = model_parameter("what carries on a conversation behind every answer; empty: nothing", "environment")
    max_turns = Whole(default=8, description="answers of a conversation, at most (generate.converse)")

    max_rounds = Whole(
        default=1,
        description="rounds of prompts of a step, at most: above 1 prompts whose answers are all rewarded alike go "
        "(filter.zero_variance), and others are asked in their place until the step is full",
    )

    lag = luigi.ChoiceParameter(
        default=0,
        choices=[0, 1],
        var_type=int,
        description="1: the answers of a step are drawn before the step before it is learnt, by the weights as they "
        "stand then (one step off); advantages are weighed by label.importance_weights",
    )
    importance = ObjectParameter(
        default={}, bare="kind", description='settings of label.importance_weights, as JSON: {"kind": "mask"}'
    )
    guards = ObjectParameter(
        default={},
        description="bounds that stop a run, as JSON: max_kl (nats an answer), min_entropy (nats a token), "
        "max_reward_drop (below its highest)",
    )
    mask_cut = luigi.BoolParameter(
        description="learn nothing of answers that were cut at their limit (filter.where); of their rewards a group's "
        "mean still is"
    )
    keep_rollouts = ObjectParameter(
        default={},
        description='steps whose prompts, answers and rows stay, as JSON: {"last": 20}, {"every": 100} or both; '
        "empty: all",
    )
    logprob_bound = OptionalNumber(
        least=0,
        description="nats a token by which the log-probabilities of an answer may differ from those of the network in "
        "training; empty: not looked at",
    )
    logprob_beyond = luigi.ChoiceParameter(
        default="stop", choices=["stop", "recompute"], description="of answers beyond logprob_bound (online.agreement)"
    )

    @property
    @abstractmethod
    def arrangement(self) -> Arrangement:
        """What makes rewarded answers the rows that the algorithm learns from."""

    def learners(
        self, training: Training, step: StepConfig, policy: Node, models: Mapping[str, Node]
    ) -> Mapping[str, LearnerTraining]:
        """What learns beside the policy, by kind (`pipelines.online.learners`): `training` is the policy's, `policy` is
        the checkpoint that it begins with, `models` judge answers.
        """
        return {}

    def asked_prompts(self, prompts: Node) -> int:
        """How many of `prompts` a step asks: `--prompts-per-step`, or the usual number, or all where they are fewer;
        `ConfigError` where they do not suffice.
        """
        given = self.prompts_per_step
        there = fewer_than(given or _PROMPTS, prompts)
        if given is None:
            return there or _PROMPTS
        if there is not None:
            what = f"{counted(there, 'prompt')} to learn from {'is' if there == 1 else 'are'} less"
            raise ConfigError(
                "too-few-prompts",
                f"{what} than --prompts-per-step {given}",
                expected=f"at most {there}, or more prompts" if there else "more prompts",
                found=f"{there} in {prompts.label}",
                kept="nothing was started",
                next=f"--prompts-per-step {there}" if there else "",
            )
        return int(given)

    @property
    def _arranged(self) -> Arrangement:
        """The arrangement with what flags add: turns of others in a conversation not learnt, log-probabilities held
        against the network in training, prompts that teach nothing left out where others are asked in their place.
        """
        given = self.arrangement
        if self.environment:
            rows = (replace(op, mask=RESPONSE_MASK.name) if isinstance(op, Drawn) else op for op in given.rows)
            given = replace(given, rows=tuple(rows))
        if self.logprob_bound is not None:
            beyond: Any = self.logprob_beyond
            given = given.behind(Drawn, StepAgreement(most=self.logprob_bound, beyond=beyond), "--logprob-bound")
        given = given.without_cut() if self.mask_cut else given
        return replace(given, rows=(ZeroVariance(), *given.rows)) if self.max_rounds > 1 else given

    def _check_groups(self) -> None:
        """`ConfigError` for groups of one answer where an answer is worth what it has over the others."""
        against = self._arranged.compares
        if self.samples_per_prompt == 1 and against:
            raise ConfigError(
                "one-answer",
                f"with --samples-per-prompt 1 nothing can be learnt: {against} holds an answer against the others "
                "to its prompt",
                expected="2 answers to each prompt, or more",
                found="1",
                kept="nothing was started",
                next="--samples-per-prompt 2",
            )

    def _check_companions(self, algorithm: Algorithm) -> None:
        """`ConfigError` for a flag that says how what is not asked for would be done."""
        turns, weighs = self.max_turns != type(self).max_turns._default, _learns_advantages(algorithm)
        unread = bool(self.importance) and not (self.lag and weighs)
        why = "answers are weighed with --lag 1 alone" if weighs else f"{algorithm.name} has no advantages to weigh"
        refuse_unread({"--importance": unread}, why)
        refuse_unread(
            {"--max-turns": turns and not self.environment}, "without --environment there is one answer, and no other"
        )

    def results_of(self, plan: Plan, task_setup: TaskSetup) -> Online:
        """The setup's policy after all steps, evaluated before and after."""
        task_setup = self._conversing(plan, task_setup)
        seed, eval_setup, first = self.settled_seed, task_setup.eval_setup, task_setup.policy
        check_learns(first, f"{flag_of(f'{self.setup}_model')} FOLDER")
        label = f"{self.title}/{self.folder(eval_setup.name)}"
        asked = self.asked_prompts(task_setup.prompts)
        self._check_groups()
        before = evaluated(plan, f"{eval_setup.name}/first", eval_setup, first, seed)
        complete = Complete(sampling=self.sampling(eval_setup.max_new_tokens, eval_setup.rendering.stop))
        prompts = shuffled_prompts(plan, label, complete, task_setup, seed)
        drawing = eval_setup.drawing(complete.sampling, first)
        rewarding, models = self._rewarded(drawing, prompts, task_setup)
        arrangement = self._arranged
        learnt = arrangement.rows_of_step(asked, self.samples_per_prompt)
        training = self.training_for(label, global_batch_size=learnt)
        algorithm, _ = configured(training.learning.algorithm, training.learning.settings, where=label)
        self._check_companions(algorithm)
        if self.lag:
            arrangement = arrangement.off_by_a_step(self._importance(), algorithm)
        step = StepConfig(
            prompts=asked,
            lag=self.lag,
            answers=settings_of((drawing, *rewarding, *((StepVersion(),) if self.lag else ()))),
            rows=settings_of(arrangement.made_for(algorithm)),
            updates=max(1, round(learnt / training.learning.global_batch_size)),
            max_rounds=self.max_rounds,
        )
        training, validation = self._validated(plan, training, complete, task_setup)
        made = OnlineCheckpoint(
            label=f"{label}/policy", root=plan.root, training=training, data=prompts, tokenizer=eval_setup.tokenizer,
            init=first, validation=validation, step=step, models={**models, **eval_setup.beside},
            learners=self.learners(training, step, first, models), guards=self._guards(), keep_rollouts=self._kept(),
        )  # fmt: skip
        policy: Any = online_checkpoint(plan, made)
        after = evaluated(plan, label, eval_setup, policy, seed)
        return Online(
            targets=(before.figures, after.figures, policy),
            datasets={"prompts": prompts, "answers": after.answers},
            checkpoints={"first": first, "policy": policy},
            figures={"first": before.figures, "last": after.figures},
            task_setup=task_setup,
            policy=policy,
            before=before,
            after=after,
        )

    def _importance(self) -> ImportanceWeights:
        settings: Any = recursively_unfreeze(dict(self.importance))
        return parse(ImportanceWeights, settings, where="--importance")

    def _guards(self) -> Guards:
        return parse(Guards, recursively_unfreeze(self.guards), where="--guards")

    def _kept(self) -> KeepRollouts:
        return parse(KeepRollouts, recursively_unfreeze(self.keep_rollouts), where="--keep-rollouts")

    def _validated(
        self, plan: Plan, training: Training, complete: Complete, task_setup: TaskSetup
    ) -> tuple[Training, Node | None]:
        """The training, and the held-out prompts that it is validated on where `validate_every` asks for it; the save
        with the highest reward on these is the best.
        """
        execution, eval_setup = training.execution, task_setup.eval_setup
        if execution.validate_every is None:
            return training, None
        label, first = f"{eval_setup.name}/held-out", task_setup.policy
        held_out = readable(plan, label, complete, eval_setup.held_out, first, eval_setup.asking)
        if execution.best_by == Execution.best_by:
            execution = replace(execution, best_by="-val_reward")
        return replace(training, execution=execution), held_out

    def _conversing(self, plan: Plan, task_setup: TaskSetup) -> TaskSetup:
        """`task_setup` with the environment that there is, where that carries on conversations; where it rewards them,
        no model does.
        """
        if not self.environment:
            return task_setup
        rewards = not self.rewards and self._rewarding(task_setup) == "environment"
        node = model_at(plan, self.environment, "environment")
        conversing = Conversing(environment=node, max_turns=self.max_turns, rewards=rewards)
        scorer = None if rewards else task_setup.eval_setup.reward_model
        eval_setup = replace(task_setup.eval_setup, conversing=conversing, reward_model=scorer)
        return replace(task_setup, eval_setup=eval_setup)

    def _rewarded(
        self, drawing: Complete, prompts: Node, task_setup: TaskSetup
    ) -> tuple[tuple[Op, ...], dict[str, Node]]:
        """Operations that reward answers, and the models that they ask; `ConfigError` where one is not there."""
        if not self.rewards:
            return rewarded(drawing, prompts, task_setup, self._rewarding(task_setup))
        refuse_unread({"--reward-source": self.reward_source != "auto"}, "--rewards names what rewards answers")
        weights = weights_of(recursively_unfreeze(self.rewards))
        there = self._rewards_there(task_setup)
        if missing := next((name for name in weights if not there[name]), ""):
            raise self._missing(missing, there)
        return rewarded_by_several(drawing, prompts, task_setup, weights)

    def _rewards_there(self, task_setup: TaskSetup) -> dict[str, bool]:
        return {
            "environment": bool(self.environment),
            "verifier": task_setup.eval_setup.verifier is not None,
            "model": task_setup.reward_model is not None,
        }

    def _rewarding(self, task_setup: TaskSetup) -> str:
        """What rewards answers: environment, verifier or model; `ConfigError` where what is asked for is not there."""
        there = self._rewards_there(task_setup)
        chosen: str = next((name for name in there if there[name]), "") if self.reward_source == "auto" else ""
        chosen = chosen or self.reward_source
        if there.get(chosen):
            return chosen
        raise self._missing(chosen, there)

    def _missing(self, chosen: str, there: Mapping[str, bool]) -> ConfigError:
        """That what is to reward answers is not there."""
        if chosen == "environment":
            return ConfigError(
                "missing-setting",
                "no --environment rewards answers",
                expected="module:function",
                kept="nothing was started",
                next=invocation.completed("--environment my_game:play"),
            )
        other = next((name for name in there if there[name]), "")
        own = "" if self.setup == "own" else "--setup own "
        flag = "--own-reward my_reward:score" if chosen == "model" else """--own-verifier '{"kind": "number"}'"""
        return ConfigError(
            "missing-setting",
            f"the setup {self.setup} has no {'verifier' if chosen == 'verifier' else 'reward'}",
            expected="a verifier or a reward model",
            kept="nothing was started",
            next=f"--reward-source {other}" if other and not self.rewards else f"{own}{flag}",
        )

    def before(self) -> None:
        """As for every command; and how many prompts a step asks, where they are fewer than usual."""
        super().before()
        if note := self._fewer_prompts():
            say(note)

    def report(self) -> Sequence[FigureTable]:
        """The policy before and after."""
        eval_setup = self.graph.task_setup.eval_setup
        table = online_table(
            f"{self.task_family} on {eval_setup.name}", self.graph.policy, self.graph.before, self.graph.after
        )
        verifier = f"{self.setup}_verifier"
        notes = unmeasured(eval_setup, flag_of(verifier) if self.setup == "own" else "", f"--{self.setup}-reward")
        return [replace(table, notes=(*table.notes, *filter(None, [self._fewer_prompts()]), *notes))]

    def _fewer_prompts(self) -> str:
        """A line where a step asks fewer prompts than usual because no more are there."""
        asked = self.graph.policy.step.prompts
        if self.prompts_per_step is not None or asked == _PROMPTS:
            return ""
        return f"every step asks all {counted(asked, 'prompt')} that there are to learn from (--prompts-per-step)"

    def go_on(self) -> None:
        """Where the results lie, those of every step too, and the commands that use the policy."""
        super().go_on()
        policy, eval_setup = self.graph.policy, self.graph.task_setup.eval_setup
        place = f"{run_folder_of(near(policy.url))}/{ROLLOUTS}"
        print(terminal.wrapped(f"\nprompts, answers and rows of every step lie in {place}"))
        commands = [*suggestions.answers_of(policy, eval_setup), suggestions.exported(policy)]
        print(suggestions.listed([suggestions.look_at(place), *commands]))
