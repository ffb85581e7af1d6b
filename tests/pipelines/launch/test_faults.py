"""Two ranks, one of which is killed, raises, or hangs: reported by name, all ended, and the same command goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import QuiverError, WorkerError
from schemas.process import interpreter
from schemas.settings import parse
from schemas.store.commit import read_manifest
from tests.pipelines.launch.processes import alive
from tests.trainers import toys
from tests.warm.command import launched, python
from trainers.config import Run
from trainers.launch import start
from trainers.launch.launch_result import kept, saved_step
from trainers.launch.settings import Launch

PROGRAM = "tests.pipelines.launch.faulty"
LAUNCH = Launch(hang_seconds=8, threads=1)


class Started:
    """Starts of one run, with what they said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.messages = folder, list[str]()
        self.config = Path(toys.written(folder / "run.json", toys.config(folder, save_every=1)))
        self.run = parse(Run, toys.config(folder))

    def go(self, launch: Launch = LAUNCH) -> None:
        self.messages.clear()
        given: dict[str, Any] = {"what": "sft", "program": PROGRAM, "tell": self.messages.append}
        start.prepare(self.config, self.run.paths.folder, 2, launch, **given).run()

    def fails(self, fault: str, monkeypatch: pytest.MonkeyPatch) -> QuiverError:
        """The error of a start with that fault; nothing runs on, no presence is left."""
        monkeypatch.setenv("QUIVER_FAULT", fault)
        with pytest.raises(QuiverError) as caught:
            self.go()
        assert not alive(self.folder), "orphans"
        assert not list(self.run.paths.folder.glob("ranks-*"))
        assert read_manifest(self.run.paths.out) is None
        return caught.value

    def digest(self) -> str:
        manifest = read_manifest(self.run.paths.out)
        assert manifest is not None
        return str(manifest.facts["weights_digest"])


def test_what_is_kept_is_what_was_saved_whole(tmp_path: Path) -> None:
    assert (saved_step(tmp_path), kept(tmp_path)) == (0, "every finished stage; the run had not saved yet")
    for step in (2, 10, 12):
        (tmp_path / f"saves/step-{step:08}").mkdir(parents=True)
    for name in ("step-00000002", "step-00000010"):
        (tmp_path / "saves" / name / "_manifest.json").touch()
    assert saved_step(tmp_path) == 10, "the save of step 12 was cut off"
    assert kept(tmp_path) == f"every finished stage, and steps up to 10: the save of step 10 in {tmp_path / 'saves'}"


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """A run that a test interrupts; afterwards it goes on, and teaches what one that ran through teaches."""
    monkeypatch.delenv("QUIVER_FAULT", raising=False)
    whole, parts = Started(tmp_path / "whole"), Started(tmp_path / "parts")
    launched(2, "trainers.run", whole.config)
    yield parts
    # a rank that is killed is named by its pid, which a fork has not from the one who asked for it; this start is whole
    monkeypatch.setattr(interpreter, "module", lambda name, *words: [*python(), name, *words])
    monkeypatch.setenv("QUIVER_FAULT", "none@0")
    parts.go()
    assert toys.curve(parts.run.paths.folder) == toys.curve(whole.run.paths.folder)
    assert parts.digest() == whole.digest()
    assert sorted(path.name for path in (parts.run.paths.folder / "logs").iterdir()) == [
        "launcher.log",
        "rank-00000.log",
        "rank-00001.log",
    ]


def test_a_rank_that_dies_is_named_and_the_run_goes_on(parts: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    error = parts.fails("kill@2", monkeypatch)
    assert isinstance(error, WorkerError) and error.code == 14
    assert error.render().startswith("error[14/rank-died]: sft: rank 1 of 2 was killed by SIGKILL at step 2\n")
    assert "exit code -9, as the system does when memory runs out" in error.found
    assert error.where.endswith("policy.run/logs/rank-00001.log")
    assert "the save of step 1" in error.kept and error.next == "run the same command again"
    assert "rank 1, last lines of" in parts.messages[0] and "| the fault kill strikes rank 1" in parts.messages[0]
    assert "lost touch" not in parts.messages[0]


@pytest.mark.slow
def test_a_rank_that_hangs_or_raises_is_named_and_the_run_goes_on(
    parts: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = parts.fails("sleep@4", monkeypatch)
    assert error.render().startswith("error[14/rank-stuck]: sft: rank 1 of 2 has not got on for 8 s\n")
    assert error.found == "rank 0 at step 4, rank 1 at step 4"
    assert "the save of step 3" in error.kept
    assert "| the fault sleep strikes rank 1" in parts.messages[0], parts.messages
    assert "faulty.py" in parts.messages[0] and "in strike" in parts.messages[0], "the stacks of its threads"

    error = parts.fails("raise@6", monkeypatch)
    assert error.render().startswith("error[1/bug]: KeyError: 'the fault of rank 1' (see "), error.render()
    assert "Traceback" in (parts.run.paths.folder / "traceback-1.txt").read_text()
