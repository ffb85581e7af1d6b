"""Preference optimization of a model on a file of pairs: DPO, and every other algorithm that learns from such pairs.

    --data -> train    -> template -> tokens, masks -> log-probs of the reference -> training -> policy
           -> held out -> template -> tokens, masks -> log-probs before, after -> rewards, accuracy -> table

Answers that are wanted or not, one by one, are learnt from by `--algorithm kto`, and judged by their rewards alone.

The model is its own reference: what it says of both answers of a pair is asked once (`label.logprobs`, per row).
"""

from __future__ import annotations

from collections.abc import Sequence

import luigi

from pipelines.cli.learning import SettingNumber
from pipelines.commands.algorithm_kinds import LearnsPreferences
from pipelines.commands.one_shot import OneShotOfPairs, learning_over
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.report.figures import FigureTable
from pipelines.report.pairs import preference_table
from pipelines.stages.preference_training import trained_on_pairs
from trainers.registry import algorithm_of


class Preference(LearnsPreferences, OneShotOfPairs):
    """A model that prefers the chosen answers of the pairs in `data`, by `algorithm`; `kto` also learns from answers
    that are wanted or not, one by one.
    """

    example = "--model FOLDER --data pairs.jsonl --lr 1e-6 --beta 0.1"
    title = "preference"
    other_formats = (*OneShotOfPairs.other_formats, "kto_labels", "kto", "kto_messages")
    reads = (*OneShotOfPairs.reads, ("messages", "response", "desirable"))

    algorithm = luigi.Parameter(default="dpo", description="algorithm over pairs, or over answers one by one")
    learning = learning_over(optim={"lr": 1e-6})
    beta = SettingNumber(setting="settings.beta", least=0, note="empty: the algorithm's default")

    @property
    def least_held_out(self) -> int:
        """Two where each answer stands beside one to another question."""
        return 2 if "mismatched_ids" in algorithm_of(self.algorithm).rows else 1

    def results(self, plan: Plan) -> Results:
        """Pairs with reference log-probs, the policy, the held-out pairs as it reads them, and figures."""
        given = self.one_shot_setup(plan)
        training, pairs = self.training_for(given.label), (given.train, given.held_out)
        return trained_on_pairs(
            plan, given.label, training, pairs, given.model, given.model, given.reading, self.settled_seed
        )

    def report(self) -> Sequence[FigureTable]:
        """How many held-out pairs stand in the right order, and the rewards."""
        return [preference_table(self.task_family, self.graph)] if self.graph.figures else []
