"""`python -m trainers.run CONFIG.json`: one training run in its own process (or one of several ranks).

Exit codes: 0 the checkpoint is there (also when it was there already); 2 the configuration is wrong, 10 the data are,
20 the loss is not finite, 75 stopped on request and saved, 14 another rank is gone; 1 is a fault of ours, with the
traceback in a file. The configuration and the presence of the inputs are checked before torch is imported.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeAlias

from schemas.dataset import Dataset
from schemas.errors import ConfigError, IntegrityError, QuiverError, Stopped, StorageError, printable
from schemas.manifest import Manifest, Parent
from schemas.process import program
from schemas.process.terminal import error_text
from schemas.store.commit import find_existing, read_manifest
from schemas.store.ownfiles import own_folder, replace_file
from trainers import config, registry
from trainers.config import Run
from trainers.launch import rank
from trainers.launch.rank_status import lost_peer
from trainers.launch.run_lock import run_lock


def main(arguments: list[str] | None = None) -> int:
    """Run the configuration file named on the command line; the process's exit code."""
    usage = "python -m trainers.run CONFIG.json\n       python -m trainers.launch CONFIG.json --ranks N"
    return main_of(arguments, usage, _planned)


Planned: TypeAlias = "tuple[Run, Callable[[], None]]"
"""A run, and what executes it: `QuiverError` for everything that is not our own fault."""


def main_of(arguments: list[str] | None, usage: str, plan: Callable[[str], Planned]) -> int:
    """The `main` of a program of ranks: what `plan` makes of the file named on the command line is executed; how that
    ends, whoever waits is given as exit code and error.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1 or given[0] in ("-h", "--help"):
        print(f"usage: {usage}")
        return 0 if given and given[0] in ("-h", "--help") else 2
    try:
        code, error = _go(given[0], plan)
    except SystemExit as exit_:
        rank.leave(exit_.code if isinstance(exit_.code, int) else 1)
        raise
    if error is not None and (rank.number() == 0 or error.code not in (2, 10, 20, 75)):
        print(error_text(error), file=sys.stderr, flush=True)
    rank.leave(code, error)
    return code


def _go(path: str, plan: Callable[[str], Planned]) -> tuple[int, QuiverError | None]:
    """The exit code, and the error behind it."""
    folder = Path(".")
    try:
        rank.enter()
        run, execution = plan(path)
        folder = run.paths.folder
        config.check_trackers(run.execution)
        execution()
    except QuiverError as error:
        return error.code, error
    except KeyboardInterrupt:
        return Stopped.code, program.stopped()
    except Exception as error:
        known = _ours(error, folder)
        return known.code, known
    return 0, None


def _planned(path: str) -> Planned:
    run = config.read(path)
    return run, lambda: execute(run)


def execute(run: Run) -> None:
    """Train `run`, unless its checkpoint is there; raises `QuiverError` for everything that is not our own fault."""

    def train(data: Dataset, task_key: str) -> None:
        from trainers.engine.training import loop

        validation = None if run.paths.validation is None else Dataset.open(run.paths.validation)
        loop.train(run, data, validation, task_key)

    once(run, train)


def once(run: Run, train: Callable[[Dataset, str], None]) -> None:
    """Have `train` make the checkpoint of `run`, from its data and under its key, unless it is there."""
    registry.configured(run.learning.algorithm, run.learning.settings)
    if run.paths.data is None:
        raise ConfigError(
            "no-data", "the run has no data", expected="data: the dataset to learn from", kept="nothing was started"
        )
    data = Dataset.open(run.paths.data)
    parents = [data.as_parent("data")]
    if run.paths.init is not None:
        init = _init_manifest(run.paths.init)
        parents.append(Parent("init", run.paths.init, init.content_digest, init.task_key))
    task_key = run.task_key(*(parent.content_digest for parent in parents))
    if _finished(run, task_key, parents):
        return
    with nullcontext() if rank.one_of_many() else run_lock(run.paths.folder):
        if not _finished(run, task_key, parents):
            _train(lambda: train(data, task_key))


def _finished(run: Run, task_key: str, parents: Sequence[Parent]) -> bool:
    if find_existing(run.paths.out, task_key, "checkpoint", parents) is None:
        return False
    if rank.number() == 0:
        print(f"{run.paths.out} is already finished", file=sys.stderr)
    return True


def _train(train: Callable[[], None]) -> None:
    from trainers.engine.megatron import parallel

    try:
        train()
    except QuiverError as error:
        rank.leave(error.code, error)  # before the groups are left, which may take for ever
        raise
    finally:
        parallel.stop()


def _init_manifest(init: str) -> Manifest:
    manifest = read_manifest(init)
    if manifest is None or manifest.kind != "checkpoint":
        raise IntegrityError(
            "no-checkpoint",
            f"init {init} is not a finished checkpoint",
            expected="a folder with the manifest of a checkpoint",
            found="no manifest" if manifest is None else f"a {manifest.kind}",
            where=init,
            kept="nothing was started",
            next="run the training that makes it, or correct the path",
        )
    return manifest


def _ours(error: Exception, folder: Path) -> QuiverError:
    """What to say of an exception that nobody meant: a rank lost the others, or a bug; the traceback goes to a file."""
    text = "".join(traceback.format_exception(error))
    path = folder / f"traceback-{rank.number()}.txt"
    try:
        own_folder(path.parent)
        replace_file(path, text)
    except StorageError:
        print(text, file=sys.stderr)
    message = str(error).splitlines()[0] if str(error) else ""
    bug = QuiverError("bug", f"{type(error).__name__}: {printable(message, 200)} (see {path})")
    return lost_peer(error, rank.number(), str(path)) or bug


if __name__ == "__main__":
    program.run(main)
