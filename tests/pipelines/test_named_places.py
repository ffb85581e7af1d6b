"""What places on the command line stand for, and the names that are made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datakit.apply import apply
from datakit.io import Jsonl
from datakit.op import Context, Read
from datakit.template import Rendering
from pipelines import recipes
from pipelines.cli.known_commands import commands
from pipelines.commands import curation, stages
from pipelines.commands.command import Command
from pipelines.commands.evaluation import Evaluate
from pipelines.commands.files import ReadsFiles
from pipelines.graph.nodes import Existing, Table
from pipelines.graph.order import ordered
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import any_at, folder_name, names_in, rows_at, stem
from pipelines.graph.results import Results
from pipelines.setups.own import own
from pipelines.setups.preferences import preferences
from schemas import TOKENIZERS
from schemas.errors import ConfigError
from tests.pipelines.toy import Count


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("rows.jsonl.gz", "rows"),
        ("s3://bucket/some rows/", "some-rows"),
        ("data/iter=3", "iter=3"),
        ("a+b.parquet", "a-b"),
        ("---", "rows"),
        (".jsonl", "rows"),
    ],
)
def test_a_place_has_a_name(place: str, name: str) -> None:
    assert stem(place) == name


def test_a_text_becomes_one_folder() -> None:
    assert folder_name("llama-3.1-8b+score") == "llama-3.1-8b+score"
    assert folder_name("../up/and:away*") == "up-and-away" and folder_name("..") == "unnamed"


def test_places_are_divided_by_commas() -> None:
    assert names_in(" a, b c ,,d,") == ["a", "b c", "d"] and names_in("") == []


def test_a_dataset_is_taken_as_it_is_and_a_file_is_imported(tmp_path: Path) -> None:
    plan = Plan(str(tmp_path / "data"))
    there = apply(Count(rows=3), [], str(tmp_path / "there"), processes=1)
    existing = rows_at(plan, there.url, "prompts")
    assert isinstance(existing, Existing) and existing.task_key == there.task_key and existing.url == there.url
    (tmp_path / "some.rows.jsonl").write_text(json.dumps({"prompt": "q"}) + "\n")
    read = rows_at(plan, str(tmp_path / "some.rows.jsonl"), "prompts", source="here")
    assert isinstance(read, Table) and read.label == "imported/some" and isinstance(read.op, Jsonl)
    assert read.op.format == "prompts" and read.op.source == "here" and read.schema.name == "prompts"


def test_a_setting_that_the_reader_does_not_have_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="unknown key shade"):
        rows_at(Plan(str(tmp_path)), str(tmp_path / "rows.jsonl"), "prompts", shade="blue")


def test_what_has_a_tokenizer_is_imported_where_it_is_no_dataset(place: Path) -> None:
    adopted = any_at(Plan("data"), "model")
    assert adopted.label == "adopted/model.tokenizer" and adopted.schema.name == TOKENIZERS.name
    assert len(adopted.tokenizer_id) == 64


def test_results_without_names_have_those_of_their_labels(tmp_path: Path) -> None:
    nodes = [Plan(str(tmp_path)).table(label, Count(rows=rows)) for rows, label in ((1, "a/one"), (2, "b/two"))]
    results = Results.of(nodes)
    assert results.targets == tuple(nodes) and results.datasets == {"one": nodes[0], "two": nodes[1]}
    assert not results.checkpoints and not results.figures


QUESTION = {"task": {"q": "1+1?"}, "id": 7, "note": "left out on purpose"}
ANSWERED = {**QUESTION, "task": {"q": "1+1?", "a": "2"}, "score": 1}
JUDGED = {**QUESTION, "task": {"q": "1+1?", "a": "2", "no": "3"}}


@pytest.fixture
def others(place: Path) -> Path:
    """Files whose keys have names of their own: questions, answers, pairs (one JSON list)."""
    (place / "asked.jsonl").write_text(json.dumps(QUESTION) + "\n")
    (place / "rows.jsonl").write_text((json.dumps(ANSWERED) + "\n") * 2)
    (place / "pairs.json").write_text(json.dumps([JUDGED, JUDGED]))
    return place


def first_rows(node: Any) -> list[dict[str, Any]]:
    """The first rows of every file that a node reads or that is read for it."""
    readers = [one.op for one in ordered([node]) if isinstance(one, Table) and isinstance(one.op, Read)]
    return [row for op in readers if hasattr(op, "files") for row in next(iter(op.read(Context()))).rows.to_pylist()]


def reading_commands(dialogue: str) -> list[Command]:
    """Every command that takes a file of rows, given one whose keys are renamed, carried and left out, and whose texts
    are of a `dialogue`.
    """
    answered = {"prompt": "task.q", "response": "task.a"}
    pairs = {"prompt": "task.q", "chosen": "task.a", "rejected": "task.no"}
    asked: dict[str, Any] = {"model": "model", "prompts": "asked.jsonl", "columns": {"prompt": "task.q"}}
    rows: dict[str, Any] = {"data": "rows.jsonl", "columns": answered}
    constitutional = {"model": "model", "data": "asked.jsonl", "columns": asked["columns"], "eval_share": 0}
    more = {"keep": "id", "ignore": "note,score", "source_name": "survey", "dialogue": dialogue}
    length = {"op": "length", "params": {"column": "response"}}
    return [
        stages.Import(files="rows.jsonl", columns=answered, **more),
        stages.Generate(**asked, max_new_tokens=8, **more),
        Evaluate(**asked, max_new_tokens=8, **more),
        stages.Label(**rows, **length, **more),
        stages.Filter(**rows, format="completions", op="where", params={"predicate": "id > 6"}, **more),
        stages.Measure(**rows, op="mean", params={"columns": ["id"]}, **more),
        stages.Blend(**rows, op="shuffle", **more),
        stages.Template(**rows, op="chat", tokenizer="model", **more),
        stages.Tokenize(**rows, op="train", params={"vocab_size": 300}, **more),
        curation.Query(**rows, format="completions", query="SELECT * FROM self", **more),
        recipes.Sft(model="model", eval_share=0, **rows, **more),
        recipes.RewardModel(model="model", eval_share=0, data="pairs.json", columns=pairs, **more),
        recipes.SlCai(**constitutional, **more),
        recipes.RlCai(**constitutional, **more),
        recipes.Preference(model="model", eval_share=0, data="pairs.json", columns=pairs, **more),
    ]


ASKED = {
    "plain": "1+1?",
    "extra_id": "<extra_id_0>System\nBe brief.\n<extra_id_1>User\n1+1?\n<extra_id_1>Assistant\n",
    "hh": "\n\nHuman: 1+1?\n\nAssistant:",
}


@pytest.mark.parametrize("dialogue", ASKED)
def test_every_command_that_takes_a_file_reads_it_as_its_flags_say(others: Path, dialogue: str) -> None:
    for file in (others / name for name in ("asked.jsonl", "rows.jsonl", "pairs.json")):
        file.write_text(file.read_text().replace(json.dumps("1+1?"), json.dumps(ASKED[dialogue])))
    tried = reading_commands(dialogue)
    of_tokens_or_two_models = {"Train", "Distill", "SteerLm", "SteerLm2Iteration", "DecisionTransformer"}
    of_images_or_marks = {"DraftPlus", "GenerateImages", "Mark"}
    takes_files = {name for name, kind in commands().items() if issubclass(kind, ReadsFiles)}
    assert takes_files - of_tokens_or_two_models - of_images_or_marks == {command.task_family for command in tried}
    for command in tried:
        wanted = command.build(Plan("data")) if hasattr(command, "build") else command.targets
        rows = [row for node in wanted for row in first_rows(node)]
        assert rows, command.task_family
        for row in rows:
            turns = [turn["content"] for turn in row["messages"]]
            assert turns == ["Be brief."] * (dialogue == "extra_id") + ["1+1?"], command.task_family
            assert (row["id"], row["source"]) == (7, "survey"), command.task_family


def test_files_of_a_setup_are_renamed_too_whatever_their_layout(others: Path) -> None:
    plan, bounds = Plan("data"), {"max_length": 64, "max_new_tokens": 8}
    mine = own(
        model="model", reward="judge", prompts="asked.jsonl", columns={"prompt": "task.q"}, original="rows.jsonl",
        original_columns={"prompt": "task.q", "response": "task.a"}, **bounds,
    ).task_setup(plan, 0, Rendering())  # fmt: skip
    assert [row["messages"][0]["content"] for row in first_rows(mine.prompts)] == ["1+1?"]
    assert [row["response"] for row in first_rows(mine.original.inputs[0])] == ["2", "2"]
    names = {"prompt": "task.q", "chosen": "task.a", "rejected": "task.no"}
    judged = preferences(files=["pairs.json"], columns=names, **bounds).task_setup(plan, 0, Rendering())
    assert {(row["chosen"], row["rejected"], row["source"]) for row in first_rows(judged.prompts)} == (
        {("2", "3", "preferences")}
    )
