"""Answers of a policy, compared by a judge: the preference pairs of constitutional AI's second half.

    questions -> an answer at each temperature -> comparisons, principle by lot -> verdicts in both orders

A model that judges in words (a server, a function) is asked by `label.judge`. One whose weights are here is asked what
it thinks of both verdicts: the log-odds of [[A]] against [[B]] are averaged over both orders, so that a liking for what
stands first cancels. Bai et al., "Constitutional AI" (2022, arXiv:2212.08073), section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datakit.blend import Match, Shuffle
from datakit.clients import Sampling
from datakit.generate import Complete
from datakit.label import DrawPrinciple, Judge, Logprobs
from datakit.report import Measure
from datakit.sql import Query
from datakit.template import Question
from pipelines.graph.backend import backend_of
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.steps import after_steps, beside_steps
from pipelines.stages.ask import Reading, ask, asked, readable
from pipelines.stages.iteration import PROMPTS_PER_SHARD, iteration_seed
from schemas.rows.comparisons import SIDES

_CANDIDATE = (
    "SELECT prompt_id, messages, tools, source, sample_id, response, finish_reason, "
    "CAST({temperature!r} AS DOUBLE) AS temperature FROM {table}"
)
_VERDICTS = ("verdict_a", "verdict_b")
JUDGED_BY_ODDS = """
WITH odds AS (
  SELECT pair_id, ahead.logprob_a - ahead.logprob_b AS ahead, behind.logprob_b - behind.logprob_a AS behind
  FROM ahead JOIN behind USING (pair_id)
)
SELECT compared.*,
  CASE WHEN ahead + behind > 0 THEN 'first' WHEN ahead + behind < 0 THEN 'second' WHEN ahead + behind = 0 THEN 'tie' END
    AS judge,
  CASE WHEN ahead + behind IS NOT NULL THEN 1 / (1 + exp(-greatest(-700, least(700, (ahead + behind) / 2)))) END
    AS judge_wins,
  CAST(sign(ahead) = sign(behind) AS DOUBLE) AS judge_consistent,
  (CAST(ahead > 0 AS DOUBLE) + CAST(behind < 0 AS DOUBLE)) / 2 AS judge_first
FROM compared LEFT JOIN odds USING (pair_id) ORDER BY pair_id
"""
"""The columns that `label.judge` adds, of log-odds; a row that the judge could not read has no verdict."""
JUDGED = ("decided", "consistent", "first")
"""What is measured of comparisons."""


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """Who answers, once in each way of `sampling`, who judges, and by which `principles`. What a judge of weights is
    asked has `question_length` tokens at most.
    """

    policy: Node
    judge: Node
    reading: Reading
    sampling: Sequence[Sampling]
    principles: DrawPrinciple
    max_pairs: int
    votes: int
    question_length: int
    seed: int


def candidates(plan: Plan, label: str, rows: Node, how: Comparing) -> Node:
    """An answer at every temperature to each of the questions in `rows`; those of one question side by side."""
    query = "SELECT DISTINCT ON (prompt_id) prompt_id, messages, tools, source FROM rows ORDER BY prompt_id, source"
    distinct = Query(query=query, tables=("rows",), kind="prompts", key=("prompt_id",))
    questions = plan.table(f"{label}/questions", distinct, rows, rows_per_shard=PROMPTS_PER_SHARD)
    first = Complete(sampling=how.sampling[0])
    prompts = readable(plan, f"{label}/questions", first, questions, how.policy, how.reading)
    parts, given = [], []
    for number, sampling in enumerate(how.sampling):
        name, seed = f"{label}/temperature={sampling.temperature:g}", iteration_seed(how.seed, number)
        given.append(asked(plan, name, Complete(sampling=sampling), prompts, how.policy, seed=seed))
        parts.append(_CANDIDATE.format(temperature=sampling.temperature, table=f"t{number}"))
    union = " UNION ALL ".join(parts) + " ORDER BY prompt_id, temperature"
    tables = tuple(f"t{number}" for number in range(len(parts)))
    together = Query(query=union, tables=tables, kind="candidates", key=("sample_id",))
    joined = plan.table(f"{label}/candidates.joined", together, *given)
    grouped = Shuffle(together="prompt_id")
    return plan.table(f"{label}/candidates", grouped, joined, seed=how.seed, rows_per_shard=PROMPTS_PER_SHARD)


def compared(plan: Plan, label: str, answers: Node, how: Comparing) -> Node:
    """Comparisons of `answers` with the judge's verdict on each."""
    match = Match(max_pairs=how.max_pairs, beside=(("temperature", "temperature"),))
    drawn = plan.table(f"{label}/comparisons", match, answers, seed=how.seed)
    rows = plan.table(f"{label}/comparisons.principles", how.principles, drawn, seed=how.seed)
    if "judge" in backend_of(how.judge).roles:
        op = Judge.of({"rubric": "principle", "answers": list(SIDES), "votes": how.votes})
        return ask(plan, f"{label}/verdicts", op, rows, how.judge, reading=how.reading, seed=how.seed)
    orders = {name: _log_odds(plan, f"{label}/verdicts.{name}", rows, sides, how) for name, sides in _ORDERS.items()}
    query = Query(query=JUDGED_BY_ODDS, tables=("compared", *orders), kind="comparisons", key=("pair_id",))
    return plan.table(f"{label}/verdicts", query, rows, *orders.values())


_ORDERS = {"ahead": SIDES, "behind": SIDES[::-1]}
"""Both orders in which a judge sees two answers: the first one ahead, or behind the other."""


def _log_odds(plan: Plan, label: str, rows: Node, sides: tuple[str, ...], how: Comparing) -> Node:
    """What the judge thinks of both verdicts on answers that stand in this order."""
    question = plan.table(f"{label}.asked", Question(answers=sides, verdicts=_VERDICTS), rows)
    rendering = how.reading.rendering.for_model(how.judge.trained_template)
    steps = [step for name in _VERDICTS for step in beside_steps(rendering, how.question_length, name)]
    tokens = after_steps(plan, label, steps, question, how.judge)
    columns = tuple((f"{name}_ids", f"{name}_mask", f"logprob_{name[-1]}") for name in _VERDICTS)
    return asked(plan, label, Logprobs(columns=columns, per="row"), tokens, how.judge)


def verdict_figures(plan: Plan, label: str, verdicts: Node) -> Node:
    """Figures of `verdicts`: how many there are, how many stay in both orders, how many replies take what is first."""
    query = (
        "SELECT pair_id, CAST(coalesce(judge <> 'tie', false) AS DOUBLE) AS decided, judge_consistent AS consistent, "
        'judge_first AS "first" FROM rows ORDER BY pair_id'
    )
    table = plan.table(f"{label}/verdicts.counted", Query(query=query, tables=("rows",), key=("pair_id",)), verdicts)
    return plan.table(f"{label}/verdicts.figures", Measure(stage=f"{label}/verdicts", columns=JUDGED), table)
