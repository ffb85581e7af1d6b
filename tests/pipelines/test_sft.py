"""Sft from a model folder and a file to its table: the losses are those that transformers gives the same tokens."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from commands import luigi

from schemas.dataset import Dataset
from tests import pages

COMMAND = (
    "Sft",
    "--model",
    "model",
    "--data",
    "rows.jsonl",
    "--lr",
    "1e-2",
    "--batch-size",
    "8",
    "--eval-share",
    "0.2",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sft")
    pages.model(place / "model")
    rows = [{"prompt": f"What is {n} + 1?", "response": f"It is {n + 1}."} for n in range(60)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = luigi(place, *COMMAND, module="pipelines", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    (place / "out.txt").write_text(done.stdout)
    return place


def only(folder: Path, name: str) -> Dataset:
    [place] = (folder / "quiver-data/sft/rows").glob(f"{name}-????????")
    return Dataset.open(str(place))


@pytest.mark.slow
def test_the_table_holds_the_losses_that_transformers_gives(folder: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM

    network = LlamaForCausalLM.from_pretrained(folder / "model").eval()
    held_out, losses = (only(folder, name).read() for name in ("held-out.tokens", "losses"))
    by_row = {row["sample_id"]: row for row in losses.to_pylist()}
    total = tokens = 0.0
    for row in held_out.select(["sample_id", "input_ids", "loss_mask"]).to_pylist():
        ids, mask = torch.tensor([row["input_ids"]]), torch.tensor(row["loss_mask"][1:])
        with torch.no_grad():
            logprobs = network(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        loss = -float((logprobs * mask).sum())
        assert by_row[row["sample_id"]]["loss_before"] == pytest.approx(loss, rel=1e-5)
        assert by_row[row["sample_id"]]["tokens"] == int(mask.sum())
        total, tokens = total + loss, tokens + float(mask.sum())
    table = (folder / "out.txt").read_text().split("perplexity after")[1].splitlines()[2].split()
    train = only(folder, "train.tokens").read()
    share = sum(map(sum, train["loss_mask"].to_pylist())) / sum(map(len, train["input_ids"].to_pylist()))
    assert table[:3] == [str(train.num_rows), f"{share:.1%}", str(held_out.num_rows)]
    assert (table[3], table[5]) == (f"{total / tokens:.4f}", f"{math.exp(total / tokens):,.2f}")
    assert float(table[4]) < float(table[3]) - 0.5, "answers that are so alike are learnt"


@pytest.mark.slow
def test_packs_are_learnt_too_and_what_was_measured_before_is_kept(folder: Path) -> None:
    done = luigi(folder, *COMMAND, "--packing", "--max-length", "512", module="pipelines", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "sft/rows/held-out-before  " not in done.stderr, "it is there already"
    packs, train = only(folder, "packs").read(), only(folder, "train.tokens").read()
    assert sorted(sum(packs["sample_ids"].to_pylist(), [])) == sorted(train["sample_id"].to_pylist())
    table = done.stdout.split("perplexity after")[1].splitlines()[2].split()
    assert float(table[4]) < float(table[3])
