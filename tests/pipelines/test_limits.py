"""What a model cannot read is found as the graph is made, or where its rows first are: templates, positions, rows."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.generate import Complete
from datakit.template import Chat
from datakit.tokenize import Mask
from pipelines.commands import stages
from pipelines.commands.command import Command
from pipelines.commands.evaluation import Evaluate
from pipelines.graph.limits import check_rows
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.order import ordered
from pipelines.graph.plan import Plan
from pipelines.online.node import OnlineCheckpoint
from pipelines.recipes import Grpo, Ppo, Reinforce, RestIteration
from pipelines.setups.own import own
from schemas import TOKENS, Dataset
from schemas.errors import ConfigError, DataError
from schemas.manifest import MANIFEST, Manifest
from schemas.tokenizer import folder_identity


@pytest.fixture
def bare(place: Path) -> Path:
    """The place, its models without a chat template."""
    for name in ("model", "judge"):
        (place / name / "tokenizer_config.json").unlink()
    return place


def goals(**more: Any) -> list[Command]:
    """Every command that templates for the model."""
    return [
        stages.Generate(model="model", prompts="prompts.jsonl", **more),
        Evaluate(model="model", prompts="prompts.jsonl", **more),
        stages.Label(data="rows.jsonl", op="reward", model="judge", **more),
        stages.Label(data="rows.jsonl", op="logprobs", model="model", **more),
        stages.Template(data="rows.jsonl", op="chat", tokenizer="model", **more),
        stages.Template(data="rows.jsonl", op="reward_prompt", tokenizer="model", **more),
    ]


def test_a_missing_template_is_found_as_the_graph_is_made(bare: Path) -> None:
    for goal in goals():
        with pytest.raises(ConfigError, match=r"(model|judge).* has no chat template, and none was given") as fault:
            goal.build(Plan("data"))
        assert (fault.value.slug, fault.value.next) == ("no-template", "--template text"), type(goal).__name__
        assert Path(fault.value.where).is_dir() and Path(fault.value.where).parent == bare, "what the user named"
    assert all(goal.build(Plan("data")) for goal in goals(template="text"))
    assert not (bare / "data").exists()


def test_a_template_that_came_with_the_model_or_that_a_checkpoint_remembers_will_do(place: Path) -> None:
    assert all(goal.build(Plan("data")) for goal in goals())
    facts = {"tokenizer": folder_identity("model"), "template": {"name": "text", "source": "{{ x }}", "options": {}}}
    learnt = checkpoint("learnt", facts)
    for name, expected in ((learnt, "text"), ("model", None)):
        [texts] = stages.Template(data="rows.jsonl", op="chat", tokenizer=name).build(Plan("data"))
        assert isinstance(texts, Table) and isinstance(texts.op, Chat) and texts.op.template == expected
    (place / "learnt/tokenizer_config.json").unlink()
    assert stages.Template(data="rows.jsonl", op="chat", tokenizer=learnt).build(Plan("data"))
    forgotten = checkpoint("forgotten", {"tokenizer": folder_identity("learnt")})
    (place / "forgotten/tokenizer_config.json").unlink()
    with pytest.raises(ConfigError, match="forgotten has no chat template"):
        stages.Template(data="rows.jsonl", op="chat", tokenizer=forgotten).build(Plan("data"))


def checkpoint(name: str, facts: dict[str, Any]) -> str:
    """A folder that is planned with as a checkpoint: the model's tokenizer, 64 positions, these facts."""
    shutil.copytree("model", name)
    (Path(name) / "config.json").unlink()
    (Path(name) / "model.json").write_text(json.dumps({"max_sequence_length": 64}))
    (Path(name) / MANIFEST).write_bytes(Manifest(kind="checkpoint", facts=facts, task_key="0" * 64).to_bytes())
    return name


def wanted(with_settings: Callable[..., None], **settings: Any) -> Sequence[Node]:
    """What an iteration over one's own model wants, with these settings of `[own]`."""
    given = {"model": "model", "prompts": "prompts.jsonl", "reward": "judge", "held_out": 0.5, **settings}
    with_settings(own, **given)
    return RestIteration(setup="own", prompts_per_iteration=1).results(Plan("data")).targets


def lengths(targets: Any) -> set[int]:
    """Bounds of all rows of a graph."""
    nodes = [node for node in ordered(targets) if isinstance(node, Table)]
    return {length for node in nodes if (length := getattr(node.op, "max_length", None)) is not None}


def test_max_length_is_what_the_models_read_unless_it_is_given(place: Path, with_settings: Callable[..., None]) -> None:
    assert lengths(wanted(with_settings, max_new_tokens=16)) == {64, 48}, (
        "the model's 64 positions, and what a question may take of them"
    )
    config = json.loads((place / "model/config.json").read_text())
    for name in ("model", "judge"):
        kind = json.loads((place / name / "config.json").read_text())["architectures"]
        wider = {**config, "architectures": kind, "max_position_embeddings": 4096}
        (place / name / "config.json").write_text(json.dumps(wider))
    keys = [
        [node.task_key for node in wanted(with_settings, max_new_tokens=16, **more)]
        for more in ({}, {"max_length": 2048})
    ]
    assert keys[0] == keys[1], "a model that reads more keeps the keys it had when 2048 was the default"
    assert lengths(wanted(with_settings, max_new_tokens=16, max_length=4096)) == {4096, 4080}


