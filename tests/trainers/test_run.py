"""Whole runs: finished, started again, killed, stopped, damaged, refused."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
import torch

from schemas import TOKENIZERS, TOKENS
from schemas.dataset import Dataset
from schemas.errors import (
    ConfigError,
    ConflictError,
    DataError,
    HealthError,
    IntegrityError,
    QuiverError,
    Stopped,
)
from schemas.settings import parse
from schemas.store.commit import read_manifest
from schemas.tokenizer import SPECIAL, folder_identity
from tests.tail import late
from tests.trainers import toys
from tests.warm import command as warm
from trainers import registry
from trainers import run as runs
from trainers.config import Run
from trainers.engine.training import loop


def go(folder: Path, **changes: Any) -> Run:
    run = parse(Run, toys.config(folder, **changes))
    torch.set_num_threads(1)
    runs.execute(run)
    return run


def weights(run: Run) -> str:
    manifest = read_manifest(run.paths.out)
    assert manifest is not None
    return str(manifest.facts["weights_digest"])


@contextmanager
def stopping_after(step: int, monkeypatch: pytest.MonkeyPatch, steps: ModuleType = loop) -> Iterator[None]:
    """As if a signal came during that step of this start of what the module `steps` drives."""
    count = iter(range(1, 10_000))

    @contextmanager
    def signals() -> Iterator[Callable[[], bool]]:
        yield lambda: next(count) >= step

    with monkeypatch.context() as patched:
        patched.setattr(steps, "signals", signals)
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of eight steps, three of them an epoch, that nothing disturbed."""
    return go(tmp_path_factory.mktemp("straight"))


def test_a_finished_run_over_other_rows_is_not_taken_for_this_one(straight: Run, tmp_path: Path) -> None:
    manifest = read_manifest(straight.paths.out)
    assert manifest is not None
    place = {"out": straight.paths.out, "task_key": manifest.task_key}
    runs.execute(parse(Run, toys.config(tmp_path / "same", **place)))
    toys.put(tmp_path / "other" / "tokens", TOKENS, toys.tokens(20, seed=3))
    with pytest.raises(ConflictError, match="input-replaced"):
        runs.execute(parse(Run, toys.config(tmp_path / "other", **place)))


def test_a_finished_run_is_a_checkpoint_that_tells_where_it_came_from(straight: Run) -> None:
    manifest = read_manifest(straight.paths.out)
    assert manifest is not None and manifest.kind == "checkpoint"
    assert [parent.name for parent in manifest.parents] == ["data"]
    assert manifest.op["name"] == "train.sft" and manifest.facts["stats"]["steps"] == 8
    lines = toys.curve(straight.paths.folder)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert lines[-1]["loss"] < lines[0]["loss"] and lines[0]["lr"] == 5e-3
    assert not (straight.paths.folder / "saves").exists()
    read = [name for line in toys.row_log(straight.paths.folder)[:3] for name in line["rows"]]
    assert sorted(read) == sorted(f"s{i}" for i in range(31))


