"""Stages as commands: what one makes the next one reads, and what is missing is said with the command that makes it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from commands import luigi

from datakit.op import Label
from datakit.registry import op_of
from pipelines.commands import stages
from pipelines.graph.plan import MADE_BY
from schemas.dataset import Dataset
from schemas.store.commit import read_manifest
from tests.trainers.weights import tiny

PLAIN = {"template": "plain"}


@pytest.mark.parametrize("column", MADE_BY)
def test_the_command_that_is_told_makes_the_column(column: str) -> None:
    verb, *words = shlex.split(MADE_BY[column])
    options = dict(zip(words[::2], words[1::2], strict=True))
    op = op_of(f"{getattr(stages, verb).family}.{options['--op']}", json.loads(options.get("--params", "{}")))
    assert isinstance(op, Label) and column in op.gives(op.takes)
    assert ("tokenizer" in op.needs) is ("--tokenizer" in options)
    assert bool({"scorer", "model"} & {*op.needs}) is ("--model" in options)


def made(folder: Path, *command: str) -> Dataset:
    """The dataset that a command makes."""
    done = luigi(folder, *command, module="pipelines")
    assert done.returncode == 0, done.stderr
    return Dataset.open(done.stdout.split()[-1])


def test_own_rows_become_tokens_by_following_what_is_told(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n}?", "response": f"It is {n}."} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = made(tmp_path, "Import", "--files", "rows.jsonl", "--format", "completions")
    tokenizer = made(tmp_path, "Tokenize", "--data", read.url, "--op", "train", "--params", '{"vocab_size": 280}')
    speaking = ("--tokenizer", tokenizer.url)

    done = luigi(tmp_path, "Tokenize", "--data", read.url, "--op", "mask", *speaking, module="pipelines")
    stderr = f"  next: luigi --module pipelines Template --op chat --tokenizer CHECKPOINT --data {read.url}\n"
    assert done.returncode == 10 and done.stderr.endswith(stderr)

    chat = ("Template", "--data", read.url, "--op", "chat", *speaking, "--params")
    texts = made(tmp_path, *chat, json.dumps(PLAIN))
    tokens = made(tmp_path, "Tokenize", "--data", texts.url, "--op", "mask", *speaking).read()
    assert tokens.num_rows == 12 and all(sum(mask) for mask in tokens["loss_mask"].to_pylist())
    answered = zip(tokens["text"].to_pylist(), tokens["response"].to_pylist(), strict=True)
    assert all(response in text for text, response in answered)

    questions = made(tmp_path, *chat, json.dumps({**PLAIN, "response": None})).read()
    assert not any("It is" in text for text in questions["text"].to_pylist())


def test_a_template_that_closes_no_turn_is_told_with_its_share(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    open_ended = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
    folder = tiny.write("llama", tmp_path / "hf")
    closed = "{% for m in messages %}{{ m.content }} w7 {% endfor %}"
    added = {"7": {"content": "w7", "special": True}}
    settings = {"eos_token": "w1", "chat_template": closed, "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    rows = [{"prompt": f"w{n}", "response": f"w{n + 1}"} for n in range(8, 12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    adopted = luigi(tmp_path, "AdoptModel", "--folder", "hf", module="pipelines")
    assert adopted.returncode == 0, adopted.stderr
    assert "the chat template names w7; each of them ends an answer" in adopted.stderr
    policy = adopted.stdout.split()[-1]
    manifest = read_manifest(policy)
    assert manifest is not None and manifest.facts["turn_end"] == {"tokens": ["w7"], "texts": []}

    chat = ("Template", "--data", "rows.jsonl", "--op", "chat", "--tokenizer", policy)
    stderr = luigi(tmp_path, *chat, "--template", open_ended, module="pipelines").stderr
    assert stderr.count("no trained part ends in an end token in 4 of 4 rows (100%)") == 1
    assert stderr.count("answers end at the text \\n\\nuser:") == 1
