"""What places on the command line stand for, and the names that are made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datakit.apply import apply
from datakit.io import Jsonl
from pipelines.graph.nodes import Existing, Table
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import any_at, folder_name, names_in, rows_at, stem
from pipelines.graph.results import Results
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


def test_what_has_a_tokenizer_is_adopted_where_it_is_no_dataset(place: Path) -> None:
    adopted = any_at(Plan("data"), "model")
    assert adopted.label == "adopted/model.tokenizer" and adopted.schema.name == TOKENIZERS.name
    assert len(adopted.tokenizer_id) == 64


def test_results_without_names_have_those_of_their_labels(tmp_path: Path) -> None:
    nodes = [Plan(str(tmp_path)).table(label, Count(rows=rows)) for rows, label in ((1, "a/one"), (2, "b/two"))]
    results = Results.of(nodes)
    assert results.targets == tuple(nodes) and results.datasets == {"one": nodes[0], "two": nodes[1]}
    assert not results.checkpoints and not results.figures
