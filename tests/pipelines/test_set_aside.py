"""Rows that stages lost, as the end of a recipe names them: counts by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datakit.apply import apply
from datakit.filter import NotIn
from pipelines.graph.plan import Plan
from pipelines.report.set_aside import set_aside
from pipelines.runtime import command
from schemas import PROMPTS, Dataset
from tests.pipelines.tokenized import tokenized


@pytest.mark.parametrize(("long", "share", "warned"), [(3, "30%", True), (2, "20%", False), (0, "", False)])
def test_rows_that_are_too_long_are_counted_with_the_flag(tmp_path: Path, long: int, share: str, warned: bool) -> None:
    """Ten texts, `long` of them longer than 40 tokens; a filter behind them is no loss."""
    lengths = [500 if number < long else 4 for number in range(10)]
    kept, _ = tokenized(tmp_path, lengths, 40, "prompt_id < '8'")
    notes = set_aside([kept], "--own-max-length")
    if not long:
        assert notes == ()
        return
    [note] = notes
    begin = f"{long} of 10 rows ({share}) were set aside in tokens: too-long {long}; rows have 40 tokens at most "
    assert note.removeprefix("warning: ").startswith(f"{begin}(--own-max-length); quiver show ")
    assert note.startswith("warning: ") == warned


def test_a_stage_tells_the_rows_that_it_set_aside_before_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 3 + "no json\n")
    command.run(["--module", "pipelines", "Import", "--files", "bad.jsonl", "--quiver-max-rejected", "0.5"])
    note, place = capsys.readouterr().out.splitlines()
    assert Dataset.open(place.split()[-1]).manifest.num_rows == 3
    assert note.startswith("warning: 1 of 4 rows (25%) were set aside in import/bad: broken-json 1; quiver show ")


def test_what_was_measured_is_told_beside_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The share of right answers, and of those that stay."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "q", "response": text, "answer": "4"} for text in ("3", "4", "5", "6")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words in (
        ["Import", "--name", "in", "--files", "rows.jsonl", "--format", "completions", "--keep", "answer"],
        ["Label", "--name", "checked", "--op", "verify", "--params", '{"kind": "number"}',
         "--data", "quiver-data/in-*"],
        ["Filter", "--name", "best", "--op", "threshold", "--params", '{"column": "correct", "minimum": 0.5}',
         "--data", "quiver-data/checked-*"],
    ):  # fmt: skip
        command.run(["--module", "pipelines", *words])
    printed = " ".join(capsys.readouterr().err.split())
    assert "checked 4 rows, mean correct 0.25," in printed and "best 1 row, 3 set aside, mean correct 1," in printed


def test_rows_of_held_out_prompts_are_counted(tmp_path: Path) -> None:
    """One of ten rows is judged by."""
    rows, judged = PROMPTS.example(10), PROMPTS.example(10).slice(4, 1)
    plan = Plan(str(tmp_path / "data"))
    given = []
    for name, some in (("rows", rows), ("judged", judged)):
        Dataset.from_arrow(some, PROMPTS, str(tmp_path / name))
        given.append(plan.existing(str(tmp_path / name), "dataset"))
    learnt = plan.table("learnt", NotIn(reason="held-out"), *given)
    apply(learnt.op, [Dataset.open(one.url) for one in given], learnt.url, processes=1)
    [note] = set_aside([learnt], "")
    assert note.startswith("1 of 10 rows (10%) were set aside in learnt: held-out 1; quiver show ")
