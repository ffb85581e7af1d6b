"""The chat template that a checkpoint was trained with is remembered with it, and exported as the folder's."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from datakit.apply import apply
from datakit.blend import Mix
from datakit.run.resource import Resource
from datakit.template import Chat
from datakit.tokenize import Mask
from schemas import COMPLETIONS, TOKENIZERS
from schemas.chat_template import ChatTemplate
from schemas.dataset import Dataset
from schemas.settings import parse
from tests.datakit.fakes import letters
from tests.trainers import toys
from trainers import run as runs
from trainers.config import Run
from trainers.engine.checkpoint import checkpoint
from trainers.engine.weights.export_hf import export

transformers = pytest.importorskip("transformers")

OWN = "{{ bos_token }}{% for m in messages %}{{ m.content }}<end>{% endfor %}"
THINKING = (
    "\n{% for m in messages %}<user>{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% if not enable_thinking %}{{ empty }}{% endif %}{% endif %}"
)
OPTIONS = {"enable_thinking": False, "empty": 'it\'s "ü"\n'}


def speaking() -> dict[str, Resource]:
    tokenizer: Any = letters(OWN)
    return {"tokenizer": Resource("letters", functools.partial(letters, OWN), tokenizer_id=tokenizer.identity)}


def templated(folder: Path, name: str, op: Chat) -> Dataset:
    row = {c.name: None for c in COMPLETIONS.columns}
    row |= {"prompt_id": name, "sample_id": name, "messages": [{"role": "user", "content": "ab"}], "response": "cd"}
    given = toys.put(folder / f"{name}.rows", COMPLETIONS, pa.Table.from_pylist([row], schema=COMPLETIONS.arrow))
    return apply(op, given, str(folder / f"{name}.texts"), resources=speaking())


def trained(folder: Path, name: str, texts: Dataset, **changes: Any) -> str:
    tokens = apply(Mask(), texts, str(folder / f"{name}.tokens"), resources=speaking())
    tokenizer: Any = letters(OWN)
    if not (folder / "tokenizer").exists():
        toys.put(folder / "tokenizer", TOKENIZERS, tokenizer.row)
    torch.set_num_threads(1)
    usual = {"max_steps": 2, "log_rows": False, "global_batch_size": 1, "out": str(folder / name)}
    usual |= {} if "init" in changes else {"tokenizer": str(folder / "tokenizer")}
    model = {**toys.MODEL, "vocab_size": tokenizer.size, "max_sequence_length": 128}
    usual |= {"model": ... if "init" in changes else model}
    runs.execute(parse(Run, toys.config(folder, data=tokens.url, **{**usual, **changes})))
    return str(folder / name)


def remembered(place: str) -> ChatTemplate:
    return ChatTemplate.of(checkpoint.open_checkpoint(place).manifest.facts)


def test_it_is_remembered_and_exported_with_its_options(tmp_path: Path) -> None:
    texts = templated(tmp_path, "thinking", Chat(template=THINKING, options=OPTIONS, response="response"))
    policy = trained(tmp_path, "policy", texts)
    assert remembered(policy) == ChatTemplate(THINKING, THINKING, OPTIONS)
    export(policy, str(tmp_path / "hf"), check="off", say=lambda line: None)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    question = [{"role": "user", "content": "ab"}]
    write = functools.partial(theirs.apply_chat_template, question, tokenize=False, add_generation_prompt=True)
    assert write() == '\n<user>ab<end><bot>it\'s "ü"\n'
    assert write(enable_thinking=True) == "\n<user>ab<end><bot>"


def test_the_last_rows_decide_and_the_tokenizers_own_is_no_news(tmp_path: Path) -> None:
    named = templated(tmp_path, "named", Chat(template="extra_id", response="response"))
    assert ChatTemplate.of(named.facts).name == "extra_id"
    again = apply(Chat(response="response", into="other"), named, str(tmp_path / "again"), resources=speaking())
    own = templated(tmp_path, "own", Chat(response="response"))
    assert "template" not in own.facts and "template" not in again.facts
    mixed = apply(
        Mix(sources=("a", "b"), weights=(0.5, 0.5)),
        [named, templated(tmp_path, "t", Chat(template="text", response="response"))],
        str(tmp_path / "mixed"),
    )
    assert ChatTemplate.of(mixed.facts) == ChatTemplate()
    first = trained(tmp_path, "first", named)
    assert remembered(first).name == "extra_id"
    assert remembered(trained(tmp_path, "second", own, init=first)) == ChatTemplate()
