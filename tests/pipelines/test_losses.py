"""Figures of token rows, by hand: which tokens count, and what share of a row that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from datakit.apply import apply
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.report.figures import metrics
from pipelines.stages.losses import learnt_share
from schemas import TOKENS, Dataset


def test_the_first_token_of_a_row_never_counts(tmp_path: Path) -> None:
    """Three rows: 2 of 4 tokens count, then all 3 but the first, then none."""
    ids, masks = [[5, 6, 7, 8], [5, 6, 7], [9]], [[0, 0, 1, 1], [1, 1, 1], [1]]
    columns = {"sample_id": ["a", "b", "c"], "input_ids": ids, "loss_mask": masks}
    rows = Dataset.from_arrow(TOKENS.conform(pa.table(columns)), TOKENS, str(tmp_path / "rows"))
    share = learnt_share(Plan(str(tmp_path)), "some", Plan(str(tmp_path)).existing(rows.url, "dataset"))
    figures = made(share)
    assert (figures["tokens.count"], figures["tokens.mean"]) == (3, 8 / 3)
    assert figures["learnt.mean"] == 4 / 3


def made(figures: Table) -> Any:
    """What the stage measures, and the stage before it, made here."""
    [counts] = figures.inputs
    assert isinstance(counts, Table)
    rows = Dataset.open(counts.inputs[0].url)
    apply(figures.op, apply(counts.op, rows, counts.url), figures.url)
    return metrics(figures)
