"""Token rows of a student with what a teacher says at every token: by their ids, or across two tokenizers by rank."""

from __future__ import annotations

from datakit.label import Across, TopK
from datakit.sql import Query
from datakit.tokenize import Starts
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.stages.ask import Reading, asked
from pipelines.stages.losses import token_rows


def taught(plan: Plan, label: str, op: TopK, rows: Node, student: Node, teacher: Node, reading: Reading) -> Node:
    """`rows` in the student's tokens with the teacher's likeliest ids, whose tokenizer is the same."""
    return asked(plan, label, op, token_rows(plan, label, rows, student, reading), teacher)


def taught_across(
    plan: Plan, label: str, op: TopK, rows: Node, student: Node, teacher: Node, reading: Reading, theirs: Reading
) -> Node:
    """`rows` in the student's tokens, read as `reading` says, with the log-probabilities that the teacher, which reads
    as `theirs` says and has a tokenizer of its own, has where both begin a token of the answer.
    """
    apart = f"{label}/teacher"
    read = asked(plan, apart, op, token_rows(plan, apart, rows, teacher, theirs), teacher)
    placed = plan.table(f"{apart}.starts", Starts(into=op.into), read, tokenizer=teacher)
    kept = ", ".join(f"{op.into}_{name} AS theirs_{name}" for name in ("text", "starts", "logprobs"))
    query = Query(query=f"SELECT sample_id, {kept} FROM rows", tables=("rows",), key=("sample_id",))
    other = plan.table(f"{apart}.answers", query, placed)
    tokens = token_rows(plan, label, rows, student, reading)
    own = plan.table(f"{label}.starts", Starts(), tokens, tokenizer=student)
    names = ", ".join(f"own.{name}" for name in rows_of(own).names)
    query = Query(
        query=f"SELECT {names}, theirs_text, theirs_starts, theirs_logprobs FROM own LEFT JOIN other USING (sample_id)"
        " ORDER BY own.sample_id",
        tables=("own", "other"),
        kind=rows_of(own).name,
        key=("sample_id",),
    )
    return plan.table(label, Across(into=op.into), plan.table(f"{label}.both", query, own, other))
