"""Drawn tokens as token rows: a model that reads its own answers says of them what it said drawing them."""

from __future__ import annotations

from pathlib import Path

import pytest

from datakit.apply import apply
from datakit.clients import Sampling
from datakit.generate import Complete
from datakit.io import Reversal
from datakit.label import Logprobs
from datakit.run.resource import Resource
from datakit.template import Chat
from datakit.tokenize import Drawn, Encode, Train
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import TOKENS
from schemas.settings import parse
from trainers import engine
from trainers.config import Run


def test_a_model_says_of_its_answers_what_it_said_as_it_drew_them(tmp_path: Path) -> None:
    """The rows go from draw to log-probability without a template between."""
    rows = apply(Reversal(rows=24), [], str(tmp_path / "rows"))
    made = apply(Train(columns=("messages",), vocab_size=280), rows, str(tmp_path / "words"))
    shape = {"num_layers": 1, "hidden_size": 16, "ffn_hidden_size": 32, "num_attention_heads": 2, "num_query_groups": 1}
    run = {
        "algorithm": "sft",
        "model": {**shape, "vocab_size": 280, "max_sequence_length": 96},
        "optim": {"lr": 0.0},
        "global_batch_size": 1,
        "max_steps": 1,
        "tokenizer": made.url,
        "out": str(tmp_path / "policy"),
    }
    with engine.open(parse(Run, run)) as trainer:
        known = {
            "tokenizer": Resource("words", lambda: Tokenizer.of_dataset(made)),
            "generator": Resource("policy", trainer.generator),
            "model": Resource("policy", trainer.token_model),
        }
        sampling = Sampling(samples_per_prompt=2, max_new_tokens=12)
        encode = Encode(columns=(("pieces", "prompt_ids"),))
        asking = Logprobs(columns=(("input_ids", "loss_mask", "again"),))
        for number, op in enumerate((Chat(generation=True), encode, Complete(sampling=sampling), Drawn(), asking)):
            rows = apply(op, rows, str(tmp_path / f"{number}"), resources={name: known[name] for name in op.needs})
    rows.schema.requires(TOKENS.dropping("source"), "sft")
    table = rows.read()
    assert table.num_rows == 48
    for row in table.to_pylist():
        prompt = len(row["prompt_ids"])
        assert row["input_ids"] == row["prompt_ids"] + row["response_ids"]
        assert row["drawn_logprobs"] == [0.0] * prompt + row["logprobs"]
        assert row["again"][prompt:] == pytest.approx(row["logprobs"], abs=1e-4)
