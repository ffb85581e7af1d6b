"""Pairs as a reward model reads them, and what its rewards of them are worth."""

from __future__ import annotations

from dataclasses import dataclass

from datakit.blend import Unpair
from datakit.label import Longer, Reward
from datakit.report import Measure
from datakit.sql import Query
from datakit.template import Rendering
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.graph.steps import after_steps, pair_steps
from pipelines.stages.ask import Reading, ask

REWARDED_PAIRS = """
WITH sides AS (
  SELECT regexp_replace(sample_id, '-(chosen|rejected)$', '') AS pair_id, desirable, reward FROM rewards
), pairs AS (
  SELECT pair_id, max(CASE WHEN desirable THEN reward END) AS reward_chosen,
    max(CASE WHEN NOT desirable THEN reward END) AS reward_rejected
  FROM sides GROUP BY pair_id
)"""
"""SQL of `pairs`, made of a table `rewards` of both answers' rewards: reward_chosen and reward_rejected by pair_id."""

_ORDERED = f"""{REWARDED_PAIRS}, judged AS (
  SELECT *, reward_chosen - reward_rejected AS reward_margin,
    CAST(sign(reward_chosen - reward_rejected) = 1 AS DOUBLE) AS accuracy,
    1 / (1 + exp(-abs(reward_chosen - reward_rejected))) AS confidence
  FROM pairs WHERE reward_chosen IS NOT NULL AND reward_rejected IS NOT NULL
), binned AS (SELECT *, CAST(least(floor(confidence * 20) - 10, 9) AS INTEGER) AS bin FROM judged)
SELECT *, abs(avg(confidence) OVER (PARTITION BY bin) - avg(accuracy) OVER (PARTITION BY bin)) AS calibration_error
FROM binned ORDER BY pair_id
"""
"""A row for every pair: 1 where the chosen answer has the strictly greater reward, as TRL and the trainer's validation
count (equal ones and NaN are 0), how sure sigma(|difference|) is of that, and how far those of its bin (ten from 1/2 to
1) are off on average; the mean of that is the expected calibration error (Guo et al. 2017).
"""

_RELIABILITY = """
SELECT bin, 0.5 + bin / 20.0 AS sure_from, count(*) AS pairs, avg(confidence) AS confidence, avg(accuracy) AS accuracy
FROM pairs GROUP BY bin ORDER BY bin
"""
"""The reliability table: of the pairs of every bin how sure the model is on average, and how often it is right."""


@dataclass(frozen=True, kw_only=True)
class PairFigures:
    """Held-out answers, their rewards, the pairs in order, their bins, and the figures of both and of a judge of
    lengths.
    """

    answers: Table
    rewards: Table
    order: Table
    reliability: Table
    figures: dict[str, Node]


def pair_tokens(
    plan: Plan, label: str, pairs: Node, tokenizer: Node, rendering: Rendering, max_length: int | None
) -> Node:
    """`pairs` (PREFERENCES) with `chosen_ids` and `rejected_ids`, whole conversations as a reward model reads them."""
    return after_steps(plan, label, pair_steps(rendering, max_length, masks=False), pairs, tokenizer)


def baselines(plan: Plan, label: str, pairs: Node) -> Node:
    """How often the longer answer of a held-out pair is the better one, as figures."""
    compared = plan.table(f"{label}/pairs.held-out.longer", Longer(), pairs)
    return plan.table(f"{label}/baselines", Measure(stage=f"{label}/pairs", columns=(Longer().output,)), compared)


def pair_figures(plan: Plan, label: str, pairs: Node, model: Node, reading: Reading) -> PairFigures:
    """What the reward model `model` makes of `pairs`, which it did not learn from."""
    answers = plan.table(f"{label}/held-out.answers", Unpair(desirable=True), pairs)
    rewards = ask(plan, f"{label}/held-out.rewards", Reward(), answers, model, reading=reading)
    order = plan.table(f"{label}/held-out-order", Query(query=_ORDERED, tables=("rewards",), key=("pair_id",)), rewards)
    binned = Query(query=_RELIABILITY, tables=("pairs",), key=("bin",))
    reliability = plan.table(f"{label}/held-out-reliability", binned, order)
    columns = ("accuracy", "reward_margin", "calibration_error")
    figures = {
        "evaluation": plan.table(f"{label}/evaluation", Measure(stage=label, columns=columns), order),
        "rewards": plan.table(f"{label}/rewards", Measure(stage=f"{label}/rewards", columns=("reward",)), rewards),
        "baselines": baselines(plan, label, pairs),
    }
    return PairFigures(answers=answers, rewards=rewards, order=order, reliability=reliability, figures=figures)
