"""REINFORCE++: what an answer's tokens still earn, less KL from the first policy, against all answers of a step.

    prompts of a step -> answers of the policy as it stands -> rewards, at the last token, less KL from the first policy
        -> what every token still earns -> whitened over all tokens of the step -> clipped policy gradient -> next step

Hu et al., "REINFORCE++" (2025, arXiv:2501.03262), with the settings of OpenRLHF. No critic and no group: one answer to
a prompt is enough, and prompts that are all answered alike still teach something. With `baseline` mean it is their
REINFORCE++-baseline: a reward counts as its distance from the mean of its group, before the KL is subtracted.
"""

from __future__ import annotations

from typing import Any

import luigi

from datakit.label import GroupAdvantage, Kl, Returns, TokenRewards, Whiten
from datakit.online import StepLogprobs
from datakit.online.logprobs import LogprobColumn
from datakit.op import Op
from datakit.tokenize import Drawn
from pipelines.cli.parameters import Number
from pipelines.commands.online import OnlineRecipe, learning_over
from pipelines.online.arrangement import Arrangement


class ReinforcePp(OnlineRecipe):
    """A policy that learns from its own answers against those to all prompts, step by step."""

    title = "reinforce-pp"

    algorithm = luigi.Parameter(default="reinforce_pp", description="algorithm over token rows with advantages")
    learning = learning_over()
    baseline = luigi.ChoiceParameter(
        default="none",
        choices=["none", "mean"],
        description="what a reward counts over: nothing, or the mean reward of the answers to its prompt",
    )
    kl_coefficient = Number(default=0.01, least=0, description="what the rewards lose for each nat of KL; 0: nothing")
    kl_estimator = luigi.ChoiceParameter(
        default="k1", choices=["k1", "k2", "k3", "abs"], description="how it is estimated, token by token (label.kl)"
    )
    gamma = Number(default=1.0, least=0, most=1, description="discount of what comes a token later (label.returns)")

    @property
    def arrangement(self) -> Arrangement:
        """Rewards of tokens, and what is still to come of them. Log-probabilities come first: the divergence is a part
        of the rewards.
        """
        estimator: Any = self.kl_estimator
        divergence: tuple[LogprobColumn, ...] = ("old_logprobs", "ref_logprobs") if self.kl_coefficient else ()
        kl: tuple[Op, ...] = (Kl(estimator=estimator),) if self.kl_coefficient else ()
        against: tuple[Op, ...] = (GroupAdvantage(scale="none"),) if self.baseline == "mean" else ()
        counts = TokenRewards(reward="advantage" if against else "reward", kl_coefficient=self.kl_coefficient)
        made = (*against, *kl, counts, Returns(gamma=self.gamma), Whiten())
        return Arrangement(rows=(Drawn(), StepLogprobs(columns=divergence), *made))
