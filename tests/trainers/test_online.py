"""A trainer goes on from its saves; the loop runs on rows that are made step by step, with the promises of a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError, HealthError, QuiverError, Stopped
from tests.tail import late
from tests.trainers import toys
from tests.trainers.online import Killed, a_run, die, init, outcome, played, rollouts
from trainers import engine
from trainers.config import Run
from trainers.engine.checkpoint import checkpoint
from trainers.engine.checkpoint.saves import Saves
from trainers.engine.training.trainer import Trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("online")
    init(place)
    return place


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    run = a_run(folder, "whole", log_rows=True, records=str(folder / "whole records"), task_key="k" * 64)
    played(run)
    return outcome(run)


@pytest.fixture
def mine(folder: Path, request: pytest.FixtureRequest) -> Run:
    name = request.node.name
    return a_run(folder, name, log_rows=True, records=str(folder / f"{name} records"), task_key="k" * 64)


def steps(trainer: Trainer, *numbers: int) -> Iterator[dict[str, float]]:
    return (trainer.learn(toys.tokens(9, seed=number)) for number in numbers)


LORA = {"rank": 4, "alpha": 32.0, "dropout": 0.3}


@pytest.mark.parametrize("changes", [{}, {"lora": LORA}, {"save_async": True}], ids=["whole", "adapters", "async"])
def test_a_closed_trainer_goes_on_bit_for_bit(changes: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    with engine.open(a_run(folder, str(tmp_path / "whole"), **changes)) as trainer:
        expected, saved = list(steps(trainer, *range(6))), trainer.save()
    run = a_run(folder, str(tmp_path / "parted"), **changes)
    with engine.open(run, resume=True) as trainer:
        assert trainer.steps == 0
        made = list(steps(trainer, 0, 1, 2))
        trainer.save_state()
        list(steps(trainer, 7, 8))  # lost with the process
    with engine.open(run, resume=True) as trainer:
        assert trainer.steps == 3
        made += steps(trainer, 3, 4, 5)
        again = trainer.save()
    assert made == expected and again.facts == saved.facts and again.task_key == saved.task_key


def test_resumed_and_saved_at_once_it_is_the_checkpoint_that_it_would_have_been(folder: Path) -> None:
    run = a_run(folder, "at once")
    with engine.open(run) as trainer:
        list(steps(trainer, 0, 1))
        trainer.save_state()
        saved = trainer.save(str(folder / "before"))
    with engine.open(run, resume=True) as trainer:
        assert trainer.save(str(folder / "after")).facts == saved.facts


def test_a_step_may_be_chosen_and_those_behind_it_go(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = a_run(folder, "chosen", keep_last=9)
    with engine.open(run) as trainer:
        for number in range(4):
            list(steps(trainer, number))
            trainer.save_state()
    with engine.open(run) as trainer:
        with pytest.raises(ConfigError, match="no save of step 7") as caught:
            trainer.resume(7)
        assert caught.value.found == "1, 2, 3, 4"
        assert trainer.resume(2) == 2
    assert "the saves of steps 3, 4 are removed" in capfd.readouterr().err
    assert sorted(path.name for path in (run.paths.folder / "saves").iterdir()) == ["step-00000001", "step-00000002"]


def test_what_cannot_be_gone_on_with_is_refused(folder: Path) -> None:
    run = a_run(folder, "refused")
    with engine.open(run) as trainer:
        list(steps(trainer, 0))
        trainer.save_state()
        trainer.save_state()
        with pytest.raises(ConfigError, match="has made 1 steps"):
            trainer.resume()
    with engine.open(run) as trainer:
        list(steps(trainer, 0))
        with pytest.raises(ConfigError, match="saves-there"):
            trainer.save_state()
    with pytest.raises(ConfigError, match=r"seed: 0 -> 1"):
        engine.open(a_run(folder, "refused", seed=1), resume=True)
    with engine.open(a_run(folder, "other")) as other, engine.open(run) as alone, pytest.raises(ConfigError) as caught:
        alone.resume(beside=[other])
    assert caught.value.slug == "other-trainers"


def test_a_dataset_is_learnt_as_its_table(folder: Path, tmp_path: Path) -> None:
    table = toys.tokens(12)
    dataset = toys.put(tmp_path / "rows", toys.TOKENS, table.slice(0, 5), table.slice(5), rows_per_group=2)
    made = []
    for number, rows in enumerate((table, dataset)):
        with engine.open(a_run(folder, str(tmp_path / f"out-{number}"))) as trainer:
            made.append((trainer.learn(rows), trainer.save().task_key))
    assert made[0] == made[1]


def test_rows_made_step_by_step_are_those_of_the_weights(whole: dict[str, Any], folder: Path) -> None:
    """Held against a loop written here, with nothing of the engine's but `learn`."""
    with engine.open(a_run(folder, "by hand")) as trainer:
        from schemas.canonical import json_digest
        from trainers.engine.megatron import parallel

        rows, curve = rollouts(trainer), []
        for step in range(6):
            parallel.seed_all(int(json_digest({"seed": 0, "step": step})[:15], 16))
            table, figures = rows(step)
            curve.append({**trainer.learn(table), **figures})
        digest = trainer.save().facts["weights_digest"]
    lines = whole["curve"]
    assert [{name: line[name] for name in curve[0]} for line in lines] == curve
    assert whole["facts"]["weights_digest"] == digest and whole["facts"]["stats"]["steps"] == 6
    assert [line["rows"][0] for line in whole["rows"]] == [f"{step}/0" for step in range(6)]
    records = Dataset.open(str(folder / "whole records")).read()
    assert records["step"].to_pylist() == [step for step in range(1, 7) for _ in range(6)]
    assert records["sample_id"][-1].as_py() == "5/5" and not (folder / "whole.run" / "saves").exists()


