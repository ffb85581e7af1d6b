"""S24: links that somebody put where a run writes lead nowhere, and what a run keeps is its user's own."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from schemas.errors import StorageError
from schemas.store.owner import Owner
from schemas.store.ownfiles import own_folder
from tests.pipelines.commands import luigi
from trainers import run as runs
from trainers.engine.data.index import Index
from trainers.engine.reporting import records
from trainers.engine.reporting.metrics import Journal
from trainers.engine.reporting.trackers.tensorboard import TensorBoard
from trainers.engine.reporting.trackers.tracker import Facts, Memory
from trainers.launch.rank_status import RankStatus
from trainers.launch.start import write_outcome

Write = Callable[[Path], object]
INDEX = Index(np.zeros((1, 3), np.int64), np.zeros((1, 1), np.int64), None, (), np.zeros(0, np.int64))
STEPS = "steps-000000001-000000002.records"


def figures(run: Path) -> None:
    journal = Journal(run / "metrics.jsonl", 0)
    journal.write({"step": 1})
    journal.close()


WRITERS: dict[str, tuple[Write, tuple[str, ...]]] = {
    "rank status": (
        lambda run: RankStatus(rank=0, owner=Owner.mine()).write(run),
        ("rank-00000.json", "rank-00000.new"),
    ),
    "index": (lambda run: INDEX.write(run / "index-1"), ("index-1",)),
    "records": (lambda run: records._write(run, (1, 2), pa.table({"step": [1]})), (STEPS, f"{STEPS}.new")),
    "traceback": (lambda run: runs._ours(KeyError("x"), run), ("traceback-0.txt",)),
    "outcome": (lambda run: write_outcome(run, {"code": 0}, ""), ("outcome.json", "outcome.new")),
    "figures": (figures, ("metrics.jsonl", "metrics.jsonl.new")),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_link_at_a_known_name_is_replaced_and_its_victim_stays(name: str, tmp_path: Path) -> None:
    write, names = WRITERS[name]
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_text("mine")
    run.mkdir()
    for planted in names:
        (run / planted).symlink_to(victim)
    write(run)
    assert victim.read_text() == "mine"
    written = run / names[0]
    assert not written.is_symlink() and written.stat().st_size


@pytest.mark.parametrize("name", ["tensorboard", "trackers", "index", "logs"])
def test_a_linked_folder_of_a_run_is_not_written_into(name: str, tmp_path: Path) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.mkdir()
    own_folder(run)
    (run / name).symlink_to(victim)
    facts = Facts("run", run, {})
    writes: dict[str, Write] = {
        "tensorboard": lambda run: TensorBoard().start(facts),
        "trackers": lambda run: Memory("wandb", facts).keep("1"),
        "logs": lambda run: own_folder(run / "logs"),
    }
    if name == "index":
        INDEX.write(run / "index" / "1")  # done without
    else:
        with pytest.raises(StorageError, match="make folder"):
            writes[name](run)
    assert list(victim.iterdir()) == []


def test_folders_of_a_run_are_0700_and_files_follow_the_umask(tmp_path: Path) -> None:
    facts = Facts("run", tmp_path / "policy.run", {})
    before = os.umask(0o027)
    try:
        tracker = TensorBoard()
        tracker.start(facts)
        tracker.close("finished")
        INDEX.write(facts.folder / "index" / "1")
        Memory("wandb", facts).keep("1")
        runs._ours(KeyError("x"), facts.folder)
        (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
        done = luigi(tmp_path, "Import", "--files", "rows.jsonl", "--format", "prompts", module="pipelines")
        assert done.returncode == 0, done.stderr
    finally:
        os.umask(before)
    logs = tmp_path / "quiver-data" / "logs"
    folders = [facts.folder, *(path for path in facts.folder.rglob("*") if path.is_dir()), logs]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700} and len(folders) == 5
    kept = [path for place in (facts.folder, tmp_path / "quiver-data") for path in place.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o640} and len(kept) >= 7


def test_the_log_of_a_command_is_not_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "quiver-data").mkdir()
    (tmp_path / "quiver-data" / "logs").symlink_to(victim)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    done = luigi(tmp_path, "Import", "--files", "rows.jsonl", "--format", "prompts", module="pipelines")
    assert done.returncode == 12 and "Traceback" not in done.stderr, done.stderr
    assert "error[12/link]: could not make folder" in done.stderr and list(victim.iterdir()) == []
