"""`quiver show`: rows, checkpoints, folders and misspelt places, in 80 columns."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.filter import Where
from quiver import console
from schemas import Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, IntegrityError, QuiverError
from schemas.manifest import Manifest, Parent
from schemas.store import commit
from tests.quiver.answers import answer
from trainers.config import training_of

ROWS = Schema("rows", 1, (Column("text", pa.string(), "x"), Column("n", pa.int64(), "x")))

pytestmark = pytest.mark.usefixtures("activated")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset, what is kept of it, and a checkpoint, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    rows = pa.table({"text": ["long " * 100, "two", "three", "four"], "n": [1, 2, 3, 4]})
    given = Dataset.from_arrow(rows, ROWS, str(tmp_path / "data/given-1"))
    apply(Where(predicate="n > 1"), given, str(tmp_path / "data/kept-2"), processes=0)
    parent = Parent("data", given.url, given.content_digest, "")
    _checkpoint(tmp_path / "data/policy-3", json.dumps({"num_layers": 7, "window": None, "head": "lm"}), parent)
    return tmp_path


def _checkpoint(place: Path, model: str, *parents: Parent) -> None:
    """A checkpoint of `model.json` alone, at `place`."""
    attempt = commit.begin_attempt(str(place), ["weights"])
    Path(commit.attempt_path(str(place), attempt), "model.json").write_text(model)
    manifest = Manifest(
        kind="checkpoint",
        files=commit.hash_files(str(place), attempt),
        op={"name": "train.sft"},
        parents=parents,
        facts={"stats": {"loss": 0.25, "steps": 12}},
    )
    commit.publish_folder(str(place), attempt, manifest)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert console.run(["show", *words]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    return out


def test_a_dataset_shows_its_rows_its_settings_and_its_inputs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = printed(capsys, "data/kept-2")
    assert (
        "1 rejected: false 1 (of n > 1)" in kept
        and "with predicate n > 1" in kept
        and "filter.where of given-1" in kept
    )
    assert kept.endswith("the rejected rows: quiver show data/kept-2/rejected\n")
    assert "the rejected rows" not in printed(capsys, "data/given-1")
    assert "row 2\n  text  four\n  n     4\n" in kept and "data/given-1" in kept
    assert "row 1" not in printed(capsys, "data/kept-2", "--rows", "1")
    assert "long long" in printed(capsys, "data/given-1") and "…" in printed(capsys, "data/given-1", "--rows=1")


def test_a_checkpoint_shows_its_shape_its_parents_and_its_figures(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line.split() for line in printed(capsys, "data/policy-3").splitlines()]
    assert ["num_layers", "7"] in lines and ["data:", "data/given-1"] in lines
    assert ["loss", "0.25"] in lines and ["steps", "12"] in lines and not any("window" in line for line in lines)
    facts = json.loads(answer(capsys, "show", "data/policy-3", "--json"))
    assert facts["kind"] == "checkpoint" and facts["architecture"]["num_layers"] == 7
    assert facts["figures"]["loss"] == 0.25 and [one["role"] for one in facts["made_of"]] == ["data"]


@pytest.mark.parametrize(
    ("facts", "template"),
    [
        ({}, "the tokenizer's own"),
        ({"template": {"name": "plain", "source": "{{ x }}", "options": {}}}, "plain"),
        ({"template": {"name": None, "source": None, "options": {"think": False}}}, "own, with {"),
    ],
)
def test_a_checkpoint_shows_what_it_was_trained_with(
    facts: dict[str, Any], template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    learning: dict[str, Any] = {
        "optim": {"lr": 3e-4, "schedule": "cosine"},
        "max_steps": 7,
        "precision": "bf16",
        "settings": {"beta": 0.2},
    }
    training = training_of("dpo", {**learning, "global_batch_size": 8}, seed=5, where="here")
    (tmp_path / "p").mkdir()
    manifest = Manifest(kind="checkpoint", op=training.learning.op, facts=facts, task_key="1" * 64)
    (tmp_path / "p/_manifest.json").write_bytes(manifest.to_bytes())
    shown = printed(capsys, "p")
    lines = [line.split(maxsplit=1) for line in shown.splitlines()]
    values = {"algorithm": "dpo", "max_steps": "7", "precision": "bf16", "global_batch_size": "8", "lr": "0.0003"}
    assert all([name, value] in lines for name, value in {**values, "schedule": "cosine", "seed": "5"}.items()), shown
    assert ["settings", '{"beta": 0.2}'] in lines
    assert any(line.startswith("  template ") and template in line for line in shown.splitlines()), shown
    assert max(map(len, shown.splitlines())) <= 80 and "epochs" not in shown and "lora" not in shown


def test_a_folder_lists_what_is_in_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split(maxsplit=1) for line in printed(capsys, "data").splitlines()]
    for line in (["given-1", "4 rows"], ["kept-2", "3 rows"], ["policy-3", "checkpoint"]):
        assert line in lines


@pytest.mark.parametrize(("place", "right"), [("data/kpt-2", "data/kept-2"), ("daat/kept-2", "data/kept-2")])
def test_a_misspelt_place_gets_the_command_with_the_right_one(folder: Path, place: str, right: str) -> None:
    with pytest.raises(IntegrityError, match="did you mean") as caught:
        console.run(["show", place])
    assert caught.value.next == f"quiver show {right}"


def test_a_place_like_no_other_and_other_words_are_refused(folder: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        console.run(["show", "zzzzzzz"])
    assert caught.value.next == "ls ." and caught.value.code == 11
    with pytest.raises(ConfigError):
        console.run(["show", "data/kept-2", "--tokenizer", "x"])


def test_a_folder_without_datasets_is_not_suggested_for_itself(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "data/policy-3.run").mkdir()
    console.run(["show", "data/policy-3.run"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "data/policy-3.run is empty" and lines[-1] == "next: ls -a data/policy-3.run"


def test_the_tokenizer_of_a_mask_may_be_a_checkpoints(folder: Path) -> None:
    """It is read as a folder with a tokenizer: that one is missing in a checkpoint without."""
    with pytest.raises(QuiverError) as caught:
        console.run(["show", "data/kept-2", "--mask", "--tokenizer", "data/policy-3"])
    assert caught.value.slug != "not-a-dataset"


def _planted(model: Path, how: str) -> None:
    model.unlink()
    if how == "pipe":
        os.mkfifo(model)
    elif how == "zeros without end":
        model.symlink_to("/dev/zero")
    elif how == "20 GB of nothing":
        with open(model, "wb") as file:
            file.truncate(20 << 30)
    else:
        model.write_text({"deep": "[" * 100_000, "another number": '{"num_layers": 9, "head": "lm"}'}[how])


@pytest.mark.parametrize("how", ["pipe", "zeros without end", "20 GB of nothing", "deep", "another number"])
def test_what_stands_for_the_settings_of_a_checkpoint_is_verified(
    folder: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _planted(folder / "data/policy-3/model.json", how)
    with pytest.raises(IntegrityError) as caught:
        console.run(["show", "data/policy-3"])
    assert caught.value.code == 11 and "policy-3" in f"{caught.value} {caught.value.where}"
    assert "num_layers" not in capsys.readouterr().out


@pytest.mark.parametrize(("text", "words"), [("[" * 100_000, "nested too deep"), ("[1]", "other JSON")])
def test_published_settings_that_are_no_model_are_an_error(tmp_path: Path, text: str, words: str) -> None:
    """The digest is right: whoever published it wrote what no network has."""
    _checkpoint(tmp_path / "odd", text)
    with pytest.raises(IntegrityError, match="describes no model") as caught:
        console.run(["show", str(tmp_path / "odd")])
    assert caught.value.found == words
