"""Which tokenizers may meet in a graph: adopted ones are known from the start, trained ones once they are made."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from datakit.apply import apply
from datakit.blend import Mix
from datakit.clients import Sampling
from datakit.filter import Where
from datakit.generate import Complete
from datakit.io import Reversal
from datakit.label import Logprobs
from datakit.registry import op_of
from datakit.template import Chat
from datakit.tokenize import Adopt, Encode, Mask, Train
from pipelines.graph.node import Node
from pipelines.graph.nodes import Existing, Table, vocabulary_size
from pipelines.graph.plan import Plan
from pipelines.graph.remade import remade
from pipelines.graph.tokenizer_check import differ
from pipelines.runtime.resources import resource_of
from pipelines.stages.ask import Reading, readable
from pipelines.stages.iteration import tokenized
from schemas.dataset import Dataset
from schemas.errors import DataError
from schemas.tokenizer import dataset_identity, files_of
from trainers.config import training_of

LEARNING = {"epochs": 1, "global_batch_size": 2, "optim": {"lr": 1e-3}}
SHAPE = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "num_attention_heads": 1, "num_query_groups": 1}


def make(node: Table, tmp_path: Path) -> Existing:
    """Make `node` and all it is made of, and find it as a command would."""
    for one in node.ancestors():
        if one.made and one.manifest() is None:
            assert isinstance(one, Table)
            rows = one.inputs[0].schema if one.inputs else None
            made = {name: resource_of(name, given, rows) for name, given in one.resources.items()}
            apply(
                one.op,
                [Dataset.open(given.url) for given in one.inputs],
                one.url,
                resources=made,
                task_key=one.task_key,
            )
    return Plan(str(tmp_path)).existing(node.url, "dataset")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(str(tmp_path))


@pytest.fixture
def rows(plan: Plan) -> Table:
    return plan.table("rows", Reversal(rows=8, output="demonstrations"))


def learn(plan: Plan, data: Node, tokenizer: Node) -> Any:
    training = training_of("sft", LEARNING, seed=0, model={**SHAPE, "max_sequence_length": 32})
    return plan.model("policy", training, data=data, tokenizer=tokenizer)


def saved(row: dict[str, Any], folder: Path) -> str:
    folder.mkdir()
    for name, text in files_of(row).items():
        (folder / name).write_text(text)
    return str(folder)


def test_a_trained_tokenizer_that_went_out_and_came_back_is_the_same(plan: Plan, rows: Table, tmp_path: Path) -> None:
    trained = plan.table("tokenizer", Train(vocab_size=288), rows)
    tokens = tokenized(plan, "rows", trained, rows, 32)
    assert tokens.tokenizer_by_column["input_ids"] == (trained.task_key,)
    returned = make(tokens, tmp_path)
    (identity,) = {one for several in returned.tokenizer_by_column.values() for one in several}
    here = Plan(str(tmp_path)).existing(trained.url, "dataset")
    assert identity == here.tokenizer_id != here.task_key
    place = saved(dataset(here).read().to_pylist()[0], tmp_path / "out")
    back = plan.table("back", Adopt(path=place).pinned())
    assert back.tokenizer_id == identity == dataset_identity(dataset(make(back, tmp_path)))
    for tokenizer in (trained, here, back):
        learn(plan, returned, tokenizer)
        learn(plan, tokens, tokenizer)
        assert 256 < vocabulary_size(tokenizer) <= 288
    other = plan.table("other", Adopt(path=place, template="chatml").pinned())
    for data in (returned, tokens):
        with pytest.raises(DataError, match="wrong-tokenizer"):
            learn(plan, data, other)
    facts = returned.existing_manifest.facts
    assert (facts["tokenizer"], facts["tokenizer_key"]) == (identity, trained.task_key)


def dataset(node: Node) -> Dataset:
    return Dataset.open(node.url)


def test_what_is_not_made_yet_is_left_to_the_stage_itself(plan: Plan, rows: Table, tmp_path: Path) -> None:
    trained = plan.table("tokenizer", Train(vocab_size=288), rows)
    words = Path(__file__).parents[1] / "datakit/tokenize/words.json"
    adopted = plan.table("adopted", Adopt(path=str(words)).pinned())
    texts = plan.table("texts", Chat(template="plain", generation=True), rows, tokenizer=adopted)
    encode = Encode(columns=(("pieces", "prompt_ids"),))
    later = plan.table("later", encode, texts, tokenizer=trained)
    make(trained, tmp_path)
    with pytest.raises(DataError, match="was written for another tokenizer"):
        plan.table("later", encode, texts, tokenizer=trained)
    with pytest.raises(DataError, match="wrong-tokenizer"):
        make(later, tmp_path)
    assert differ("a", "b", ())
    assert not differ("a", "", ())


def test_tables_of_two_tokenizers_are_good_for_neither(plan: Plan, rows: Table, tmp_path: Path) -> None:
    words = Path(__file__).parents[1] / "datakit/tokenize/words.json"
    ops = [Adopt(path=str(words), eos=name, template="plain").pinned() for name in ("w2", "w3")]
    one, other = (plan.table(op.eos, op) for op in ops)
    parts = [tokenized(plan, f"rows-{node.name}", node, rows, 32) for node in (one, other)]
    mixed = plan.table("mixed", Mix(sources=("a", "b"), epochs=(1.0, 1.0)), *parts)
    assert mixed.tokenizer_id == ""
    for tokenizer in (one, other):
        with pytest.raises(DataError, match="wrong-tokenizer"):
            learn(plan, mixed, tokenizer)
    again = tokenized(plan, "again", one, mixed, 32)
    assert learn(plan, again, one).tokenizer_id == one.tokenizer_id


def test_a_policy_answers_prompts_of_its_own_tokenizer_alone(plan: Plan, rows: Table) -> None:
    trained, other = (plan.table("tokenizer", Train(vocab_size=size), rows) for size in (288, 300))
    policy = learn(plan, tokenized(plan, "rows", trained, rows, 32), trained)
    complete = Complete(sampling=Sampling())
    tokens = [readable(plan, "prompts", complete, rows, policy, Reading(tokenizer=trained))]
    texts = plan.table("prompts.texts", Chat(generation=True), rows, tokenizer=other)
    tokens.append(plan.table("prompts.tokens", Encode(columns=(("pieces", "prompt_ids"),)), texts, tokenizer=other))
    samples = plan.table("samples", complete, tokens[0], generator=policy)
    assert (
        samples.tokenizer_by_column["response_ids"] == samples.tokenizer_by_column["prompt_ids"] == (trained.task_key,)
    )
    with pytest.raises(DataError, match="wrong-tokenizer"):
        plan.table("samples", complete, tokens[1], generator=policy)
    assert samples.tokenizer_id == trained.task_key


def test_what_a_column_is_called_does_not_say_what_it_holds(plan: Plan, rows: Table) -> None:
    """A column of ids is one by its type, also where its name ends as those of templated texts do."""
    trained, other = (plan.table("tokenizer", Train(vocab_size=size), rows) for size in (288, 300))
    policy = learn(plan, tokenized(plan, "rows", trained, rows, 32), trained)
    asking = Logprobs(columns=(("bits_and_pieces", "", "logprob"),), per="row")
    for tokenizer in (trained, other):
        texts = plan.table("texts", Chat(template="plain", response="response"), rows, tokenizer=tokenizer)
        encode = Encode(columns=(("pieces", "bits_and_pieces"),))
        tokens = plan.table("tokens", encode, texts, tokenizer=tokenizer)
        if tokenizer is trained:
            plan.table("asked", asking, tokens, model=policy)
            continue
        with pytest.raises(DataError, match="tokens holds ids of another tokenizer than policy speaks"):
            plan.table("asked", asking, tokens, model=policy)


def test_texts_and_ids_of_another_tokenizer_name_the_way_to_one(plan: Plan, rows: Table, tmp_path: Path) -> None:
    one = plan.table("one", Train(vocab_size=288), rows)
    words = Path(__file__).parents[1] / "datakit/tokenize/words.json"
    other = plan.table("other", Adopt(path=str(words), template="plain").pinned())
    texts = plan.table("texts", Chat(template="plain", response="response"), rows, tokenizer=one)
    tokens = plan.table("tokens", Mask(), texts, tokenizer=one)
    there, wrong = make(tokens, tmp_path), make(other, tmp_path)
    written = Plan(str(tmp_path)).existing(texts.url, "dataset")
    with pytest.raises(DataError, match="was written for another tokenizer") as caught:
        plan.table("again", Mask(), written, tokenizer=wrong)
    words = shlex.split(caught.value.next)
    assert words[3:9] == ["Template", "--op", "chat", "--data", rows.url, "--tokenizer"]
    assert words[9] == wrong.url
    assert op_of("template.chat", json.loads(words[11])) == texts.op, "with its own settings"
    with pytest.raises(DataError, match="holds ids of another tokenizer") as caught:
        learn(plan, there, wrong)
    again = f"Template --op chat --data {rows.url} --tokenizer"
    assert again in caught.value.next, "the texts are another's too"


def test_rows_behind_other_stages_name_the_stage_that_takes_a_tokenizer(
    plan: Plan, rows: Table, tmp_path: Path
) -> None:
    one = plan.table("one", Train(vocab_size=288), rows)
    words = Path(__file__).parents[1] / "datakit/tokenize/words.json"
    other = make(plan.table("other", Adopt(path=str(words), template="plain").pinned()), tmp_path)
    texts = plan.table("texts", Chat(template="plain", response="response"), rows, tokenizer=one)
    tokens = plan.table("tokens", Mask(max_length=64), texts, tokenizer=one)
    mixed = plan.table("mixed", Mix(sources=("a",), epochs=(1.0,)), plan.table("some", Where(predicate="true"), tokens))
    there = make(mixed, tmp_path)
    with pytest.raises(DataError, match="holds ids of another tokenizer") as caught:
        learn(plan, there, other)
    printed = shlex.split(caught.value.next)
    assert printed[3:9] == ["Template", "--op", "chat", "--data", rows.url, "--tokenizer"]
    assert op_of("template.chat", json.loads(printed[11])) == texts.op, "with its own settings"
    assert remade(there, "t", {"max_length": 32}).endswith("""--params '{"max_length": 32}' --name tokens""")
    assert remade(there, "t", {"no_such_setting": 1}) == "", "no stage behind them has it"
    shutil.rmtree(texts.url)
    assert remade(there, "t") == "", "what that stage read is gone"
