"""What a conditioned policy gives when it is asked for a value: every held-out question at several levels, and the
answers as they were measured.

A subject is what is varied (an attribute, the reward); of each the levels are asked one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from datakit.clients import Sampling
from datakit.generate import Complete
from datakit.report import Measure
from datakit.sql import Query
from pipelines.graph.backend import Step
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.graph.steps import after_steps, prompt_steps
from pipelines.stages.ask import Reading, asked

QUESTIONS = "SELECT DISTINCT ON (prompt_id) prompt_id, messages, tools, source FROM rows ORDER BY prompt_id, sample_id"
"""Every question once, of rows with answers."""


def requests(plan: Plan, label: str, rows: Node, levels: Sequence[float], subjects: int, more: str = "") -> Table:
    """The questions of `rows` once for each level and subject: `subject` and `level` count from 0, `requested` is
    the level's value; `more` are columns besides. A question's name ends in both numbers.
    """
    values = ", ".join(f"CAST({value!r} AS DOUBLE)" for value in levels)
    query = (
        f"SELECT prompt_id || '/' || subject || '/' || level AS prompt_id, messages, tools, source, subject, level, "
        f"[{values}][level + 1] AS requested{more} FROM ({QUESTIONS}) "
        f"CROSS JOIN (SELECT unnest(range({subjects})) AS subject) "
        f"CROSS JOIN (SELECT unnest(range({len(levels)})) AS level) ORDER BY prompt_id"
    )
    op = Query(query=query, tables=("rows",), kind="prompts", key=("prompt_id",), times=subjects * len(levels))
    return plan.table(label, op, rows)


def prompts(
    plan: Plan,
    label: str,
    questions: Node,
    policy: Node,
    reading: Reading,
    sampling: Sampling,
    between: Sequence[Step] = (),
) -> Node:
    """`questions` as the checkpoint `policy` reads them, with room for answers of `sampling`; `between` writes into
    their text.
    """
    assert reading.max_length is not None and reading.tokenizer is not None
    room = reading.max_length - sampling.max_new_tokens
    steps = prompt_steps(reading.rendering.for_model(policy.trained_template), room, between)
    return after_steps(plan, label, steps, questions, reading.tokenizer)


def answers(plan: Plan, label: str, prompts: Node, policy: Node, sampling: Sampling, seed: int) -> Table:
    """What `policy` answers to `prompts`."""
    return asked(plan, label, Complete(sampling=sampling), prompts, policy, seed=seed)


def measured(
    plan: Plan, label: str, answers: Node, column: str, subjects: int, levels: int, *, errors: bool = False
) -> Table:
    """Figures of `answers`: of each subject and level the mean of `column`, an expression over their rows; with
    `errors` of each subject its mean distance from what was requested, where both are on one scale.
    """
    cells = {
        cell(subject, level): f"CASE WHEN subject = {subject} AND level = {level} THEN {column} END"
        for subject in range(subjects)
        for level in range(levels)
    }
    if errors:
        distance = f"abs({column} - requested)"
        cells |= {error(subject): f"CASE WHEN subject = {subject} THEN {distance} END" for subject in range(subjects)}
    columns = ", ".join(f"{expression} AS {name}" for name, expression in cells.items())
    query = Query(query=f"SELECT sample_id, {columns} FROM rows", tables=("rows",), key=("sample_id",))
    table = plan.table(f"{label}/levels", query, answers)
    return plan.table(f"{label}/evaluation", Measure(stage=label, columns=tuple(cells)), table)


def cell(subject: int, level: int) -> str:
    """The column, and the figure, of a subject's level."""
    return f"subject_{subject}_level_{level}"


def error(subject: int) -> str:
    """The column, and the figure, of a subject's distance from what was requested."""
    return f"subject_{subject}_error"
