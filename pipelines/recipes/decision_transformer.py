"""Decision Transformer: a model learns answers behind the reward that they earned, and is asked for a high one.

    questions of --data -> greedy answers --+
    --data ---------------------------------+-- label.reward -- blend -- z-scores -- reward in the question -- SFT
    --pairs, both answers ------------------+

    held-out questions x levels -> reward asked for in the question -> answers -> label.reward -> table

Chen et al., "Decision Transformer" (2021, arXiv:2106.01345), as NeMo-Aligner's offline labeler did it for language
models: greedy samples first, standardised rewards, a third of the rows each. A reward model never sees what was asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import luigi

from datakit.blend import Mix, Shuffle, Unpair
from datakit.label import Reward, Standardize
from datakit.sql import Query
from datakit.template import RewardTemplate
from pipelines.cli.parameters import ListParameter, Whole
from pipelines.commands.one_shot import OneShotSetup
from pipelines.commands.requesting import Requesting
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import rows_at
from pipelines.graph.results import Results
from pipelines.report.figures import FigureTable, metrics
from pipelines.report.requested import requested_table
from pipelines.setups.setup_config import columns_parameter, not_held_out, renamed
from pipelines.stages import requested
from pipelines.stages.ask import Reading, ask
from pipelines.stages.fine_tuning import BLENDED
from pipelines.stages.iteration import partial_columns
from pipelines.stages.losses import token_rows

_SHARES = {"generated": 0.33, "data": 0.33, "preferences": 0.34}
_PLAIN = "SELECT * EXCLUDE (messages, question), question AS messages FROM rows ORDER BY sample_id"


class DecisionTransformer(Requesting):
    """A model that gives answers of the reward that it is asked for."""

    example = "--model FOLDER --data rows.jsonl --reward FOLDER"
    title = "decision-transformer"
    pairs = luigi.Parameter(default="", description="file or dataset (name or folder) of pairs to learn from too")
    pairs_format = luigi.Parameter(default="preferences", description="format of a file of pairs")
    pairs_columns = columns_parameter("a file of pairs")
    reward_template = luigi.Parameter(
        default="{input} <rm_score>: {reward} ", description="question with its reward: {input} and {reward}"
    )
    decimals = Whole(least=0, default=1, description="of the reward as it is written")
    levels = ListParameter(
        default=(-1.5, -0.8, 0.0, 0.8, 1.5), description="rewards to ask for, in standard deviations from the mean"
    )

    def results(self, plan: Plan) -> Results:
        """All rows with their rewards, the policy, and its answers to held-out questions at every level."""
        given = self.one_shot_setup(plan)
        label, reward_model = given.label, self.reward_model(plan)
        levels = self.requested_levels
        by_origin = self._learnt_rows(plan, given)
        rewards = {
            name: ask(plan, f"{label}/{name}.rewards", Reward(), rows, reward_model, reading=given.reading)
            for name, rows in by_origin.items()
        }
        mix = Mix(
            sources=tuple(rewards),
            weights=tuple(_SHARES[name] for name in rewards),
            columns=(*BLENDED, "reward"),
            partial=partial_columns(rewards.values(), BLENDED),
        )
        blend = plan.table(f"{label}/blend", mix, *rewards.values(), seed=self.settled_seed)
        scores = plan.table(f"{label}/scores", Standardize(output="score"), blend)
        learnt = plan.table(f"{label}/questions", self._template("score"), scores)
        shuffled = plan.table(f"{label}/shuffled", Shuffle(), learnt, seed=self.settled_seed)
        train = token_rows(plan, f"{label}/train", shuffled, given.model, given.reading)
        policy = plan.model(
            f"{label}/policy", self.training_for(label), data=train, tokenizer=given.model, init=given.model
        )
        asked = requested.requests(plan, f"{label}/requests", given.judged, levels, 1)
        questions = plan.table(f"{label}/asked", self._template("requested", plain="question"), asked)
        answers = self._answers(plan, f"{label}/answers", questions, policy, given.reading)
        restored = plan.table(f"{label}/plain", Query(query=_PLAIN, tables=("rows",), key=("sample_id",)), answers)
        judged = ask(plan, f"{label}/answers.rewards", Reward(), restored, reward_model, reading=given.reading)
        figures = requested.measured(plan, label, judged, "reward", 1, len(levels))
        return Results(
            targets=(figures, policy),
            datasets={**rewards, "scores": scores, "train": train, "asked": questions, "answers": judged},
            checkpoints={"first": given.model, "policy": policy},
            figures={"evaluation": figures},
        )

    def report(self) -> Sequence[FigureTable]:
        """Reward by reward asked for."""
        figures = metrics(self.graph.figures["evaluation"])
        return [requested_table(self.task_family, "subject", ["reward"], self.requested_levels, figures)]

    def written(self, level: float) -> float:
        """The level rounded to so many `decimals`, as the question has it."""
        return float(self._template("score").written(level))

    def _learnt_rows(self, plan: Plan, given: OneShotSetup) -> dict[str, Node]:
        """Rows to learn from by the name of where they come from."""
        query = Query(query=requested.QUESTIONS, tables=("rows",), kind="prompts", key=("prompt_id",))
        prompts = plan.table(f"{given.label}/prompts", query, given.train)
        samples = self._answers(plan, f"{given.label}/generated", prompts, given.model, given.reading)
        by_origin: dict[str, Node] = {"generated": samples, "data": given.train}
        if self.pairs:
            pairs = rows_at(plan, self.pairs, self.pairs_format, **renamed(self.pairs_columns))
            learnt = not_held_out(plan, f"{given.label}/pairs", pairs, given.judged)
            by_origin["preferences"] = plan.table(f"{given.label}/preferences", Unpair(), learnt)
        return by_origin

    def _answers(self, plan: Plan, label: str, prompts: Node, policy: Node, reading: Reading) -> Node:
        """The likeliest answer of `policy` to each of `prompts`."""
        sampling = self.likeliest(reading)
        tokens = requested.prompts(plan, label, prompts, policy, reading, sampling)
        return requested.answers(plan, label, tokens, policy, sampling, self.settled_seed)

    def _template(self, column: str, plain: str = "") -> RewardTemplate:
        return RewardTemplate(template=self.reward_template, column=column, decimals=self.decimals, plain=plain)
