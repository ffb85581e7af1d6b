"""Answers that a critic takes apart by a principle and writes anew, round by round: the supervised half of
constitutional AI.

    questions -> response = first draft
    draft, principle by lot -> critique -> revision = draft of the next round

Every arrow is a dataset that stays. A round asks about its draft alone, so that no dialogue grows with the rounds.
Bai et al., "Constitutional AI" (2022, arXiv:2212.08073), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from datakit.clients import Sampling
from datakit.generate import Complete
from datakit.label import DrawPrinciple
from datakit.report import Measure
from datakit.sql import Query
from datakit.template import Line, Turns
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.stages.ask import Reading, ask
from pipelines.stages.iteration import PROMPTS_PER_SHARD, iteration_seed

QUESTIONS = (
    "SELECT DISTINCT ON (prompt_id) prompt_id, messages, messages AS question, tools, source FROM rows "
    "ORDER BY prompt_id, source"
)
"""Every question once; `question` stays what it is while `messages` becomes what a model is asked."""
_KEPT = "prompt_id, question, tools, source, initial_response"
_PRINCIPLE = "principle, critique_request, revision_request"
_FIRST = f"SELECT {_KEPT.replace('initial_response', 'response AS initial_response')}, response AS draft FROM rows"
_NEXT = f"SELECT {_KEPT}, revision AS draft FROM rows"
_CRITICISED = f"SELECT {_KEPT}, draft, {_PRINCIPLE}, response AS critique FROM rows"
_REVISED = (
    f"SELECT sample_id, {_KEPT.replace('question', 'question, question AS messages')}, draft, {_PRINCIPLE}, critique, "
    "response, response AS revision, finish_reason, CAST({round} AS INTEGER) AS round FROM rows"
)
_DRAFT = Line(role="assistant", content="{draft}")
_CRITIQUE = (Line(role="user", content="{critique_request}"), Line(role="assistant", content="{critique}"))
_REVISION = (Line(role="user", content="{revision_request}"), Line(role="assistant", content="{revision}"))
CHANGES = ("changed", "draft_characters", "revision_characters", "cut")
"""What is measured of the rows of a round."""


@dataclass(frozen=True, kw_only=True)
class Revising:
    """Who answers, who criticises and revises, and how each reads what leaves room for an answer of `sampling`.
    `principles` are drawn anew in every one of `rounds`; turns of `few_shot` stand before every question.
    """

    model: Node
    reading: Reading
    critic: Node
    critic_reading: Reading
    sampling: Sampling
    principles: DrawPrinciple
    few_shot: tuple[Line, ...]
    rounds: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Revised:
    """The first answers, and of every round its critiques and its rows, whose `response` is the revision."""

    responses: Node
    critiques: tuple[Node, ...]
    rows: tuple[Node, ...]


def revised(plan: Plan, label: str, rows: Node, how: Revising) -> Revised:
    """The questions in `rows` (`prompt_id`, `messages`) with all that came of them; results lie below `label`."""
    asked = _rows(plan, f"{label}/questions", QUESTIONS, rows, "prompt_id")
    if how.few_shot:
        before = Turns(before=how.few_shot, conversation="question")
        asked = plan.table(f"{label}/questions.asked", before, asked, rows_per_shard=PROMPTS_PER_SHARD)
    complete, seed = Complete(sampling=how.sampling), iteration_seed(how.seed, 0)
    responses = ask(plan, f"{label}/responses", complete, asked, how.model, reading=how.reading, seed=seed)
    drafts, critiques, made = _rows(plan, f"{label}/drafts", _FIRST, responses, "prompt_id"), [], []
    for number in range(1, how.rounds + 1):
        below = f"{label}/round={number}"
        drawn = plan.table(f"{below}/principles", replace(how.principles, draw=number), drafts, seed=how.seed)
        criticised = _asked(plan, f"{below}/critiques", drawn, how, (_DRAFT, _CRITIQUE[0]), 2 * number - 1)
        critiques.append(criticised)
        noted = _rows(plan, f"{below}/criticised", _CRITICISED, criticised, "prompt_id")
        turns = (_DRAFT, *_CRITIQUE, _REVISION[0])
        answered = _asked(plan, f"{below}/revisions", noted, how, turns, 2 * number)
        whole = _rows(plan, f"{below}/dialogues", _REVISED.format(round=number), answered, "sample_id", "revisions")
        whole_dialogue = Turns(turns=(_DRAFT, *_CRITIQUE, *_REVISION), conversation="question", into="dialogue")
        made.append(plan.table(f"{below}/revised", whole_dialogue, whole, rows_per_shard=PROMPTS_PER_SHARD))
        drafts = _rows(plan, f"{below}/drafts", _NEXT, made[-1], "prompt_id")
    return Revised(responses=responses, critiques=tuple(critiques), rows=tuple(made))


def changes(plan: Plan, label: str, rows: Node) -> Table:
    """Figures of a round's `rows`: how many drafts changed, their lengths, and how many revisions were cut."""
    query = (
        "SELECT sample_id, CAST(revision <> draft AS DOUBLE) AS changed, CAST(length(draft) AS DOUBLE) AS "
        "draft_characters, CAST(length(revision) AS DOUBLE) AS revision_characters, "
        "CAST(finish_reason = 'length' AS DOUBLE) AS cut FROM rows ORDER BY sample_id"
    )
    table = plan.table(f"{label}/changes", Query(query=query, tables=("rows",), key=("sample_id",)), rows)
    return plan.table(f"{label}/changes.figures", Measure(stage=label, columns=CHANGES), table)


def _rows(plan: Plan, label: str, query: str, rows: Node, key: str, kind: str = "rows") -> Table:
    ordered = query if "ORDER BY" in query else f"{query} ORDER BY prompt_id"
    op = Query(query=ordered, tables=("rows",), key=(key,), kind=kind)
    return plan.table(label, op, rows, rows_per_shard=PROMPTS_PER_SHARD)


def _asked(plan: Plan, label: str, rows: Node, how: Revising, turns: tuple[Line, ...], step: int) -> Table:
    """What the critic answers behind `turns`, drawn in a stream of its own."""
    op = Turns(before=how.few_shot, turns=turns, conversation="question")
    asked = plan.table(f"{label}.asked", op, rows, rows_per_shard=PROMPTS_PER_SHARD)
    complete, seed = Complete(sampling=how.sampling), iteration_seed(how.seed, step)
    return ask(plan, label, complete, asked, how.critic, reading=how.critic_reading, seed=seed)
