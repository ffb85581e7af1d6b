"""`quiver show` of what is no dataset, and what lower-case commands and `export` say to do next: never the same."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.filter import Where
from quiver import console
from schemas import Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, IntegrityError, QuiverError

pytestmark = pytest.mark.usefixtures("activated")
ROWS = Schema("rows", 1, (Column("text", pa.string(), "x"), Column("n", pa.int64(), "x")))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 2)
    (tmp_path / "kto.jsonl").write_text('{"prompt": "a", "completion": "b", "label": true}\n')
    (tmp_path / "weights.bin").write_bytes(b"\0\1\2")
    (tmp_path / "empty").mkdir()
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64, "x": 1}))
    rows = pa.table({"text": ["one", "two", "three"], "n": [1, 2, 3]})
    given = Dataset.from_arrow(rows, ROWS, str(tmp_path / "data/given-1"))
    apply(Where(predicate="n > 1"), given, str(tmp_path / "data/kept-2"), processes=0)
    return tmp_path


@pytest.mark.parametrize("words", [["hf"], ["pairs.jsonl"], ["data"], ["data/kept-2"]])
def test_a_command_is_printed_as_the_shell_runs_it(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    text = shown(capsys, *words)
    assert f"{Path(sys.executable).parent}/quiver " in text


@pytest.mark.parametrize("wrong", ["polcy", "policy", "policy-1a2b3c4e"])
def test_a_result_is_found_by_its_name_without_its_key(wrong: str, folder: Path) -> None:
    shutil.copytree(folder / "data/given-1", folder / "sft/policy-1a2b3c4d")
    with pytest.raises(IntegrityError) as caught:
        console.run(["show", f"sft/{wrong}"])
    assert caught.value.next == "quiver show sft/policy-1a2b3c4d" and caught.value.nearest == "policy-1a2b3c4d"


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert console.run(["show", *words]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    return out


@pytest.mark.parametrize(
    ("place", "parts", "command"),
    [
        (
            "pairs.jsonl",
            ("a file of 96 bytes", '"chosen": "b"'),
            "quiver Import --files pairs.jsonl --format preferences",
        ),
        ("kto.jsonl", ('"label": true',), "quiver Import --files kto.jsonl --format kto_labels"),
        ("weights.bin", ("a file of 3 bytes",), "quiver formats"),
        ("hf", ("a Hugging Face folder", "hidden_size  64"), "quiver ImportModel --folder hf"),
        ("empty", ("empty is empty",), "ls -a empty"),
        ("hf/../empty", ("is empty",), "ls -a empty"),
    ],
)
def test_what_is_no_dataset_says_what_it_is_and_another_command(
    capsys: pytest.CaptureFixture[str], place: str, parts: tuple[str, ...], command: str
) -> None:
    out = shown(capsys, place)
    assert all(part in out for part in parts)
    assert f"next: {command}" in out.splitlines()


def test_a_place_is_shown_however_it_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    for place, near in (("pairs.jsonl", "--files pairs.jsonl --format preferences"), ("hf", "--folder hf")):
        for written in (f"file://{folder}/{place}", f"~/{place}"):
            assert shown(capsys, written).splitlines()[-1].endswith(near)


def test_a_place_that_is_not_there_has_a_near_name_beside_a_link_to_nowhere(folder: Path) -> None:
    (folder / "gone").symlink_to(folder / "nowhere")
    (folder / "round").symlink_to(folder / "round")
    with pytest.raises(IntegrityError, match="no dataset or checkpoint at") as fault:
        console.run(["show", "pairs.json"])
    assert fault.value.next == "quiver show pairs.jsonl"


def test_a_pipe_is_neither_a_file_nor_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pipes").mkdir()
    os.mkfifo(folder / "pipes/one")
    assert "one  neither a file nor a folder" in shown(capsys, "pipes")
    with pytest.raises(IntegrityError, match="neither a file nor a folder") as fault:
        console.run(["show", "pipes/one"])
    assert fault.value.slug == "not-a-file" and fault.value.next == "ls -l pipes/one"


def test_a_folder_without_datasets_lists_its_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / "data")
    out = shown(capsys, ".")
    assert "hf           a Hugging Face folder" in out and "kto.jsonl    a file of" in out
    assert "next: quiver show ." not in out.splitlines()


def test_rejected_rows_are_shown_with_their_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "data/kept-2/rejected")
    assert "1 row set aside when" in out and "  false 1 (n > 1)" in out and "text" in out and "one" in out


def test_the_folder_of_a_run_says_how_it_was_trained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "data/policy-3.run"
    (run / "tensorboard").mkdir(parents=True)
    optim = {"lr": 2e-5, "min_lr": 0.0, "schedule": "cosine", "betas": [0.9, 0.98]}
    settings = {"algorithm": "sft", "out": "x", "optim": optim, "epochs": 2, "global_batch_size": 16, "model": None}
    (run / "config.json").write_text(json.dumps(settings))
    figures = [{"step": step, "loss": 8.0 / step, "lr": 2e-5, "tokens": 9} for step in (1, 2, 3, 4)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in figures) + '{"step": 5')
    out = shown(capsys, "data/policy-3.run")
    assert "data/policy-3.run: the folder of a training run" in out and "ImportModel" not in out
    words = [line.split() for line in out.splitlines()]
    for line in (["algorithm", "sft"], ["lr", "2e-05"], ["schedule", "cosine"], ["epochs", "2"]):
        assert line in words
    assert "  step 4, loss 2, lr 2e-05\n" in out and "step 2, loss 4" in out and "step 1," not in out
    assert ["curves", "data/policy-3.run/tensorboard"] in words
    assert out.endswith("next: tensorboard --logdir data/policy-3.run\n")
    shutil.rmtree(run / "tensorboard")
    assert shown(capsys, "data/policy-3.run").endswith("next: less data/policy-3.run/metrics.jsonl\n")
    (run / "metrics.jsonl").unlink()
    assert shown(capsys, "data/policy-3.run").endswith("next: ls data/policy-3.run\n")


def test_an_export_names_a_file_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for there, expected in (([], "rows.jsonl"), (["rows.jsonl"], "rows-2.jsonl"), (["rows-2.jsonl"], "rows-3.jsonl")):
        for name in there:
            (folder / name).touch()
        with pytest.raises(ConfigError) as caught:
            console.run(["export", "data/kept-2"])
        assert caught.value.next == f"quiver export data/kept-2 --to trl --out {expected}"


def test_what_an_export_refuses_ends_in_a_whole_command(folder: Path) -> None:
    with pytest.raises(QuiverError) as caught:
        console.run(["export", "data/kept-2", "--to", "TLR", "--out", "x.jsonl"])
    assert caught.value.next == "quiver export" and "did you mean trl?" in caught.value.what


@pytest.mark.parametrize(
    ("words", "next_"),
    [
        ("sft --data x", "quiver Sft --data x"),
        ("dpo", "quiver Preference"),
        ("Show data", "quiver show data"),
        ("recipes Sft", "quiver Sft --help"),
        ("recipes Label", "quiver recipes"),
        ("recipes --json", "quiver recipes"),
        ("algorithms DPO", "quiver algorithms dpo"),
        ("ops label.lenght", "quiver ops label.length"),
        ("formats Prompts", "quiver formats prompts"),
    ],
)
def test_a_command_or_a_name_in_another_case_is_known(words: str, next_: str) -> None:
    with pytest.raises(ConfigError) as caught:
        console.run(words.split())
    assert caught.value.next == next_
