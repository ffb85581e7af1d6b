"""Rows that a stage set aside one and all: the command ends, and names the reason and the flag. Lengths by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import luigi

from pipelines.cli import invocation
from pipelines.runtime.emptied import check_emptied
from schemas import Dataset
from schemas.errors import DataError
from tests import pages
from tests.pipelines.tokenized import tokenized


def test_what_reads_rows_that_were_all_too_long_ends_with_their_lengths_and_the_flag(tmp_path: Path) -> None:
    """A letter is a token: the answers differ by 70 tokens. The flag has 16 tokens more than rows may have."""
    kept, behind = tokenized(tmp_path, [130, 200], 40, "true")
    lengths = Dataset.open(kept.inputs[0].url).read_rejected()
    assert lengths is not None
    shortest, longest = sorted(int(value) for value in lengths["value"].to_pylist())
    assert longest - shortest == 70 and shortest > 130
    invocation.given(["RestIteration", "--own-max-length", "56"])
    for node in (kept, behind):
        with pytest.raises(DataError, match="all 2 rows of tokens are longer than 40 tokens") as fault:
            check_emptied(node, "--own-max-length")
        assert fault.value.expected == "at most 40 tokens, which --own-max-length decides"
        assert fault.value.found == f"{shortest} tokens the shortest, {longest} the longest"
        assert fault.value.next == f"--own-max-length {longest + 16}"
    invocation.given(["RestIteration"])
    with pytest.raises(DataError) as fault:
        check_emptied(behind, "--own-max-length")
    assert fault.value.next.startswith("quiver show ") and fault.value.next.endswith("/rejected")


def test_rows_that_a_filter_leaves_out_and_rows_that_are_left_are_no_fault(tmp_path: Path) -> None:
    kept, behind = tokenized(tmp_path, [4, 300], 40, "false")
    assert Dataset.open(kept.url).num_rows == 0 and Dataset.open(kept.inputs[0].url).num_rows == 1
    check_emptied(kept, "--max-length")
    check_emptied(behind, "--max-length")


@pytest.mark.slow
def test_a_recipe_whose_rows_are_all_too_long_trains_nothing(tmp_path: Path) -> None:
    """The first command, and the same one again; the flag that it names lets every row in."""
    pages.model(tmp_path / "model")
    rows = [{"prompt": f"What is {n} + 1?", "response": f"It is {n + 1}, and that is all."} for n in range(10, 30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["Sft", "--model", "model", "--data", "rows.jsonl", "--lr", "1e-3", "--eval-share", "0", "--max-length"]
    for _ in range(2):
        done = luigi(tmp_path, *words, "40", module="pipelines", COLUMNS="400")
        assert done.returncode == DataError.code, done.stderr
        assert done.stderr.count("error[10/no-rows]: all 20 rows of ") == 1 and done.stderr.count("error[") == 1
        [line] = [line for line in done.stderr.splitlines() if line.startswith("  next: ")]
        command, _, longest = line.rpartition(" ")
        assert command.endswith("--max-length") and "Sft" in command and int(longest) > 40
        assert not [*tmp_path.glob("quiver-data/sft/*policy*")]
