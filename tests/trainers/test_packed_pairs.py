"""Packs of pairs teach what the pairs teach."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from datakit.apply import apply
from datakit.tokenize import PackPairs
from datakit.tokenize import Train as TrainTokenizer
from pipelines.graph.plan import Plan
from schemas import COMPLETIONS, PACKED_PAIRS, PACKS
from schemas.dataset import Dataset
from schemas.errors import DataError
from schemas.settings import parse
from tests.trainers import toys
from trainers import engine, registry
from trainers import run as runs
from trainers.config import Run, training_of

NUMBERS = {"dpo": ("ref_logprob_chosen", "ref_logprob_rejected"), "rm": ()}


def packed(folder: Path, name: str) -> tuple[pa.Table, Dataset]:
    """Pairs that the algorithm `name` reads, and packs of them."""
    algorithm = registry.algorithms()["dpo"]
    table = toys.rows_for(algorithm, 12)
    data = toys.put(folder / "pairs", algorithm.rows, table)
    return table, apply(PackPairs(capacity=110, numbers=NUMBERS[name]), data, str(folder / "packs"))


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_packs_of_pairs_teach_what_the_pairs_teach(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    table, packs = packed(tmp_path, name)
    inside = packs.read()
    assert 1 < inside.num_rows < 8
    figures = []
    for rows in (table, inside):
        with engine.open(parse(Run, toys.config(tmp_path, algorithm=name, data=...))) as trainer:
            figures.append([trainer.learn(rows) for _ in range(3)])
    for one, other in zip(*figures, strict=True):
        assert one.pop("rows") == 12 and other.pop("rows") == inside.num_rows
        assert other == pytest.approx(one, rel=1e-5, abs=1e-6)


def test_a_run_over_packs_records_every_pair(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    table, packs = packed(tmp_path, "dpo")
    records = str(tmp_path / "records")
    changes = {"algorithm": "dpo", "data": packs.url, "records": records, "epochs": 1, "max_steps": ...}
    optim = {"lr": 1e-3}
    runs.execute(parse(Run, toys.config(tmp_path, **changes, global_batch_size=2, optim=optim)))
    read = Dataset.open(records).read()
    assert sorted(read["pair_id"].to_pylist()) == sorted(table["pair_id"].to_pylist())


def test_packs_of_pairs_are_looked_into(tmp_path: Path) -> None:
    _, packs = packed(tmp_path, "dpo")
    inside = packs.read()
    first = max(inside.to_pylist(), key=lambda row: len(row["pair_ids"]))
    assert len(first["pair_ids"]) > 1
    start = first["chosen_lengths"][0]
    longer = [length + 1 for length in first["rejected_lengths"]]
    broken = {
        "chosen_mask counts no token that can be": {"chosen_mask": [0] * start + first["chosen_mask"][start:]},
        "rejected_lengths do not add up to rejected_ids": {"rejected_lengths": longer},
        "rejected_lengths are not as many as": {"rejected_lengths": [sum(first["rejected_lengths"])]},
        "ref_logprob_chosen are not as many as": {"ref_logprob_chosen": [1.0]},
    }
    with engine.open(parse(Run, toys.config(tmp_path, algorithm="dpo", data=...))) as trainer:
        for words, change in broken.items():
            with pytest.raises(DataError, match=words):
                trainer.learn(pa.Table.from_pylist([{**first, **change}], schema=inside.schema))
        assert trainer.learn(pa.Table.from_pylist([first], schema=inside.schema))["rows"] == 1


def test_a_graph_trains_on_packs(tmp_path: Path) -> None:
    texts = toys.put(tmp_path / "texts", COMPLETIONS, COMPLETIONS.example(9))
    words = apply(TrainTokenizer(columns=("response",), vocab_size=280), texts, str(tmp_path / "words"))
    plan = Plan(str(tmp_path / "root"))
    tokenizer = plan.existing(words.url, "dataset")
    learning = {"epochs": 1, "global_batch_size": 2, "optim": {"lr": 1e-3}}
    model = {name: size for name, size in toys.MODEL.items() if name != "vocab_size"}
    for name, kind in (("sft", PACKS), ("rm", PACKED_PAIRS)):
        data = plan.existing(toys.put(tmp_path / kind.name, kind, kind.example(3)).url, "dataset")
        training = training_of(name, learning, seed=0, model=model, where="here")
        assert plan.model(name, training, data=data, tokenizer=tokenizer).data is data
    training = training_of("dpo", learning, seed=0, model=model, where="here")
    with pytest.raises(DataError, match="no column ref_logprob_chosen"):
        plan.model("dpo", training, data=data, tokenizer=tokenizer)
