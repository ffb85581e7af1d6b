"""Proximal policy optimization with a critic: an answer's tokens are worth what they bring over what was expected.

    prompts of a step -> answers of the policy as it stands -> rewards, at the last token, less KL from the first policy
        -> values of the critic as it stands -> advantages and returns (GAE) -> whitened advantages
        -> clipped policy gradient, and the critic learns the returns -> next step

Schulman et al. (2017, arXiv:1707.06347) as Ouyang et al., "InstructGPT" (2022, arXiv:2203.02155), and NeMo-Aligner have
it; `gamma`, `lam`, the KL in the reward and the bounds of ratio and value are the latter's. The critic begins with the
reward model where a checkpoint rewards answers, else with the policy and a fresh head. It is a data operation with
weights that move: what it says of a step's answers is a column, made before anybody learns from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import luigi

from datakit.label import Gae, Kl, TokenRewards, Values, Whiten
from datakit.online import StepLogprobs
from datakit.online.logprobs import LogprobColumn
from datakit.tokenize import Drawn
from pipelines.cli.learning import MergedParameter, learning_of
from pipelines.cli.parameters import Number, Whole
from pipelines.commands.online import OnlineRecipe, learning_over
from pipelines.graph.node import Node
from pipelines.graph.tokenizer_check import differ
from pipelines.online.arrangement import Arrangement
from pipelines.online.config import StepConfig
from pipelines.online.learners import Critic
from pipelines.online.node import LearnerTraining
from schemas.canonical import plain
from schemas.errors import ConfigError
from trainers.config import Training, merged, training_of

_OF_POLICY = ("parallel", "micro_batch_tokens", "implementation", "recompute", "threads")
"""Settings of the critic's execution that are the policy's."""


class Ppo(OnlineRecipe):
    """A policy that learns from its own answers, against what a critic expects of them, step by step."""

    title = "ppo"

    algorithm = luigi.Parameter(default="ppo", description="algorithm over token rows with advantages")
    learning = learning_over()
    critic = MergedParameter(
        default={"optim": {"lr": 1e-3, "warmup_steps": 5}},
        description="learning of the critic (trainers.config), over the defaults: `--set critic.optim.lr=1e-5`; "
        "its steps, batches, layout and precision are those of the policy",
    )
    critic_rounds = Whole(default=4, least=0, description="rounds of answers that the critic alone learns from, first")
    critic_init = luigi.ChoiceParameter(
        default="auto",
        choices=["auto", "reward", "policy"],
        description="what the critic begins with: the reward model, or the policy with a fresh head; auto: the reward "
        "model where a checkpoint with the policy's tokenizer rewards answers",
    )
    value_clip = Number(default=0.2, least=0, description="how far a value may move in a step; 0: as far as it likes")
    kl_coefficient = Number(default=0.01, least=0, description="what the rewards lose for each nat of KL; 0: nothing")
    kl_estimator = luigi.ChoiceParameter(
        default="abs", choices=["abs", "k1", "k2", "k3"], description="how it is estimated, token by token (label.kl)"
    )
    gamma = Number(default=1.0, least=0, most=1, description="discount of what comes a token later (label.gae)")
    lam = Number(default=0.95, least=0, most=1, description="lambda of label.gae: 0 trusts the critic, 1 the rewards")
    whiten = luigi.BoolParameter(
        default=True, parsing=luigi.BoolParameter.EXPLICIT_PARSING, description="whiten the advantages of a step"
    )

    @property
    def arrangement(self) -> Arrangement:
        """Rewards of tokens, what the critic expected, and how far these are apart. Log-probabilities come first: the
        divergence is a part of the rewards.
        """
        estimator: Any = self.kl_estimator
        divergence: tuple[LogprobColumn, ...] = ("old_logprobs", "ref_logprobs") if self.kl_coefficient else ()
        kl = (Kl(estimator=estimator),) if self.kl_coefficient else ()
        rewards, gae = TokenRewards(kl_coefficient=self.kl_coefficient), Gae(gamma=self.gamma, lam=self.lam)
        advantages = (*kl, rewards, Values(), gae, *((Whiten(),) if self.whiten else ()))
        return Arrangement(rows=(Drawn(), StepLogprobs(columns=divergence), *advantages))

    def learners(
        self, training: Training, step: StepConfig, policy: Node, models: Mapping[str, Node]
    ) -> Mapping[str, LearnerTraining]:
        """A critic: the policy's steps and layout, an optimizer of its own."""
        where, learning = "learning of the critic", training.learning
        execution = {name: plain(getattr(training.execution, name)) for name in _OF_POLICY}
        below = {**execution, "precision": learning.precision, "settings": {"clip": self.value_clip or None}}
        steps = (learning.max_steps or 0) + self.critic_rounds * step.updates
        own = {"max_steps": steps, "global_batch_size": learning.global_batch_size}
        given = merged(learning_of(self, below, "critic"), own)
        valued = training_of("value", given, seed=learning.seed, where=where)
        critic = LearnerTraining(training=valued, init=self._init(policy, models), warmup=self.critic_rounds)
        return {Critic.name: critic}

    def _init(self, policy: Node, models: Mapping[str, Node]) -> Node:
        """What the critic begins with; `ConfigError` where it is to be a reward model and there is none that fits."""
        scorer = models.get("scorer")
        if scorer is not None and (
            scorer.kind != "checkpoint" or differ(policy.tokenizer_id, scorer.tokenizer_id, (policy, scorer))
        ):
            scorer = None
        if scorer is None and self.critic_init == "reward":
            raise ConfigError(
                "missing-setting",
                f"no checkpoint that could be a critic rewards answers in the setup {self.setup}",
                expected="a reward model that is a checkpoint and has the policy's tokenizer",
                kept="nothing was started",
                next="--critic-init policy",
            )
        return policy if scorer is None or self.critic_init == "policy" else scorer
