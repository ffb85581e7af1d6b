"""Distill across two tokenizers: the student's rows hold the teacher's own numbers where both begin a token."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
from commands import luigi

from datakit.io import Jsonl
from datakit.label import TopK
from pipelines.graph.backend import checkpoint_at
from pipelines.graph.plan import Plan
from pipelines.recipes import Distill
from pipelines.stages.ask import Reading
from pipelines.stages.taught import taught, taught_across
from tests import pages

SMALL = {"num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 4, "num_query_groups": 4}
TEACHER = (
    ("Import", "--name", "sums", "--files", "sums.jsonl", "--format", "completions"),
    ("Tokenize", "--name", "words", "--op", "train", "--data", "quiver-data/sums-????????",
     "--params", json.dumps({"columns": ["messages", "response"], "vocab_size": 290})),
    ("Template", "--name", "texts", "--op", "chat", "--template", "text", "--data", "quiver-data/sums-????????",
     "--tokenizer", "quiver-data/words-????????"),
    ("Tokenize", "--name", "tokens", "--op", "mask", "--data", "quiver-data/texts-????????",
     "--tokenizer", "quiver-data/words-????????"),
    ("Train", "--name", "teacher", "--tokenizer", "quiver-data/words-????????", "--data", "quiver-data/tokens-????????",
     "--lr", "1e-2", "--batch-size", "8", "--architecture", json.dumps({**SMALL, "max_sequence_length": 128})),
)  # fmt: skip
DISTILL = (
    *("Distill", "--algorithm", "kd_ranked", "--model", "model", "--teacher", "quiver-data/teacher-????????"),
    *("--data", "sums.jsonl", "--lr", "1e-2", "--batch-size", "8", "--eval-share", "0.2", "--top-k", "5"),
    *("--template", "text"),
)


@pytest.mark.slow
def test_rows_hold_the_teachers_numbers_and_the_student_learns(tmp_path: Path) -> None:
    pages.model(tmp_path / "model")
    rows = [{"prompt": f"What is {n} + 1?", "response": f"It is {n + 1}."} for n in range(60)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command in (*TEACHER, DISTILL):
        done = luigi(tmp_path, *command, module="pipelines", COLUMNS="200")
        assert done.returncode == 0, done.stderr
    before, after = (
        float(next(line for line in done.stdout.splitlines() if f"student {when}" in line).split()[-1])
        for when in ("before", "after")
    )
    assert after < before - 0.5
    with duckdb.connect() as connection:
        connection.execute(f"SET file_search_path = '{tmp_path}/quiver-data/distill/sums'")
        train, theirs = (
            connection.sql(f"SELECT * FROM '{name}-????????/*.parquet' ORDER BY sample_id").to_arrow_table()
            for name in ("train", "train/teacher.starts")
        )
    assert train["sample_id"].to_pylist() == theirs["sample_id"].to_pylist() and train.num_rows > 40
    met = 0
    for own, other in zip(train.to_pylist(), theirs.to_pylist(), strict=True):
        assert own["own_text"] == other["teacher_text"] and len(other["input_ids"]) < len(own["input_ids"])
        known = dict(zip(other["teacher_starts"], other["teacher_logprobs"], strict=True))
        for place, numbers in zip(own["own_starts"], own["teacher_logprobs"], strict=True):
            has = place >= 0 and place in known
            assert numbers == (known[place] if has else [0.0] * 5)
            met += has
    assert met >= 3 * train.num_rows, "a word of a teacher's is several letters of the student's"


def test_a_teacher_of_other_ids_is_not_all_that_a_student_learns_from() -> None:
    """By rank alone it would learn how sure to be, and nothing of what."""
    for options, weight in ({}, 1.0), ({"sft_weight": 0.0}, 0.0), ({"kd_weight": 0.5}, 1.0):
        training = Distill(algorithm="kd_ranked", options=options).training_for("some")
        assert training.learning.settings["sft_weight"] == weight
    assert "sft_weight" not in Distill(algorithm="kd").training_for("some").learning.settings


def test_one_id_alone_teaches_nothing(tmp_path: Path) -> None:
    asked = ("Distill", "--model", "model", "--teacher", "model", "--data", "rows.jsonl", "--top-k", "1")
    refused = luigi(tmp_path, *asked, module="pipelines", COLUMNS="200")
    assert refused.returncode == 2 and "1 is below 2" in refused.stderr and not list(tmp_path.iterdir())


def test_one_tokenizer_needs_no_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pages.model(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "q", "response": "a"}\n')
    stages = {}
    for name, of in (("same", taught), ("across", taught_across)):
        plan = Plan("data")
        model = checkpoint_at(plan, "model")
        rows = plan.table("rows", Jsonl(files=("rows.jsonl",), format="completions").pinned())
        more = (Reading(),) if of is taught_across else ()
        made = of(plan, name, TopK(k=2), rows, model, model, Reading(), *more)
        stages[name] = {node.op.name for node in made.ancestors() if hasattr(node, "op")} | {made.op.name}
    assert "tokenize.starts" not in stages["same"] and {"tokenize.starts", "label.across"} <= stages["across"]
