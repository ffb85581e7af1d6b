"""SIGINT and SIGTERM at moments of a run, from its imports to its report: one error, exit code 75, nobody left, and the
same command goes on.

`make test` has four chosen moments; `make test-slow` ten of a real iteration, whose seed is printed and can be given
as QUIVER_SIGNAL_SEED.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from commands import REST, alive_in, damaged, digests, leftovers, luigi, started, while_running

from pipelines.commands import stages
from pipelines.commands.command import Command, outstanding, what_stays
from pipelines.graph.plan import Plan
from pipelines.recipes import Sft
from tests import pages

SEED = int(os.environ.get("QUIVER_SIGNAL_SEED", str(random.SystemRandom().randrange(1 << 32))))
MOMENTS = 10


def until(run: subprocess.Popen[str], reached: Callable[[], bool], poll: float = 0.005) -> None:
    """Wait for `reached`; the run must not end before."""
    end = time.monotonic() + 300
    while not reached():
        assert run.poll() is None and time.monotonic() < end, run.communicate()
        time.sleep(poll)


def imports(run: subprocess.Popen[str]) -> None:
    """Wait until our packages are being imported: what Luigi itself imports before comes without our handlers."""
    until(run, lambda: "libarrow" in Path(f"/proc/{run.pid}/maps").read_text())


def stopped(folder: Path, run: subprocess.Popen[str], number: signal.Signals, group: bool) -> str:
    """What the run said after the signal; it is to have ended well-behaved."""
    (os.killpg if group else os.kill)(run.pid, number)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 75, (run.returncode, errors)
    assert errors.count("error[") == errors.count("error[75/stopped]") == 1, errors
    assert "Traceback" not in errors and "Exception" not in errors, errors
    assert alive_in(folder) == []
    return errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_it_imports(tmp_path: Path, number: signal.Signals) -> None:
    run = started(tmp_path, "RestIteration", module="pipelines")
    imports(run)
    assert "next: " in stopped(tmp_path, run, number, group=True)
    assert list(tmp_path.rglob("_manifest.json")) == []


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, "1"), pytest.param(signal.SIGTERM, "2", marks=pytest.mark.slow)]
)
def test_in_the_middle_of_a_stage(tmp_path: Path, number: signal.Signals, workers: str) -> None:
    goal = ("Toy", "--seconds", "0.4", "--workers", workers)
    run = started(tmp_path, *goal)
    until(run, lambda: bool(while_running(tmp_path, "quiver-data/toy/drawn-*/_progress-*/*")))
    assert "next: luigi --module toy Toy" in stopped(tmp_path, run, number, group=workers == "2")
    done = luigi(tmp_path, *goal)
    assert done.returncode == 0 and "3 stages to do, 1 reused" in done.stderr
    assert damaged(tmp_path) == [] and leftovers(tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_moments_of_an_iteration(tmp_path: Path) -> None:
    """Spread over its stages, from the first to the report; trainings are among them."""
    print(f"QUIVER_SIGNAL_SEED={SEED}")
    rng = random.Random(SEED)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()
    assert luigi(undisturbed, *REST, module="pipelines", timeout=900).returncode == 0
    stages = len(digests(undisturbed))
    trained = 0
    for moment in range(MOMENTS):
        number, group = rng.choice((signal.SIGINT, signal.SIGTERM)), rng.random() < 0.5
        run = started(disturbed, *REST, "--workers", rng.choice(("1", "2")), module="pipelines")
        imports(run)
        until(run, lambda done=stages * moment // MOMENTS: len(manifests(disturbed)) >= done, poll=0.05)  # type: ignore[misc]
        with suppress(subprocess.TimeoutExpired):
            run.communicate(timeout=rng.uniform(0, 2))
        runs = while_running(disturbed, "**/*.run")
        training = [path for path in runs if not (path.with_suffix("") / "_manifest.json").exists()]
        trained += bool(training)
        print(
            f"moment {moment}: {number.name}, {len(manifests(disturbed))} of {stages} stages, {len(training)} trainings"
        )
        stopped(disturbed, run, number, group)
    until_report = started(disturbed, *REST, module="pipelines")
    until(until_report, lambda: len(manifests(disturbed)) == stages, poll=0.02)
    until_report.send_signal(signal.SIGTERM)
    _, errors = until_report.communicate(timeout=120)
    assert until_report.returncode in (0, 75) and "Traceback" not in errors, errors
    assert trained, "no training was met: another seed"
    done = luigi(disturbed, *REST, module="pipelines", timeout=900)
    assert done.returncode == 0, done.stderr
    assert digests(disturbed) == digests(undisturbed)
    assert damaged(disturbed) == [] and leftovers(disturbed) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_training_that_was_stopped_is_resumed_at_its_last_save(tmp_path: Path) -> None:
    pages.model(tmp_path / "model")
    rows = [{"prompt": f"What is {n} + 1?", "response": f"It is {n + 1}."} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    goal = ("Sft", "--model", "model", "--data", "rows.jsonl", "--lr", "1e-2", "--batch-size", "8")
    goal = (*goal, "--eval-share", "0.2", "--epochs", "20", "--set", "save_every=1")

    def saves() -> list[Path]:
        return while_running(tmp_path, "quiver-data/**/policy*.run/saves/step-*/_manifest.json")

    run = started(tmp_path, *goal, module="pipelines")
    until(run, lambda: len(saves()) > 0, poll=0.02)
    errors = stopped(tmp_path, run, signal.SIGTERM, group=False)
    assert "kept: every finished stage, " in errors and "last save, " in errors
    step = int(saves()[-1].parent.name.removeprefix("step-"))
    done = luigi(tmp_path, *goal, module="pipelines", timeout=900)
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {step}, the newest save" in done.stderr
    [log] = (tmp_path / "quiver-data").rglob("policy*.run/logs/rank-00000.log")
    assert log.read_text().count(f"resumed at step {step}\n") == 1


def manifests(folder: Path) -> list[Path]:
    """All that is finished below the root."""
    return while_running(folder, "quiver-data/**/_manifest.json")


def test_what_stays_is_said_of_the_stages_that_there_are(place: Path) -> None:
    def stays(command: Command) -> str:
        return what_stays(outstanding(command.build(Plan("data")))[0])

    assert stays(stages.Import(files="rows.jsonl")).startswith("nothing of this one stage")
    asked = stays(stages.Generate(model="model", prompts="prompts.jsonl"))
    assert asked == "every finished stage, what models had answered"
    trained = stays(Sft(model="model", data="rows.jsonl"))
    assert trained.startswith("every finished stage, steps of a training up to its last save")
