"""Stages as commands: what one makes the next one reads, and what is missing is said with the command that makes it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from commands import luigi

from datakit.op import Label
from datakit.registry import op_of
from pipelines import verbs
from pipelines.plan import MADE_BY
from schemas.dataset import Dataset

PLAIN = {"template": "plain"}


@pytest.mark.parametrize("column", MADE_BY)
def test_the_command_that_is_told_makes_the_column(column: str) -> None:
    verb, *words = shlex.split(MADE_BY[column])
    options = dict(zip(words[::2], words[1::2], strict=True))
    op = op_of(f"{getattr(verbs, verb).family}.{options['--op']}", json.loads(options.get("--params", "{}")))
    assert isinstance(op, Label) and column in op.gives(op.takes)
    assert ("tokenizer" in op.needs) is ("--tokenizer" in options)
    assert ("scorer" in op.needs) is ("--reward-model" in options)


def made(folder: Path, *command: str) -> Dataset:
    """The dataset that a command makes."""
    done = luigi(folder, *command, module="pipelines")
    assert done.returncode == 0, done.stderr
    return Dataset.open(done.stdout.split()[-1])


def test_own_rows_become_tokens_by_following_what_is_told(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n}?", "response": f"It is {n}."} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = made(tmp_path, "Import", "--files", "rows.jsonl", "--format", "completions")
    spoken = made(tmp_path, "Tokenize", "--data", read.url, "--op", "train", "--params", '{"vocab_size": 280}')
    speaking = ("--tokenizer", spoken.url)

    done = luigi(tmp_path, "Tokenize", "--data", read.url, "--op", "mask", *speaking, module="pipelines")
    told = f"  next: luigi --module pipelines Template --op chat --tokenizer CHECKPOINT --data {read.url}\n"
    assert done.returncode == 10 and done.stderr.endswith(told)

    chat = ("Template", "--data", read.url, "--op", "chat", *speaking, "--params")
    texts = made(tmp_path, *chat, json.dumps(PLAIN))
    tokens = made(tmp_path, "Tokenize", "--data", texts.url, "--op", "mask", *speaking).read()
    assert tokens.num_rows == 12 and all(sum(mask) for mask in tokens["loss_mask"].to_pylist())
    answered = zip(tokens["text"].to_pylist(), tokens["response"].to_pylist(), strict=True)
    assert all(response in text for text, response in answered)

    questions = made(tmp_path, *chat, json.dumps({**PLAIN, "response": None})).read()
    assert not any("It is" in text for text in questions["text"].to_pylist())