def test_a_length_beyond_the_model_is_found_at_planning(place: Path, with_settings: Callable[..., None]) -> None:
    with pytest.raises(ConfigError, match="65 is more than the 64 tokens that model reads") as fault:
        wanted(with_settings, max_new_tokens=16, max_length=65)
    assert (fault.value.slug, fault.value.next) == ("beyond-model", "--own-max-length 64")
    assert fault.value.where == str(place / "model")
    with pytest.raises(ConfigError, match="answers of 512 tokens leave no room for a question") as fault:
        wanted(with_settings, max_new_tokens=512)
    assert fault.value.next == "--own-max-new-tokens 32"
    for goal in bounded(max_length=65):
        with pytest.raises(ConfigError, match="--max-length 65 is more") as fault:
            goal.build(Plan("data"))
        assert fault.value.next == "--max-length 64"
    assert [lengths(goal.build(Plan("data"))) for goal in bounded(max_length=40)] == [{24}, {24, 40}, {40}, {40}]
    assert [lengths(goal.build(Plan("data"))) for goal in bounded()] == [set()] * 4, "keys are what they were"


def answers(goal: Any) -> set[tuple[int, int | None]]:
    """Tokens of an answer and of the longest question, wherever a policy answers."""
    nodes = ordered(goal)
    drawn = [
        node.op.sampling.max_new_tokens for node in nodes if isinstance(node, Table) and isinstance(node.op, Complete)
    ]
    drawn += [
        node.step.answers[0].params["sampling"]["max_new_tokens"]
        for node in nodes
        if isinstance(node, OnlineCheckpoint)
    ]
    return {(tokens, min(lengths(goal), default=None)) for tokens in drawn}


@pytest.mark.parametrize("recipe", [RestIteration, Grpo, Reinforce, Ppo])
def test_answers_take_half_of_what_small_models_read_unless_it_is_said(
    place: Path, with_settings: Callable[..., None], recipe: Any
) -> None:
    given = {"model": "model", "prompts": "prompts.jsonl", "reward": "judge", "held_out": 0.5}
    with_settings(own, **given)
    assert answers(recipe(setup="own").results(Plan("data")).targets) == {(32, 32)}
    with_settings(own, **given, max_length=8)
    assert answers(recipe(setup="own").results(Plan("data")).targets) == {(4, 4)}
    with_settings(own, **given, max_new_tokens=64)
    with pytest.raises(ConfigError, match="answers of 64 tokens leave no room") as fault:
        recipe(setup="own").results(Plan("data"))
    assert fault.value.next == "--own-max-new-tokens 32"


def test_answers_take_half_of_a_max_length_that_is_less_than_the_usual_answer(place: Path) -> None:
    asking: dict[str, Any] = {"model": "model", "prompts": "prompts.jsonl"}
    for kind in (stages.Generate, Evaluate):
        assert answers(kind(**asking, max_length=40).build(Plan("data"))) == {(20, 20)}
        assert answers(kind(**asking).build(Plan("data"))) == {(32, None)}, "half of the 64 positions of the model"
        with pytest.raises(ConfigError, match="answers of 40 tokens leave no room"):
            kind(**asking, max_length=40, max_new_tokens=40).build(Plan("data"))


def bounded(**more: Any) -> list[Command]:
    asking = {"model": "model", "prompts": "prompts.jsonl", "max_new_tokens": 16, **more}
    return [
        stages.Generate(**asking),
        Evaluate(**asking, reward_model="judge"),
        stages.Label(data="rows.jsonl", op="reward", model="judge", **more),
        stages.Label(data="rows.jsonl", op="logprobs", model="model", **more),
    ]


def tokens(place: str, length: int, **how: Any) -> Dataset:
    """Two rows of tokens, the longer one of `length`, as `tokenize.mask` would have made them of `texts`."""
    ids = [[1, 2], [0] * length]
    rows = {"sample_id": ["a", "b"], "input_ids": ids, "loss_mask": [[1] * len(one) for one in ids]}
    texts = Dataset.from_arrow(pa.table({"sample_id": ["a", "b"]}), TOKENS.selecting("sample_id"), "texts")
    table = pa.table({name: pa.array(values, TOKENS[name].type) for name, values in rows.items()})
    op = {"name": "tokenize.mask", "version": 1, "params": {**Mask().params(), **how}}
    return Dataset.from_arrow(table, TOKENS, place, op=op, parents={"0": texts})


def test_rows_longer_than_the_model_are_found_before_a_stage_runs(place: Path) -> None:
    tokens("fits", 65)
    tokens("long", 66, append_eos=True)
    plan = Plan("data")
    sft = [stages.Train(data=data, model="model").build(plan)[0] for data in ("fits", "long")]
    check_rows(sft[0])  # 64 positions, and the last token is predicted and never read
    with pytest.raises(DataError, match=r"long holds a row of 66 tokens, and .* reads 64") as fault:
        check_rows(sft[1])
    words = shlex.split(fault.value.next)
    assert words[:4] == ["luigi", "--module", "pipelines", "Tokenize"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert json.loads(options.pop("--params")) == {"append_eos": True, "max_length": 64}
    assert options == {"--data": str(place / "texts"), "--tokenizer": str(place / "model"), "--op": "mask"}
    scored = stages.Label(data="fits", op="reward", model="judge").build(plan)[0]
    with pytest.raises(DataError, match="fits holds a row of 65 tokens, and judge reads 64"):
        check_rows(scored)
