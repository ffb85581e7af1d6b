"""How a policy orders pairs that it did not learn from, or rewards answers that were judged one by one, as a table."""

from __future__ import annotations

from pipelines.graph.nodes import TrainedCheckpoint
from pipelines.graph.results import Results
from pipelines.report.figures import Figure, FigureTable, metrics
from pipelines.stages.preference_training import MEASURED, reward_of


def preference_table(title: str, results: Results) -> FigureTable:
    """The figures of the evaluation in `results` under TRL's names; rewards are explained as the algorithm that
    trained the policy declares them.
    """
    figures, trained = metrics(results.figures["evaluation"]), results.checkpoints["policy"]
    assert isinstance(trained, TrainedCheckpoint)
    meaning = reward_of(trained.training).meaning
    if "wanted.count" in figures:
        chosen, rejected = (figures.get(f"reward_{name}.mean") for name in ("wanted", "unwanted"))
        margin = None if chosen is None or rejected is None else chosen - rejected
        judged = (figures["wanted.count"], figures["wanted.mean"], chosen, rejected, margin)
        return FigureTable(f"{title}: held-out answers", _of_answers(meaning), (judged,))
    row = (figures["before.count"], *(figures[f"{name}.mean"] for name in MEASURED))
    return FigureTable(f"{title}: held-out pairs", _of_pairs(meaning), (row,))


def _of_pairs(meaning: str) -> tuple[Figure, ...]:
    return (
        Figure("pairs", ",.0f", meaning="held-out pairs"),
        Figure(
            "chosen likelier before",
            ".1%",
            meaning="pairs whose chosen answer the first policy finds likelier",
            change="chosen likelier",
        ),
        Figure("after", ".1%", meaning="the same by the trained policy", change="chosen likelier"),
        Figure("rewards/accuracies", ".1%", meaning="pairs whose chosen answer has the greater reward"),
        Figure("rewards/margins", ".4f", meaning="mean difference of the rewards"),
        Figure("rewards/chosen", ".4f", meaning=f"mean reward: {meaning}"),
        Figure("rewards/rejected", ".4f", meaning="the same of the other answers"),
    )


def _of_answers(meaning: str) -> tuple[Figure, ...]:
    return (
        Figure("answers", ",.0f", meaning="held-out answers that were judged one by one"),
        Figure("wanted", ".1%", meaning="of these"),
        Figure("rewards/chosen", ".4f", meaning=f"mean reward of wanted ones: {meaning}"),
        Figure("rewards/rejected", ".4f", meaning="the same of the unwanted ones"),
        Figure("rewards/margins", ".4f", meaning="difference of the two: above 0, the policy tells them apart"),
    )
