"""Distill with the teacher's log-probabilities as float16: smaller rows, and nearly the same student."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
from commands import luigi

from tests import pages

DISTILL = ("--teacher", "teacher", "--model", "model", "--data", "sums.jsonl", "--lr", "1e-2", "--batch-size", "8",
           "--eval-share", "0.2", "--top-k", "20")  # fmt: skip


@pytest.mark.slow
def test_a_student_learns_of_float16_what_it_learns_of_float32(tmp_path: Path) -> None:
    for name in ("teacher", "model"):
        pages.model(tmp_path / name)
    rows = [{"prompt": f"What is {n} + 1?", "response": f"It is {n + 1}."} for n in range(60)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kind in ("float32", "float16"):
        words = ("Distill", "--experiment", kind, *DISTILL, "--top-k-dtype", kind)
        done = luigi(tmp_path, *words, module="pipelines", COLUMNS="200")
        assert done.returncode == 0, done.stderr
    with duckdb.connect() as connection:
        connection.execute(f"SET file_search_path = '{tmp_path}/quiver-data/distill'")
        query = "SELECT * FROM '{}/divergence-????????/*.parquet' ORDER BY sample_id"
        whole, half = (connection.sql(query.format(kind)).pl() for kind in ("float32", "float16"))
        ids = "SELECT sample_id, teacher_ids FROM '{}/train-????????/*.parquet' ORDER BY sample_id"
        assert connection.sql(ids.format("float32")).fetchall() == connection.sql(ids.format("float16")).fetchall()
    assert whole["sample_id"].to_list() == half["sample_id"].to_list() and len(whole) > 5
    for when in ("before", "after"):
        assert half[f"{when}_kl"].sum() == pytest.approx(whole[f"{when}_kl"].sum(), rel=5e-3)
    assert half["after_kl"].sum() < half["before_kl"].sum() / 2
