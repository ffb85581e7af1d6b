"""Constitutional AI, by preferences: a judge compares answers by a constitution, and a reward model learns it.

    --data -> questions -> an answer at each temperature -> comparisons -> principle, by lot -> verdicts -> pairs
           -> train    -> blended with --helpful -> template -> tokens -> training -> reward model
           -> held out -> answers -> rewards -> order, calibration, mean and spread -> table

Bai et al., "Constitutional AI" (2022, arXiv:2212.08073). Two answers are compared by one principle, which is a function
of the prompt and the seed (`label.principle`), and in both orders: by `label.judge` where the judge answers in words,
by the log-probabilities of both verdicts (`label.logprobs`) where its weights are here. What is in no pair is set aside
with its reason. The policy then learns from the reward model by any method that takes one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import luigi

from datakit.blend import Judged
from datakit.clients import Sampling
from datakit.label import DrawPrinciple
from pipelines.cli.parameters import ListParameter, Number, Whole
from pipelines.cli.references import model_parameter
from pipelines.commands.constitutional import Constitutional
from pipelines.commands.one_shot import OneShotOfPairs, OneShotSetup
from pipelines.graph.backend import backend_of, model_at
from pipelines.graph.limits import longest_row
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import near
from pipelines.graph.results import Results
from pipelines.recipes.reward_model import RewardModel
from pipelines.report import suggestions
from pipelines.report.figures import Figure, FigureTable, metrics
from pipelines.stages.comparing import JUDGED, Comparing, candidates, compared, verdict_figures
from schemas.errors import ConfigError

_COLUMNS = (
    Figure("comparisons", ",.0f", meaning="of two answers that the judge was asked about"),
    Figure("decided", ".1%", meaning="of them, those with a verdict that is no tie"),
    Figure("consistent", ".1%", meaning="share of votes whose two orders agree"),
    Figure("shown first", ".1%", meaning="share of replies for the answer that stood first: half of a fair judge"),
)


class RlCai(Constitutional, RewardModel):
    """A reward model of what a constitution says about a policy's answers to the prompts in `data`."""

    example = "--model FOLDER --data prompts.jsonl --judge http://localhost:8000/v1#llama --lr 1e-5"
    title = "rl-cai"
    helpful_formats = (OneShotOfPairs.usual_format, *OneShotOfPairs.other_formats)
    helpful_columns = OneShotOfPairs.reads[0]

    policy = model_parameter("who answers; empty: --model", "generator")
    judge = model_parameter("who compares; empty: --model", "judge", "model")
    temperatures = ListParameter(
        default=(0.01, 0.51, 1.01, 1.51), description="one answer to every prompt is drawn at each"
    )
    top_k = Whole(least=0, default=50, description="likeliest tokens to choose from; 0: all")
    top_p = Number(least=0, most=1, default=0.95, description="probability mass to choose from")
    max_pairs = Whole(default=2, description="comparisons of a prompt's answers, at most")
    votes = Whole(default=1, description="of a judge that answers in words, each in both orders")
    certainty = Number(
        default=0.5, least=0.5, most=1, description="share of votes, or probability, above which an answer wins"
    )
    consistent = luigi.BoolParameter(description="pairs of which all orders agree, alone")

    verdicts: dict[str, tuple[Node, Node]]
    """Candidates and verdicts, by part, once the graph is planned."""
    questions: Node
    """The prompts whose answers are learnt from."""

    def one_shot_setup(self, plan: Plan) -> OneShotSetup:
        """The prompts, split; then the pairs of both parts, blended where they are learnt from."""
        given, self.verdicts, pairs = super().one_shot_setup(plan), {}, {}
        self.questions = given.train
        how = self._comparing(plan, given)
        judged = Judged(
            consistent="judge_consistent" if self.consistent else "",
            certainty=self.certainty,
            along=("principle", "criterion", "judge_consistent"),
            beside=("temperature",),
        )
        for part, rows in given.parts.items():
            label = f"{given.label}/{part}"
            answers = candidates(plan, label, rows, how)
            self.verdicts[part] = answers, compared(plan, label, answers, how)
            pairs[part] = plan.table(f"{label}/pairs", judged, self.verdicts[part][1])
        train = self.blended(plan, given.label, pairs["train"])
        self.given = replace(given, train=train, held_out=pairs.get("held-out"))
        return self.given

    def _comparing(self, plan: Plan, given: OneShotSetup) -> Comparing:
        policy = model_at(plan, self.policy, "generator") if self.policy else given.model
        judge = model_at(plan, self.judge) if self.judge else given.model
        if "judge" not in backend_of(judge).roles:
            judge = model_at(plan, self.judge, "model") if self.judge else judge
            self._votes_of_weights()
        tokens = self.answer_tokens(given.reading)
        return Comparing(
            policy=policy,
            judge=judge,
            reading=self.leaving_room(given, policy, tokens),
            sampling=[self._sampling(warmth, tokens, given) for warmth in self._warmths()],
            principles=DrawPrinciple(principles=self.principles(), texts=("choice",)),
            max_pairs=self.max_pairs,
            votes=self.votes,
            question_length=self._question_length(given, judge),
            seed=self.settled_seed,
        )

    def _question_length(self, given: OneShotSetup, judge: Node) -> int:
        """As many tokens as `judge` reads, 2048 or --max-length at most: two answers stand in its question."""
        longest = max(longest_row(None, [judge], "--max-length"), given.reading.max_length or 0)
        return min(longest, judge.max_sequence_length or longest)

    def _sampling(self, temperature: float, tokens: int, given: OneShotSetup) -> Sampling:
        stop = given.reading.rendering.stop
        return Sampling(temperature=temperature, top_k=self.top_k, top_p=self.top_p, max_new_tokens=tokens, stop=stop)

    def _warmths(self) -> list[float]:
        """`temperatures` as numbers; `ConfigError` for fewer than two that differ."""
        numbers = [one for one in self.temperatures if isinstance(one, int | float) and not isinstance(one, bool)]
        if len(numbers) < len(self.temperatures) or len({*numbers}) < len(numbers) or len(numbers) < 2:
            raise ConfigError(
                "bad-setting", f"temperatures {[*self.temperatures]} give no two answers to compare",
                expected="two numbers or more, each once", kept="nothing was started",
                next="--temperatures '[0.01, 0.51, 1.01, 1.51]'",
            )  # fmt: skip
        return [float(number) for number in numbers]

    def _votes_of_weights(self) -> None:
        """`ConfigError` for several votes of a judge that is asked for log-probabilities."""
        if self.votes > 1:
            raise ConfigError(
                "bad-setting", "--votes has no use here: log-probabilities are the same every time",
                expected="a judge that answers in words (a server, a function)", kept="nothing was started",
                next="--votes 1",
            )  # fmt: skip

    def results(self, plan: Plan) -> Results:
        """What `RewardModel` makes of the pairs, and before it every candidate and verdict."""
        made = super().results(plan)
        answers, verdicts = self.verdicts["train"]
        figures = {**made.figures, "verdicts": verdict_figures(plan, f"{self.given.label}/train", verdicts)}
        datasets = {"candidates": answers, "verdicts": verdicts, "pairs": self.given.train, **made.datasets}
        return replace(made, targets=(figures["verdicts"], *made.targets), datasets=datasets, figures=figures)

    def uses(self, given: OneShotSetup, trained: Node) -> Iterator[str]:
        """Rewards of answers, and a policy that learns from the reward model."""
        yield from super().uses(given, trained)
        own = ["--own-model", self.model, "--own-prompts", near(self.questions.url), "--own-reward", near(trained.url)]
        tokens = str(self.answer_tokens(given.reading))
        yield suggestions.command("Grpo", "--setup", "own", *own, "--own-max-new-tokens", tokens)

    def report(self) -> Sequence[FigureTable]:
        """How the judge judged, then what `RewardModel` reports."""
        own = metrics(self.graph.figures["verdicts"])
        row = (own["decided.count"], *(own.get(f"{name}.mean", 0.0) for name in JUDGED))
        return [FigureTable(f"{self.task_family}: verdicts", _COLUMNS, (row,)), *super().report()]
