"""A reward model of a model and a file of pairs, after Bradley and Terry: the better answer gets the greater number.

    --data -> train    -> template -> tokens of both answers -> training -> reward model
           -> held out -> answers  -> rewards -> order, calibration, mean and spread -> table, model.measured

The reward is a scalar head at the last token. How sure it is of a pair, sigma of the difference, is held against how
often it is right. `model.measured` is the same model with mean and spread of its held-out rewards, by which
`label.reward` standardises where it is asked to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import luigi

from datakit.label import Longer
from pipelines.commands.one_shot import OneShotOfPairs, OneShotSetup, learning_over
from pipelines.graph.external import MeasuredModel
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import near
from pipelines.graph.results import Results
from pipelines.report import suggestions
from pipelines.report.figures import Figure, FigureTable, metrics
from pipelines.stages.rewards import pair_figures, pair_tokens
from schemas.dataset import Dataset
from trainers.algorithm import Algorithm, Needs
from trainers.reward_scale import FACT, recorded_scale

_COLUMNS = (
    Figure("pairs", ",.0f", meaning="held-out pairs"),
    Figure("accuracy", ".1%", meaning="pairs whose chosen answer has the greater reward; equal ones do not count"),
    Figure("longer answer", ".1%", meaning="the same by a judge who takes the longer answer (half of equal ones)"),
    Figure("calibration error", ".1%", meaning="how far sigma of a difference is from how often it is right"),
    Figure("rewards/margins", ".4f", meaning="mean difference of a pair's rewards"),
    Figure("mean reward", ".4f", meaning="of held-out answers: the mean that model.measured carries"),
    Figure("spread", ".4f", meaning="standard deviation of these: the std that it carries"),
)
_RELIABILITY = (
    Figure("sure from", ".0%", meaning="sigma of a pair's difference: where the bin begins"),
    Figure("pairs", ",.0f", meaning="held-out pairs in it"),
    Figure("sure", ".1%", meaning="how sure it is of them on average"),
    Figure("right", ".1%", meaning="how often it is right"),
)


class RewardModel(OneShotOfPairs):
    """A model that gives the chosen answers of the pairs in `data` greater rewards than the rejected ones."""

    example = "--model FOLDER --data pairs.jsonl --lr 1e-5"
    unfit = "learns no rewards from pairs"
    fitting = "judged attributes are learnt by the commands of docs/formats.md; here an algorithm over both answers"
    title, made, exported = "reward-model", "model", "measured"

    algorithm = luigi.Parameter(default="rm", description="algorithm over both answers of a pair that learns a score")
    learning = learning_over(optim={"lr": 1e-5})

    def results(self, plan: Plan) -> Results:
        """Both kinds of pairs as tokens, the reward model, and its rewards of the pairs that it did not learn from."""
        given = self.one_shot_setup(plan)
        label, first, reading = given.label, given.model, given.reading
        rendering = reading.rendering.for_model(first.trained_template)
        tokens = {
            part: pair_tokens(plan, f"{label}/{part}", rows, first, rendering, reading.max_length)
            for part, rows in given.parts.items()
        }
        model = plan.model(
            f"{label}/model",
            self.training_for(label),
            data=tokens["train"],
            tokenizer=first,
            init=first,
            validation=tokens.get("held-out"),
        )
        datasets: dict[str, Node] = {"train": tokens["train"]}
        figures: dict[str, Node] = {}
        checkpoints: dict[str, Node] = {"first": first, "model": model}
        binned: tuple[Node, ...] = ()
        if given.held_out is not None:
            judged = pair_figures(plan, label, given.held_out, model, reading)
            datasets |= {"held_out": tokens["held-out"], "rewards": judged.rewards, "order": judged.order}
            datasets |= {"answers": judged.answers, "reliability": judged.reliability}
            figures, binned = judged.figures, (judged.reliability,)
            measured = MeasuredModel(
                label=f"{label}/model.measured", root=plan.root, model=model, rewards=judged.rewards
            )
            checkpoints["measured"] = plan.add(measured)
        return Results(
            targets=(*figures.values(), *binned, *checkpoints.values()),
            datasets=datasets,
            checkpoints=checkpoints,
            figures=figures,
        )

    def uses(self, given: OneShotSetup, trained: Node) -> Iterator[str]:
        """Rewards of answers: of the held-out ones, where there are any."""
        answers = self.graph.datasets.get("answers")
        if answers is not None and answers.manifest():
            asked = ["--data", near(answers.url), *suggestions.written_as(given.reading.rendering)]
            bound = ["--max-length", str(given.reading.max_length)]
            measured = self.graph.checkpoints["measured"]
            made = measured.manifest()
            scaled = made is not None and recorded_scale(made.facts.get(FACT))
            standard = ["--params", '{"standardize": true}'] if scaled else []
            yield suggestions.command(
                "Label", "--op", "reward", "--model", near(measured.url), *standard, *asked, *bound
            )

    def report(self) -> Sequence[FigureTable]:
        """How well it orders held-out pairs, what its rewards are like, and how far to believe it."""
        if not self.graph.figures:
            return []
        order, rewards, longer = (metrics(self.graph.figures[name]) for name in ("evaluation", "rewards", "baselines"))
        means = (order["accuracy.mean"], longer[f"{Longer().output}.mean"], order["calibration_error.mean"])
        row = (
            order["accuracy.count"],
            *means,
            order["reward_margin.mean"],
            rewards["reward.mean"],
            rewards["reward.std"],
        )
        title = f"{self.task_family}: {self.graph.checkpoints['model'].label}"
        bins = Dataset.open(self.graph.datasets["reliability"].url).read(
            columns=["sure_from", "pairs", "confidence", "accuracy"]
        )
        reliability = tuple(zip(*(column.to_pylist() for column in bins.columns), strict=True))
        return [
            FigureTable(title, _COLUMNS, (row,)),
            FigureTable(f"{title}: reliability", _RELIABILITY, reliability),
        ]

    @staticmethod
    def fits(algorithm: Algorithm) -> bool:
        """Whether `algorithm` scores both answers of a pair."""
        return bool(algorithm.needs & Needs.SCORES) and len(algorithm.sequences) == 2
