"""Saves: in the background or not, which of them stay, and what happens when one is damaged, cut off or impossible."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas import TOKENS
from schemas.canonical import identity_fields
from schemas.errors import ConfigError, IntegrityError, StorageError
from schemas.settings import parse
from schemas.store import commit
from schemas.store.commit import read_manifest
from tests.trainers import toys
from tests.trainers.test_run import go, stopping_after, weights
from trainers.config import VERSION, Run
from trainers.engine.checkpoint import checkpoint, checkpoint_writer, retention, saves

BACKGROUND = {"save_every": 2, "save_async": True}


class Killed(BaseException):
    """What stands for kill -9 where the process must live on."""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return go(tmp_path_factory.mktemp("straight"))


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with the saves of steps 4 and 5."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch, stopping_after(5, patch), pytest.raises(BaseException, match="stopped"):
        go(folder, save_every=2)
    assert kept(folder) == [4, 5]
    return folder


def kept(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "policy.run" / "saves").glob("step-*"))


def same(run: Run, other: Run) -> bool:
    return toys.curve(run.paths.folder) == toys.curve(other.paths.folder) and weights(run) == weights(other)


# --- in the background


def test_saves_in_the_background_change_nothing_and_go_on_bit_for_bit(
    straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopping_after(5, monkeypatch), pytest.raises(BaseException, match="stopped"):
        go(tmp_path, **BACKGROUND)
    assert kept(tmp_path) == [4, 5]
    assert same(go(tmp_path, **BACKGROUND), straight)
    assert "save" not in [thread.name for thread in threading.enumerate()]


def test_a_background_save_holds_what_it_was_told_to_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written only after two more steps have changed the weights."""
    gate, write = threading.Event(), checkpoint_writer.Part.write
    monkeypatch.setattr(checkpoint_writer.Part, "write", lambda part: (gate.wait(60), write(part))[1])
    steps = iter(range(1, 100))
    learn = saves.Saves.settle

    def late(self: saves.Saves) -> None:
        if next(steps) == 2:
            gate.set()
        learn(self)

    monkeypatch.setattr(saves.Saves, "settle", late)
    slow = go(tmp_path / "slow", max_steps=8, save_every=3, save_async=True, keep_last=9, keep_best=0)
    monkeypatch.undo()
    with stopping_after(3, monkeypatch), pytest.raises(BaseException, match="stopped"):
        go(tmp_path / "plain", max_steps=8)
    assert weights(slow) == weights(go(tmp_path / "plain", max_steps=8))


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("background", [False, True])
def test_a_save_that_fails_is_an_error_and_the_one_before_it_is_good(
    straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    write, count = checkpoint_writer.Part.write, iter(range(100))

    def failing(part: checkpoint_writer.Part) -> Any:
        return full() if next(count) >= 2 else write(part)  # a save has two parts

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_writer.Part, "write", failing)
        with pytest.raises(StorageError, match="cannot be written") as caught:
            go(tmp_path, save_every=2, save_async=background)
    assert caught.value.code == 12 and "No space left" in caught.value.found
    assert not (tmp_path / "policy.run" / "saves" / "step-00000004").exists()
    assert 4 <= toys.curve(tmp_path / "policy.run")[-1]["step"] <= 6
    assert same(go(tmp_path, save_every=2, save_async=background), straight)


def test_the_last_save_may_fail_after_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(checkpoint_writer.Part, "write", lambda part: full() if gate.wait(0.5) or True else None)
    with pytest.raises(StorageError):
        go(tmp_path, max_steps=3, save_every=2, save_async=True)
    assert read_manifest(str(tmp_path / "policy")) is None


def test_one_save_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most, write = [0], [0], checkpoint_writer.Part.write

    def counted(part: checkpoint_writer.Part) -> Any:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        threading.Event().wait(0.05)
        under_way[0] -= 1
        return write(part)

    monkeypatch.setattr(checkpoint_writer.Part, "write", counted)
    go(tmp_path, save_every=1, save_async=True, max_steps=5)
    assert most == [1]


def test_a_step_draws_no_random_numbers(tmp_path: Path) -> None:
    """So a save need not hold the state of a generator."""
    states = []
    for steps in (2, 4):
        go(tmp_path / str(steps), max_steps=steps)
        states.append(torch.get_rng_state())
    assert states[0].equal(states[1])


# --- which stay


def test_the_best_of_scores() -> None:
    scores = {1: 3.0, 2: 1.0, 3: None, 4: 1.0, 5: 2.0}
    assert retention.best(scores, 2, "val_loss") == {2, 4}
    assert retention.best(scores, 1, "val_loss") == {2}
    assert retention.best(scores, 2, "-val_accuracy") == {1, 5}
    assert retention.best(scores, 0, "val_loss") == set() and len(retention.best(scores, 9, "val_loss")) == 4


