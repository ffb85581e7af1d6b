"""What models make of rows of tokens that none of them learnt from: cross-entropy and perplexity, as figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from datakit.label import Logprobs
from datakit.report import Measure
from datakit.sql import Query
from pipelines.graph.node import Node, rows_of
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.graph.steps import after_steps, answer_steps
from pipelines.stages.ask import Reading, asked
from schemas.rows.tokens import TOKENS
from trainers.algorithm import Algorithm, Needs


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Rows with the loss that each model has on them (nats, summed over the `tokens` that count), and the figures."""

    rows: Table
    figures: Table


def learns_answers(algorithm: Algorithm) -> bool:
    """Whether `algorithm` reads answers one by one and nothing more."""
    return {*algorithm.rows.names} <= {*TOKENS.names} and not algorithm.needs & Needs.SCORES


def token_rows(plan: Plan, label: str, rows: Node, model: Node, reading: Reading) -> Node:
    """`rows` with `input_ids` and `loss_mask` as the checkpoint `model` reads them; as they are if they hold both."""
    schema = rows_of(rows)
    if {"input_ids", "loss_mask"} <= {*schema.names}:
        return rows
    steps = answer_steps(reading.rendering.for_model(model.trained_template), reading.max_length, schema)
    return after_steps(plan, label, steps, rows, model)


def losses(plan: Plan, label: str, tokens: Node, models: Mapping[str, Node]) -> Losses:
    """The loss of every one of `models`, by name, on `tokens`: column `loss_<name>`."""
    rows: Node = tokens
    for name, model in models.items():
        op = Logprobs(columns=(("input_ids", "loss_mask", f"logprob_{name}"),), per="row")
        rows = asked(plan, f"{label}/held-out-{name}", op, rows, model)
    columns = ", ".join(f"-logprob_{name} AS loss_{name}" for name in models)
    query = f"SELECT sample_id, {_COUNTED} AS tokens, {columns} FROM rows ORDER BY sample_id"
    table = plan.table(f"{label}/losses", Query(query=query, tables=("rows",), key=("sample_id",)), rows)
    measure = Measure(stage=label, columns=("tokens", *(f"loss_{name}" for name in models)))
    return Losses(rows=table, figures=plan.table(f"{label}/evaluation", measure, table))


_COUNTED = "CAST(coalesce(list_sum(loss_mask[2:]), 0) AS DOUBLE)"
"""Tokens of a row that count: nothing predicts the first."""


def learnt_share(plan: Plan, label: str, tokens: Node) -> Table:
    """Figures of `tokens` (rows or packs): how many there are of a row, and how many of these are learnt."""
    key = tokens.schema.key if tokens.schema is not None else ()
    columns = ", ".join((*key, "CAST(len(input_ids) AS DOUBLE) AS tokens", f"{_COUNTED} AS learnt"))
    query = f"SELECT {columns} FROM rows"
    rows = plan.table(f"{label}/learnt.tokens", Query(query=query, tables=("rows",), key=key), tokens)
    return plan.table(f"{label}/learnt", Measure(stage=f"{label}/learnt", columns=("tokens", "learnt")), rows)
