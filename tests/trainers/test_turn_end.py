"""A turn end that is taught is obeyed: learnt, sampled, remembered, exported; and so is every end token of a folder."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from datakit.apply import apply
from datakit.clients import Sampling
from datakit.generate import Complete
from datakit.run.resource import Resource
from datakit.template import Chat, turn_end_of
from datakit.tokenize import Encode, Mask
from schemas import COMPLETIONS, PROMPTS, TOKENIZERS
from schemas.dataset import Dataset
from schemas.end_tokens import TurnEnd
from schemas.settings import parse
from tests.datakit.fakes import ADDED, END, EOS, letters
from tests.trainers import toys
from tests.trainers.networks import louder, network, vocabulary
from tests.trainers.weights import tiny
from trainers import run as runs
from trainers.config import Run
from trainers.engine.checkpoint import checkpoint
from trainers.engine.inference.generator import open_generator
from trainers.engine.weights.export_hf import export
from trainers.engine.weights.import_hf import import_hf

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }}{{ m.content }}<end>\n"
    "{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
ANSWERS = {"a": "xyz", "b": "u", "c": "no"}
GREEDY = Sampling(greedy=True, max_new_tokens=12)


def rows(kind: Any, **columns: list[Any]) -> pa.Table:
    count = len(next(iter(columns.values())))
    blank = {c.name: [None] * count for c in kind.columns}
    return pa.Table.from_pylist(
        [dict(zip(blank, row, strict=True)) for row in zip(*(blank | columns).values(), strict=True)],
        schema=kind.arrow,
    )


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was taught three answers by a template whose turn end is not the tokenizer's `eos_token`."""
    folder = tmp_path_factory.mktemp("taught")
    tokenizer: Any = letters(TEMPLATE)
    toys.put(folder / "tokenizer", TOKENIZERS, tokenizer.row)
    texts = {"prompt_id": list(ANSWERS), "sample_id": list(ANSWERS), "messages": list(map(asked, ANSWERS))}
    given = toys.put(folder / "rows", COMPLETIONS, rows(COMPLETIONS, **texts, response=list(ANSWERS.values())))
    speaking = {"tokenizer": Resource("letters", functools.partial(letters, TEMPLATE), tokenizer_id=tokenizer.identity)}
    written = apply(Chat(response="response"), given, str(folder / "texts"), resources=speaking)
    tokens = apply(Mask(), written, str(folder / "tokens"), resources=speaking)
    torch.set_num_threads(1)
    changes = {"tokenizer": str(folder / "tokenizer"), "max_steps": 60, "log_rows": False, "global_batch_size": 3}
    model = {**toys.MODEL, "vocab_size": tokenizer.size}
    optim = {"lr": 1e-2, "schedule": "constant"}
    runs.execute(parse(Run, toys.config(folder, data=tokens.url, model=model, optim=optim, **changes)))
    questions = {"prompt_id": list(ANSWERS), "messages": list(map(asked, ANSWERS))}
    prompts = toys.put(folder / "prompts", PROMPTS, rows(PROMPTS, **questions))
    opened = apply(Chat(generation=True), prompts, str(folder / "prompt-texts"), resources=speaking)
    encode = Encode(columns=(("pieces", "prompt_ids"),))
    apply(encode, opened, str(folder / "prompt-tokens"), resources=speaking)
    return folder


def test_a_model_that_is_taught_to_end_its_turn_ends_there(taught: Path) -> None:
    assert TurnEnd.of(checkpoint.open_checkpoint(str(taught / "policy")).manifest.facts) == TurnEnd((END,))
    policy = Resource("policy", functools.partial(open_generator, str(taught / "policy")))
    prompts = Dataset.open(str(taught / "prompt-tokens"))
    samples = apply(Complete(sampling=GREEDY), prompts, str(taught / "samples"), resources={"generator": policy})
    for row in samples.read().to_pylist():
        assert row["response"] == ANSWERS[row["prompt_id"]]
        assert (row["finish_reason"], row["response_ids"][-1]) == ("stop", ADDED.index(END))
    alone = open_generator(str(taught / "policy")).generate(prompts.read(), GREEDY, np.arange(3, dtype=np.uint64))
    assert alone["response_ids"].to_pylist() == samples.read()["response_ids"].to_pylist()


def test_transformers_ends_the_exported_models_answers_at_the_same_place(taught: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    export(str(taught / "policy"), str(tmp_path / "hf"), check="off", say=lines.append)
    for name in ("generation_config.json", "config.json"):
        assert json.loads((tmp_path / "hf" / name).read_text())["eos_token_id"] == [ADDED.index(EOS), ADDED.index(END)]
    assert any("names <eos>; the chat template names <end>; each of them ends an answer" in line for line in lines)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    ours = open_generator(str(taught / "policy"))
    prompts = Dataset.open(str(taught / "prompt-tokens")).read()
    answers = ours.generate(prompts, GREEDY, np.arange(3, dtype=np.uint64))["response_ids"].to_pylist()
    for ids, answer in zip(prompts["prompt_ids"].to_pylist(), answers, strict=True):
        generated = theirs.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=0)
        assert generated[0, len(ids) :].tolist() == answer