@pytest.mark.parametrize("at", [0, late(1), 4, late(5)])
def test_an_online_run_that_is_cut_off_goes_on(at: int, whole: dict[str, Any], mine: Run, folder: Path) -> None:
    with pytest.raises(Killed):
        played(mine, die(at))
    asked = []
    played(mine, asked.append)
    assert asked == list(range(at // 2 * 2, 6)), "only what no save holds is made again"
    assert outcome(mine) == whole
    assert mine.paths.records is not None
    assert Dataset.open(mine.paths.records).content_digest == Dataset.open(str(folder / "whole records")).content_digest


def test_a_signal_ends_an_online_run_after_its_step(whole: dict[str, Any], mine: Run) -> None:
    def stop(step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="after step 3 of 6"):
        played(mine, stop)
    asked = []
    played(mine, asked.append)
    assert asked == [3, 4, 5] and outcome(mine) == whole


def both(folder: Path, name: str, **changes: Any) -> tuple[Run, Run]:
    """Train with a critic beside it that makes two steps for each of its own; the configurations of both."""
    run, other = a_run(folder, name, **changes), a_run(folder, f"{name} beside", keep_last=changes.get("keep_last", 2))
    with engine.open(run) as trainer, engine.open(other) as critic:
        rows = rollouts(trainer)

        def judged(step: int) -> Any:
            table, figures = rows(step)
            values = [critic.learn(table.slice(half, 3))["loss"] for half in (0, 3)]
            return table, {**figures, "critic": float(np.mean(values))}

        engine.fit(trainer, judged, reward if "keep_best" in changes else None, beside=[critic])
    return run, other


def both_outcomes(run: Run, other: Run) -> list[Any]:
    manifest = checkpoint.open_checkpoint(other.paths.out).manifest
    return [outcome(run), manifest.facts, manifest.task_key, saved(other)]


def saved(run: Run) -> list[str]:
    place = run.paths.folder / "saves"
    return sorted(os.listdir(place)) if place.exists() else []


def reward(made: int) -> dict[str, float]:
    return {"reward": {2: 0.9, 4: 0.2, 6: 0.1}[made]}


@pytest.mark.parametrize(("keep_last", "at"), [late(2, "write"), (1, "write"), (1, "finish")])
def test_a_trainer_beside_goes_on_from_where_it_was(
    keep_last: int, at: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the save of the one beside and its own, at a step that the one beside has saved already; and
    between the removals of their saves.
    """
    places, changes = [str(tmp_path / name) for name in ("with", "cut")], {"keep_last": keep_last}
    expected = both_outcomes(*both(folder, places[0], **changes))
    whole, calls = getattr(Saves, at), list[str]()

    def killed(saves: Saves, *given: Any) -> None:
        calls.append(str(saves.folder))
        if len(calls) == {"write": 4, "finish": 2}[at]:
            raise Killed
        whole(saves, *given)

    monkeypatch.setattr(Saves, at, killed)
    with pytest.raises(Killed):
        both(folder, places[1], **changes)
    monkeypatch.setattr(Saves, at, whole)
    if at == "write":
        kept = [saved(a_run(folder, f"{places[1]}{name}")) for name in ("", " beside")]
        assert kept == [["step-00000002"], ["step-00000004", "step-00000008"]]
    assert both_outcomes(*both(folder, places[1], **changes)) == expected and not expected[-1]


def test_the_best_saves_stay_with_those_beside_them(folder: Path, tmp_path: Path) -> None:
    best = {"keep_best": 1, "best_by": "-val_reward", "validate_every": 2, "validation": str(folder / "tokens")}
    runs = both(folder, str(tmp_path / "best"), keep_last=1, **best)
    assert [saved(run) for run in runs] == [["step-00000002"], ["step-00000004"]]
    with engine.open(runs[0]) as trainer, engine.open(runs[1]) as critic:
        assert (trainer.resume(2, beside=[critic]), critic.steps) == (2, 4)


def test_figures_of_ones_own_choose_the_best_save(folder: Path) -> None:
    run = a_run(folder, "best", validation=str(folder / "tokens"), validate_every=2, keep_best=1, best_by="-val_reward")
    rewards = {2: 0.2, 4: 0.9, 6: 0.1}
    with engine.open(run) as trainer:
        figures = engine.fit(trainer, rollouts(trainer), lambda made: {"reward": rewards[made]})
    lines = [json.loads(line) for line in (run.paths.folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"]: line["val_reward"] for line in lines if "val_reward" in line} == rewards
    assert (figures["val_reward"], figures["best_val_reward"], figures["best_step"]) == (0.1, 0.9, 4)
    assert [path.name for path in (run.paths.folder / "saves").iterdir()] == ["step-00000004"]


def collapsed(step: int) -> Any:
    if step == 3:
        raise HealthError("reward-collapse", "every reward is 0")
    return toys.tokens(6, seed=step)


REFUSED: list[tuple[Any, dict[str, Any], type[QuiverError], str]] = [
    (lambda step: (toys.tokens(3), {"reward": "high"}), {}, ConfigError, "are no figures"),
    (lambda step: (toys.tokens(3), 0.5), {}, ConfigError, "are no figures"),
    (lambda step: toys.tokens(3).drop_columns(["loss_mask"]), {}, DataError, "no column loss_mask"),
    (lambda step: toys.tokens(3), {"records": "records"}, ConfigError, "records-key"),
    (lambda step: toys.tokens(3), {"max_steps": ..., "epochs": 1, "optim": {"lr": 1e-2}}, ConfigError, "no-last-step"),
    (collapsed, {}, HealthError, "every reward is 0"),
]


@pytest.mark.parametrize(("made", "changes", "kind", "words"), REFUSED, ids=[case[3] for case in REFUSED])
def test_what_is_wrong_with_the_rows_of_a_step(
    made: Any, changes: dict[str, Any], kind: type[QuiverError], words: str, folder: Path, tmp_path: Path
) -> None:
    with engine.open(a_run(folder, str(tmp_path / "out"), **changes)) as trainer:
        with pytest.raises(kind, match=words) as caught:
            engine.fit(trainer, made)
        if kind is HealthError:
            assert caught.value.kept == "the state after step 2" and trainer.steps == 3


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit(folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.trainers.online", str(folder), str(folder / "answers.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    for cut, (undisturbed, gone_on, saves) in json.loads((folder / "answers.json").read_text()).items():
        assert gone_on == undisturbed, cut
        assert saves == ["step-00000002", "step-00000004"], cut