def test_started_again_it_does_nothing(straight: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def contents() -> dict[Path, tuple[int, str]]:
        folders = (straight.paths.folder, Path(straight.paths.out))
        files = (file for folder in folders for file in sorted(folder.rglob("*")))
        return {
            file: (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "")
            for file in files
        }

    before = contents()
    assert straight.paths.folder / "metrics.jsonl" in before
    assert any(Path(straight.paths.out) in file.parents for file in before)
    monkeypatch.setitem(sys.modules, "trainers.engine.training.build", None)
    runs.execute(straight)
    assert contents() == before


@pytest.mark.parametrize("step", [1, late(2), 3, late(4), late(7), 8])
def test_a_stopped_run_goes_on_bit_for_bit(
    straight: Run, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First step, around the end of the first epoch, and the last ones."""
    if step < 8:
        with stopping_after(step, monkeypatch), pytest.raises(Stopped) as caught:
            go(tmp_path)
        assert caught.value.code == 75 and f"after step {step} of 8" in caught.value.what
        run = go(tmp_path)
    else:
        with stopping_after(step, monkeypatch):
            run = go(tmp_path)
    assert toys.curve(run.paths.folder) == toys.curve(straight.paths.folder)
    assert toys.row_log(run.paths.folder) == toys.row_log(straight.paths.folder)
    assert weights(run) == weights(straight)


def test_bf16_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"precision": "bf16", "max_steps": 4}
    whole = go(tmp_path / "whole", **settings)
    with stopping_after(2, monkeypatch), pytest.raises(Stopped):
        go(tmp_path / "parts", **settings)
    parts = go(tmp_path / "parts", **settings)
    assert toys.curve(parts.paths.folder) == toys.curve(whole.paths.folder) and weights(parts) == weights(whole)


def test_validation_and_epochs(tmp_path: Path) -> None:
    toys.put(tmp_path / "held-out", TOKENS, toys.tokens(9, 5))
    held_out = {"validation": str(tmp_path / "held-out"), "validate_every": 4}
    run = go(tmp_path, epochs=2, max_steps=..., save_every=2, **held_out)
    lines = toys.curve(run.paths.folder)
    output = {line["step"]: line["val_loss"] for line in lines if "val_loss" in line}
    assert list(output) == [4, 6] and output[4] != output[6]
    manifest = read_manifest(run.paths.out)
    assert manifest is not None and manifest.facts["stats"]["val_loss"] == output[6]


def test_a_run_that_ends_within_its_warm_up_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = go(tmp_path, epochs=1, max_steps=..., optim={"lr": 1e-2, "warmup_steps": 12})
    assert toys.curve(run.paths.folder)[-1]["lr"] == pytest.approx(1e-2 * 3 / 12)
    output = "warning: 3 steps end within the warm-up of 12: the rate gets to 2.50e-03 and no further"
    assert output in capfd.readouterr().err


def test_a_reward_model_starts_from_a_policy(straight: Run, tmp_path: Path) -> None:
    algorithm = registry.algorithms()["rm"]
    toys.put(tmp_path / "pairs", algorithm.rows, toys.rows_for(algorithm, 12))
    run = go(tmp_path, algorithm="rm", data=str(tmp_path / "pairs"), init=straight.paths.out, model=..., max_steps=3)
    manifest = read_manifest(run.paths.out)
    assert manifest is not None and [parent.name for parent in manifest.parents] == ["data", "init"]
    assert json.loads((Path(run.paths.out) / "model.json").read_text())["head"] == "scalar"


def test_the_vocabulary_travels_with_the_weights(tmp_path: Path) -> None:
    row = {"name": "toy", "tokenizer_json": "{}", "chat_template": "{{ messages }}", "eos_token": "</s>"}
    row |= {"bos_token": None, "pad_token": None}
    toys.put(tmp_path / "words", TOKENIZERS, pa.Table.from_pylist([row], schema=TOKENIZERS.arrow))
    first = go(tmp_path, tokenizer=str(tmp_path / "words"), max_steps=2)
    second = go(tmp_path, init=first.paths.out, model=..., out=str(tmp_path / "second"), max_steps=2)
    output = json.loads((Path(second.paths.out) / "tokenizer_config.json").read_text())
    assert (output["chat_template"], output["eos_token"], "bos_token" in output) == ("{{ messages }}", "</s>", False)
    assert (
        folder_identity(first.paths.out)
        == folder_identity(second.paths.out)
        == read_manifest(second.paths.out).facts["tokenizer"]
    )


def test_a_changed_configuration_is_refused_with_the_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopping_after(2, monkeypatch), pytest.raises(Stopped):
        go(tmp_path)
    with pytest.raises(ConfigError) as caught:
        go(tmp_path, seed=1, optim={"lr": 2e-2})
    assert "run.seed: 0 -> 1" in caught.value.what and "run.optim.lr: 0.01 -> 0.02" in caught.value.what
    go(tmp_path, micro_batch_tokens=50, log_every=2)


def test_a_damaged_save_is_reported_and_the_one_before_is_taken(
    straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with stopping_after(5, monkeypatch), pytest.raises(Stopped):
        go(tmp_path, save_every=2)
    saves = tmp_path / "policy.run" / "saves"
    assert sorted(path.name for path in saves.iterdir()) == ["step-00000004", "step-00000005"]
    damage(saves / "step-00000005")
    run = go(tmp_path, save_every=2)
    assert "the save of step 5 is damaged" in capfd.readouterr().err
    assert toys.curve(run.paths.folder) == toys.curve(straight.paths.folder) and weights(run) == weights(straight)


def test_when_all_saves_are_damaged_nothing_starts_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopping_after(2, monkeypatch), pytest.raises(Stopped):
        go(tmp_path)
    damage(tmp_path / "policy.run" / "saves" / "step-00000002")
    with pytest.raises(IntegrityError):
        go(tmp_path)


def damage(save: Path) -> None:
    victim = max(save.glob("weights/*.distcp"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(tmp_path: Path) -> None:
    with pytest.raises(HealthError) as caught:
        go(tmp_path, optim={"lr": 1e30, "clip_grad": 0.0}, save_every=1, max_steps=20)
    assert caught.value.code == 20 and "s" in caught.value.found
    output = json.loads((tmp_path / "policy.run" / "unhealthy.json").read_text())
    assert len(output["rows"]) in (7, 12) and output["rows"][0].startswith("s")
    assert not (tmp_path / "policy" / "_manifest.json").exists()


def test_out_of_another_run_is_left_alone(straight: Run, tmp_path: Path) -> None:
    with pytest.raises(ConflictError):
        go(tmp_path, out=straight.paths.out, seed=5)


def test_missing_inputs_and_strange_tokenizers(straight: Run, tmp_path: Path) -> None:
    faults: list[tuple[type[QuiverError], dict[str, Any]]] = [
        (IntegrityError, {"data": str(tmp_path / "nowhere")}),
        (IntegrityError, {"init": str(tmp_path / "nowhere"), "model": ...}),
        (ConfigError, {"settings": {"beta": 1}}),
        (ConfigError, {"parallel": {"tensor": 2}}),
        (DataError, {"model": {**toys.MODEL, "max_sequence_length": 8}}),
    ]
    for error, changes in faults:
        with pytest.raises(error):
            go(tmp_path, **changes)
    first = go(tmp_path, facts={"tokenizer": "one"}, out=str(tmp_path / "one"), max_steps=2)
    other = toys.put(tmp_path / "other", TOKENS, toys.tokens(4), facts={"tokenizer": "two"})
    with pytest.raises(DataError, match="another tokenizer"):
        go(tmp_path, init=first.paths.out, model=..., data=other.url)
    row = {"name": "toy", "tokenizer_json": "{}", "chat_template": None} | dict.fromkeys(SPECIAL)
    words = toys.put(tmp_path / "words", TOKENIZERS, pa.Table.from_pylist([row], schema=TOKENIZERS.arrow))
    with pytest.raises(DataError, match="another tokenizer"):
        go(tmp_path, tokenizer=words.url, data=other.url, out=str(tmp_path / "fresh"))
    with pytest.raises(DataError, match="another tokenizer"):
        go(tmp_path, tokenizer=words.url, validation=other.url, out=str(tmp_path / "checked"))


def test_a_fault_of_ours_is_one_line_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(run: Run) -> None:
        raise KeyError("seven")

    monkeypatch.setattr(runs, "execute", fails)
    assert runs.main([toys.written(tmp_path / "run.json", toys.config(tmp_path))]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error[1/bug]: KeyError: 'seven'") and "Traceback" not in error
    assert "Traceback" in (tmp_path / "policy.run" / "traceback-0.txt").read_text()


def started(folder: Path, *python: str, **changes: Any) -> subprocess.Popen[str]:
    path = toys.written(folder / "run.json", toys.config(folder, max_steps=60, save_every=5, **changes))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    command = [*(python or (sys.executable, "-m")), "trainers.run", path]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def reached(folder: Path, step: int) -> None:
    """Wait until the run has logged that step."""
    log, end = folder / "policy.run" / "metrics.jsonl", time.monotonic() + 60
    while not log.exists() or log.read_bytes().count(b"\n") < step:
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.002)


@pytest.mark.slow  # in one process and from layout to layout: test_resume.py
def test_killed_and_stopped_processes_go_on_bit_for_bit(tmp_path: Path) -> None:
    whole = go(tmp_path / "whole", max_steps=60, records=str(tmp_path / "seen"))
    parts = tmp_path / "parts"
    records = str(parts / "seen")
    killed = started(parts, records=records)
    reached(parts, 13)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    stopped = started(parts, records=records)
    reached(parts, 24)
    stopped.terminate()
    _, output = stopped.communicate(timeout=60)
    assert stopped.returncode == 75 and "error[75/stopped]" in output and "Traceback" not in output
    last = started(parts, records=records)
    _, output = last.communicate(timeout=120)
    assert last.returncode == 0, output
    assert "error" not in output and "Warning" not in output, output
    assert toys.curve(parts / "policy.run") == toys.curve(whole.paths.folder)
    assert toys.row_log(parts / "policy.run") == toys.row_log(whole.paths.folder)
    again = parse(Run, toys.config(parts, max_steps=60))
    assert weights(again) == weights(whole)
    assert Dataset.open(records).shards == Dataset.open(str(tmp_path / "seen")).shards


def test_a_second_start_waits_for_the_first_and_finds_what_it_made(tmp_path: Path) -> None:
    first = started(tmp_path)
    reached(tmp_path, 3)
    first.send_signal(signal.SIGSTOP)
    second = started(tmp_path, *warm.python())
    assert second.stderr is not None
    folder = tmp_path / "policy.run"
    assert second.stderr.readline() == f"note: another process is at {folder}; waiting for its end\n"
    first.send_signal(signal.SIGCONT)
    outputs = [run.communicate(timeout=120)[1] for run in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert "waiting" not in outputs[0] and "already finished" not in outputs[0]
    assert outputs[1].rstrip().endswith("is already finished")
    assert len(toys.curve(folder)) == 60, "both wrote one log"


@pytest.mark.skipif(all(map(importlib.util.find_spec, ("wandb", "mlflow"))), reason="both trackers are installed")
def test_a_tracker_that_is_not_installed_is_reported_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = next(name for name in ("wandb", "mlflow") if importlib.util.find_spec(name) is None)
    path = toys.written(tmp_path / "run.json", toys.config(tmp_path, track=[missing]))
    assert runs.main([path]) == 2
    assert capsys.readouterr().err.startswith(f"error[2/no-tracker]: {missing} cannot be imported\n")
    assert not (tmp_path / "policy.run").exists()
