"""A tiny Llama that has learnt some rows of TruthfulQA and GSM8K by heart, and others not, and these rows as the
benchmarks publish them.
"""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import torch

from pipelines.suites import TRUTHFULQA

ROWS = 24
LEARNT = 13
"""Rows that are learnt, of each kind."""
_STEPS = 240


def rows(shared: Path, folder: Path) -> None:
    """`truthful.jsonl` and `gsm8k.jsonl`: rows of few words, so that there is little to learn."""
    with gzip.open(shared / "truthfulqa" / "TruthfulQA.csv.gz", "rt", encoding="utf-8", newline="") as file:
        listed = sorted(csv.DictReader(file), key=lambda row: len(row["Correct Answers"] + row["Incorrect Answers"]))
    truthful = [_targets(row) for row in listed[:ROWS]]
    with gzip.open(shared / "gsm8k-train" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        problems = sorted(map(json.loads, lines), key=lambda row: len(row["question"]) + len(row["answer"]))[:ROWS]
    for name, made in (("truthful", truthful), ("gsm8k", problems)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))


def _targets(row: dict[str, str]) -> dict[str, Any]:
    good, bad = (
        [*dict.fromkeys(text.strip() for text in row[f"{side} Answers"].split(";") if text.strip())]
        for side in ("Correct", "Incorrect")
    )
    best = row["Best Answer"].strip()
    good = [text for text in good if text != best]
    return {
        "question": row["Question"],
        "mc1_targets": {"choices": [best, *bad], "labels": [1] + [0] * len(bad)},
        "mc2_targets": {"choices": [*good, best, *bad], "labels": [1] * (len(good) + 1) + [0] * len(bad)},
    }


def texts(folder: Path) -> list[tuple[str, str]]:
    """What the model is to learn: a question as lm-evaluation-harness asks it, and what follows."""
    learnt = []
    for line in (folder / "truthful.jsonl").read_text().splitlines():
        row = json.loads(line)
        turn = TRUTHFULQA.wording.text.replace("{question}", row["question"])
        offered = row["mc1_targets"]["choices"]
        learnt.append((turn, f" {offered[len(learnt) % 2]}"))  # the best answer of every other row, a wrong one else
    for line in (folder / "gsm8k.jsonl").read_text().splitlines()[:LEARNT]:
        row = json.loads(line)
        learnt.append((f"Question: {row['question']}\nAnswer:", f" {row['answer']}"))
    return learnt


def model(folder: Path) -> Path:
    """The Hugging Face folder of a model that was trained on `texts`."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    pairs = texts(folder)
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    inner.train_from_iterator((question + answer for question, answer in pairs), trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>")
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=len(fast), hidden_size=96, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, eos_token_id=0, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    network = transformers.LlamaForCausalLM(config)
    sequences = [
        (fast(question)["input_ids"], [*fast(answer)["input_ids"], config.eos_token_id]) for question, answer in pairs
    ]
    _train(network, sequences)
    place = folder / "model"
    network.save_pretrained(place)
    fast.save_pretrained(place)
    return place


def _train(network: torch.nn.Module, sequences: list[tuple[list[int], list[int]]]) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.0)
    order = torch.Generator().manual_seed(1)
    for _ in range(_STEPS):
        batch = [sequences[at] for at in torch.randperm(len(sequences), generator=order)[:8].tolist()]
        longest = max(len(question) + len(answer) for question, answer in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for row, (question, answer) in enumerate(batch):
            whole = torch.tensor([*question, *answer])
            ids[row, : len(whole)] = whole
            labels[row, len(question) : len(whole)] = whole[len(question) :]
        loss = network(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
