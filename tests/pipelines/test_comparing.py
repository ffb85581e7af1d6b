"""Verdicts of log-odds, by hand; the graph of both ways to judge; what a round of revisions measures."""

from __future__ import annotations

from math import exp
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.clients import Sampling
from datakit.label import DrawPrinciple
from datakit.sql import Query
from pipelines.graph.backend import checkpoint_at, model_at
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.stages.ask import Reading
from pipelines.stages.comparing import JUDGED_BY_ODDS, Comparing, compared
from pipelines.stages.critique import changes
from schemas import SAMPLES, Column, Dataset, Schema
from schemas.rows.comparisons import COMPARISONS
from tests.pipelines import small_model

ODDS = Schema(
    "odds", 1, (Column("pair_id", pa.string(), "id"), *(Column(f"logprob_{x}", pa.float64(), x) for x in "ab"))
)


def test_log_odds_are_averaged_over_both_orders(tmp_path: Path) -> None:
    """Of four pairs: a judge that always sees the second as better; one that takes what is first, but the first answer
    more; one in between; one that could not be read.
    """
    table = COMPARISONS.example(4)
    ids = table["pair_id"].to_pylist()
    given = {"ahead": [(-3.0, -1.0), (-1.0, -4.0), (-1.0, -2.0)], "behind": [(-1.0, -2.0), (-2.0, -3.0), (-1.0, -2.0)]}
    rows = [Dataset.from_arrow(table, COMPARISONS, str(tmp_path / "compared"))]
    for name, values in given.items():
        columns = {"pair_id": ids[:3], **dict(zip(("logprob_a", "logprob_b"), zip(*values, strict=True), strict=True))}
        rows.append(Dataset.from_arrow(pa.table(columns, ODDS.arrow), ODDS, str(tmp_path / name)))
    query = Query(query=JUDGED_BY_ODDS, tables=("compared", *given), kind="comparisons", key=("pair_id",))
    made = {row["pair_id"]: row for row in apply(query, rows, str(tmp_path / "judged")).read().to_pylist()}
    figures = [[made[name][f"judge{part}"] for part in ("", "_wins", "_consistent", "_first")] for name in ids]
    assert figures[0] == ["second", pytest.approx(1 / (1 + exp(1.5))), 1.0, 0.5]
    assert figures[1] == ["first", pytest.approx(1 / (1 + exp(-1))), 0.0, 1.0]
    assert figures[2] == ["tie", 0.5, 0.0, 1.0]
    assert figures[3] == [None] * 4


def test_a_judge_in_words_is_asked_by_its_rubric_and_one_of_weights_for_log_probabilities(tmp_path: Path) -> None:
    small_model.write(tmp_path / "model")
    (tmp_path / "minds.py").write_text("def judge(conversations):\n    return ['[[A]]' for _ in conversations]\n")
    plan = Plan(str(tmp_path / "out"))
    model = checkpoint_at(plan, str(tmp_path / "model"))
    answers = SAMPLES.adding(Column("temperature", pa.float64(), "of the draw"))
    place = str(tmp_path / "answers")
    Dataset.from_arrow(answers.example(6), answers, place)
    rows, server = plan.existing(place, "dataset"), model_at(plan, "http://127.0.0.1:1/v1#m")
    settings: dict[str, Any] = {"policy": model, "reading": Reading(), "sampling": [Sampling()], "max_pairs": 1}
    principles = DrawPrinciple(texts=("choice",))
    made = {}
    for name, judge in {"words": server, "weights": model}.items():
        how = Comparing(judge=judge, principles=principles, votes=1, question_length=64, seed=0, **settings)
        node = compared(plan, name, rows, how)
        assert isinstance(node, Table) and node.schema is not None
        made[name] = [one.op.name for one in node.ancestors() if isinstance(one, Table)]
        assert {"judge", "judge_wins", "judge_consistent", "judge_first"} <= {*node.schema.names}
    assert "label.judge" in made["words"] and "label.logprobs" not in made["words"]
    assert made["weights"].count("label.logprobs") == made["weights"].count("template.question") == 2


def test_what_a_round_measures_is_what_changed(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "sample_id": ["a", "b"],
            "draft": ["one", "two"],
            "revision": ["one", "three"],
            "finish_reason": ["stop", "length"],
        }
    )
    schema = Schema("rows", 1, tuple(Column(name, pa.string(), name) for name in rows.column_names), ("sample_id",))
    Dataset.from_arrow(rows, schema, str(tmp_path / "rows"))
    plan = Plan(str(tmp_path / "out"))
    figures = changes(plan, "round", plan.existing(str(tmp_path / "rows"), "dataset"))
    table = figures.inputs[0]
    assert isinstance(table, Table)
    made = apply(table.op, [Dataset.open(str(tmp_path / "rows"))], str(tmp_path / "made")).read().to_pylist()
    assert [{**row, "sample_id": ""} for row in made] == [
        {"sample_id": "", "changed": 0.0, "draft_characters": 3.0, "revision_characters": 3.0, "cut": 0.0},
        {"sample_id": "", "changed": 1.0, "draft_characters": 3.0, "revision_characters": 5.0, "cut": 1.0},
    ]