def adopted(
    tmp_path: Path, config: Any, generation: Any = None, eos: int = 1, **options: Any
) -> tuple[Path, list[str]]:
    """The tiny Llama whose files name these end tokens, adopted; and the lines of the import."""
    source, lines = tiny.write("llama", tmp_path / "source"), list[str]()
    (source / "generation_config.json").unlink(missing_ok=True)
    written = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**written, "eos_token_id": config}))
    if generation is not None:
        (source / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    (source / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": f"w{eos}", "chat_template": "{{ messages }}"})
    )
    import_hf(str(source), str(tmp_path / "policy"), check="off", say=lines.append, **options)
    return tmp_path / "policy", lines


@pytest.mark.parametrize(
    ("config", "generation", "eos", "ids"),
    [
        ([2, 5, 7], None, 1, [2, 5, 7, 1]),
        ([2, 5, 7], None, 0, [2, 5, 7, 0]),
        ([2, 5], [7], 1, [7, 2, 5, 1]),
        (None, None, 1, 1),
        ([2, 90], None, 1, [2, 1]),
    ],
)
def test_end_tokens_of_a_folder_are_obeyed_and_written_again(
    tmp_path: Path, config: Any, generation: Any, eos: int, ids: Any
) -> None:
    policy, lines = adopted(tmp_path, config, generation, eos)
    prompts = pa.table({"prompt_ids": pa.array([[3, 4], [9]], pa.list_(pa.int32()))})
    generator = open_generator(str(policy))
    ends = np.flatnonzero(generator.ends).tolist()
    assert ends == sorted(ids if isinstance(ids, list) else [ids])
    sampling = Sampling(max_new_tokens=60, samples_per_prompt=20, temperature=2.0)
    for row in generator.generate(prompts, sampling, np.arange(2, dtype=np.uint64)).to_pylist():
        inside = [one in ends for one in row["response_ids"]]
        assert not any(inside[:-1]) and inside[-1] == (row["finish_reason"] == "stop")
    assert any("each of them ends an answer" in line for line in lines) == (config is not None)
    assert any("config.json names 90, which is no token" in line for line in lines) == (config == [2, 90])
    export(str(policy), str(tmp_path / "out"), check="off", say=lines.append)
    for name in ("generation_config.json", "config.json"):
        assert json.loads((tmp_path / "out" / name).read_text())["eos_token_id"] == ids


def test_how_a_folders_own_template_ends_a_turn_counts(tmp_path: Path) -> None:
    assert turn_end_of(letters(TEMPLATE)) == TurnEnd((END,)) and turn_end_of(letters()) == TurnEnd()
    policy, lines = adopted(tmp_path, None, facts=TurnEnd(("w8",)).facts)
    assert np.flatnonzero(open_generator(str(policy)).ends).tolist() == [1, 8]
    assert (
        "end tokens: tokenizer_config.json names w1; the chat template names w8; each of them ends an answer" in lines
    )


def test_a_turn_that_ends_with_text_ends_an_answer_and_is_reported_on_export(tmp_path: Path) -> None:
    net, prompts = louder(network()), pa.table({"prompt_ids": pa.array([[3, 4, 5]], pa.list_(pa.int32()))})
    checkpoint.save(str(tmp_path / "plain"), model=net, tokenizer_files=vocabulary())
    free = open_generator(str(tmp_path / "plain")).generate(prompts, GREEDY, np.zeros(1, np.uint64)).to_pylist()[0]
    words = free["response"].split()
    assert len(words) > 6, "the network goes on for a while"
    stop = TurnEnd((), (" ".join(words[4:6]),))
    checkpoint.save(str(tmp_path / "policy"), model=net, tokenizer_files=vocabulary(), facts=stop.facts)
    row = open_generator(str(tmp_path / "policy")).generate(prompts, GREEDY, np.zeros(1, np.uint64)).to_pylist()[0]
    before = free["response"].partition(stop.texts[0])[0]
    assert (row["response"], row["finish_reason"]) == (before, "stop")
    assert len(row["response_ids"]) == len(before.split()) + 2 < len(free["response_ids"]), "it ends there"
    lines: list[str] = []
    export(str(tmp_path / "policy"), str(tmp_path / "out"), check="off", say=lines.append)
    assert any(f"stop_strings={json.dumps(list(stop.texts))}" in line for line in lines)
