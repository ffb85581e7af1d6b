"""How far a policy has come from the first one: KL(policy || first) on the answers that it gave.

Of an answer's tokens, as they were drawn, the sum of log pi - log pi_first in nats: its mean over answers of the policy
is the divergence without bias (k1 of Schulman, "Approximating KL Divergence", 2020). That is one more pass of the first
policy over the answers; what the policy itself gave its tokens stands beside them.
"""

from __future__ import annotations

from datakit.label import Kl, Logprobs
from datakit.report import Measure
from datakit.sql import Query
from datakit.tokenize import Drawn
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.stages.ask import asked

DRAWN, FIRST = "drawn_logprobs", "first_logprobs"
FIGURES = ("kl", "tokens")
"""Columns of a row for each answer: the sum in nats, and how many tokens it is of."""


def divergence(plan: Plan, label: str, answers: Node, first: Node) -> Node:
    """The figures `kl` and `tokens` of `answers` at temperature 1, as against the policy `first`."""
    rows: Node = plan.table(f"{label}/divergence.tokens", Drawn(columns=(("logprobs", DRAWN),)), answers)
    logprobs = Logprobs(columns=(("input_ids", "loss_mask", FIRST),))
    rows = asked(plan, f"{label}/divergence.first", logprobs, rows, first)
    rows = plan.table(f"{label}/divergence.kl", Kl(policy=DRAWN, reference=FIRST), rows)
    query = "SELECT sample_id, kl, CAST(len(response_ids) AS DOUBLE) AS tokens FROM rows ORDER BY sample_id"
    rows = plan.table(f"{label}/divergence.rows", Query(query=query, tables=("rows",), key=("sample_id",)), rows)
    return plan.table(f"{label}/divergence", Measure(stage=label, columns=FIGURES), rows)