def test_the_newest_and_the_best_stay(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    toys.put(tmp_path / "held-out", TOKENS, toys.tokens(9, 5))
    settings: dict[str, Any] = {"validation": str(tmp_path / "held-out"), "validate_every": 1, "save_every": 1}
    settings |= {"optim": {"lr": 5e-2}, "max_steps": 10, "keep_last": 1, "keep_best": 2, "save_async": True}
    run = go(tmp_path, **settings)
    losses = {line["step"]: line["val_loss"] for line in toys.curve(run.paths.folder) if "val_loss" in line}
    assert list(losses) == list(range(1, 11))
    best = sorted(sorted(range(1, 10), key=lambda step: (losses[step], step))[:2])
    assert kept(tmp_path) == best
    stderr = capfd.readouterr().err
    assert "saved step 9 (" in stderr and "kept: " in stderr and "the best saves stay in" in stderr
    assert all(f"{step} (val_loss {losses[step]:.4g})" in stderr for step in best)
    chosen = go(
        tmp_path, init=str(run.paths.folder / "saves" / f"step-{best[0]:08d}"), model=..., out=str(tmp_path / "next")
    )
    assert read_manifest(chosen.paths.out) is not None


def test_names_of_figures_are_checked_before_the_start(tmp_path: Path) -> None:
    toys.put(tmp_path / "held-out", TOKENS, toys.tokens(9, 5))
    settings: dict[str, Any] = {"validation": str(tmp_path / "held-out"), "save_every": 2, "keep_best": 1}
    faults: list[tuple[str, dict[str, Any]]] = [
        ("did you mean val_loss", {**settings, "validate_every": 2, "best_by": "val_los"}),
        ("no figure", {**settings, "validate_every": 2, "best_by": "loss"}),
        ("no save would ever", {**settings, "validate_every": 5}),
        ("keep_best has no effect", {"keep_best": 1}),
        ("best_by has no effect", {"best_by": "-val_loss"}),
        ("save_async has no effect", {"save_async": True}),
    ]
    for text, changes in faults:
        with pytest.raises(ConfigError, match=text):
            go(tmp_path, **changes)
    assert not (tmp_path / "policy.run" / "metrics.jsonl").exists()


def test_a_removal_that_stops_half_way_leaves_no_half_of_a_save(
    straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, **_: (next(Path(path).iterdir()).unlink(), die()))
        with pytest.raises(Killed):
            go(tmp_path, save_every=1, keep_last=1)
    assert kept(tmp_path) == [2]
    assert list((tmp_path / "policy.run" / "saves").glob("removed-*"))
    run = go(tmp_path, save_every=4, keep_last=1)
    assert same(run, straight) and not (run.paths.folder / "saves").exists()


def die(*_: Any) -> None:
    raise Killed


def test_an_old_save_that_cannot_be_removed_is_reported_and_stays(
    straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rename = Path.rename

    def denied(self: Path, target: Path) -> Path:
        if self.name.startswith("step-"):
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", denied)
    assert same(go(tmp_path, save_every=2, keep_last=1), straight)
    assert capfd.readouterr().err.count("an old save cannot be removed") >= 2


# --- damage


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


HARMS: dict[str, Callable[[Path], None]] = {"flipped": flipped, "cut": cut, "gone": Path.unlink}
FILES = ["_manifest.json", "train_state.json", "weights/__0_0.distcp", "optimizer/__0_0.distcp", "optimizer/.metadata"]
FILES += ["weights/common.pt"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_save_is_reported_and_the_one_before_is_taken(
    interrupted: Path, name: str, harm: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = interrupted / "policy.run" / "saves" / "step-00000005"
    good = (save / name).read_bytes()
    HARMS[harm](save / name)
    try:
        assert resumed(interrupted) == 4
        assert "warning: the save of step 5 is damaged" in capfd.readouterr().err
    finally:
        (save / name).write_bytes(good)


def test_undamaged_it_is_taken(interrupted: Path) -> None:
    assert resumed(interrupted) == 5


def resumed(folder: Path) -> int:
    """The step that a run in `folder` would go on from; nothing is trained."""
    from trainers.engine.megatron import parallel
    from trainers.engine.training import build

    run = parse(Run, toys.config(folder, save_every=2))
    torch.set_num_threads(1)
    layout = parallel.start(run.execution.parallel, seed=run.learning.seed)
    algorithm, settings = build.registry.configured(run.learning.algorithm, run.learning.settings)
    learner = build.trainee(run, algorithm, settings, layout, None)
    data = build.Dataset.open(run.paths.data)
    identity = {"run": identity_fields(run.learning), "version": VERSION, "inputs": [data.content_digest]}
    return (
        saves.Saves(run, model=learner.model, optimizer=learner.optimizer, identity_fields=identity)
        .resume()
        .get("step", 0)
    )


def test_when_all_saves_are_damaged_nothing_starts_afresh(interrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(interrupted, tmp_path / "copy")
    for save in (tmp_path / "copy" / "policy.run" / "saves").iterdir():
        (save / "_manifest.json").unlink()
    with pytest.raises(IntegrityError):
        resumed(tmp_path / "copy")


def test_a_first_save_that_was_cut_off_is_reported_and_the_run_starts_afresh(
    straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    toys.config(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(commit, "publish_folder", die)
        patch.setattr(commit, "discard_attempt", lambda *_: None)
        with pytest.raises(Killed):
            go(tmp_path, save_every=2)
    left = tmp_path / "policy.run" / "saves" / "step-00000002"
    assert [path.name[:9] for path in left.iterdir()] == ["_attempt-"]
    (next(left.iterdir()) / "_owner.json").unlink()
    assert same(go(tmp_path), straight)
    assert "step 2 was never finished, and there is none before it" in capfd.readouterr().err


def test_a_draft_that_is_not_published_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.trainers.networks import network

    monkeypatch.setattr(checkpoint.Draft, "_publish", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(str(tmp_path / "c"), model=network())
    assert not (tmp_path / "c").exists()
