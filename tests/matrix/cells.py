"""A program that runs every cell: `python -m tests.matrix.cells FOLDER` writes FOLDER/cells.json.

FOLDER holds `rows.json`, which says where the rows of every method lie. A cell is a run of `trainers.run` of three
steps, each over all rows, from a checkpoint of the family's network. First those that are cut by tensor over two
processes, and those that are killed in their last step and started again, each in processes of its own; then all cells
once more in this one.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

from schemas.dataset import Dataset
from tests.matrix.families import LLAMA_3, shapes
from tests.matrix.methods import ISSUE, methods
from tests.trainers import toys
from tests.trainers.interruptions import Point, launch

STEPS = 3
KILLED = Point(0, "last step", STEPS, "SIGKILL", 0, "1", "1", False)


def everywhere(method: str, family: str) -> bool:
    """Whether the cell is run cut by tensor, and interrupted."""
    return family == LLAMA_3 or method in ISSUE


def config(folder: Path, method: str, family: str, out: str, **changes: Any) -> str:
    """The configuration file of a cell whose checkpoint goes to `out`."""
    data = json.loads((folder / "rows.json").read_text())[method]
    run = {
        "algorithm": methods()[method].algorithm,
        "data": data,
        "init": str(folder / "init" / family),
        "out": out,
        "optim": {"lr": 1e-3},
        "max_steps": STEPS,
        "global_batch_size": Dataset.open(data).num_rows,
        "micro_batch_tokens": 400,
        "threads": 1,
        "track": [],
        **changes,
    }
    return toys.written(Path(out).parent / "run.json", run)


def losses(out: str) -> list[float]:
    """Of every step of a run; none of a run that never came to one."""
    if not (Path(f"{out}.run") / "metrics.jsonl").exists():
        return []
    return [line["loss"] for line in toys.curve(Path(f"{out}.run"))]


def forked(folder: Path, method: str, family: str) -> dict[str, Any]:
    """The cell over two processes, and the cell killed in its last step and started again: losses and exit codes."""
    place = folder / family / method
    tensor, resumed = f"{place}/tensor/policy", f"{place}/resumed/policy"
    mixture = shapes()[family].experts is not None  # which is cut by tensor with its sequences only
    cut = {"tensor": 2, "sequence": mixture}
    codes = launch(config(folder, method, family, tensor, parallel=cut), folder / "log", 2)
    again = config(folder, method, family, resumed, save_every=1)
    killed = launch(again, folder / "log", 1, KILLED) + launch(again, folder / "log", 1)
    return {
        "tensor": {"codes": codes, "losses": losses(tensor)},
        "resumed": {"codes": killed, "losses": losses(resumed)},
    }


def alone(folder: Path, method: str, family: str) -> dict[str, Any]:
    """The cell in this process: its exit code, losses, how many tensors below the head changed, and of how many."""
    from trainers import run

    out = f"{folder}/{family}/{method}/alone/policy"
    code = run.main([config(folder, method, family, out)])
    changed, tensors = moved(str(folder / "init" / family), out) if code == 0 else (0, 0)
    return {"code": code, "losses": losses(out), "changed": changed, "tensors": tensors}


def moved(before: str, after: str) -> tuple[int, int]:
    """How many tensors of two checkpoints differ, the heads aside, and how many there are."""
    from trainers.engine.checkpoint import checkpoint
    from trainers.engine.megatron import parallel

    layout = parallel.start()
    one, other = (checkpoint.load_model(folder, layout).state_dict() for folder in (before, after))
    names = [name for name in one if not name.endswith("_extra_state") and name != "output_layer.weight"]
    parallel.stop()
    return sum(not one[name].equal(other[name]) for name in names), len(names)


def beginnings(folder: Path) -> None:
    """A checkpoint of every family's network, to start from."""
    from trainers.engine.checkpoint import checkpoint
    from trainers.engine.megatron import parallel

    layout = parallel.start()
    for family, shape in shapes().items():
        checkpoint.save(str(folder / "init" / family), model=checkpoint.build(shape, layout))
    parallel.stop()


def main() -> None:
    """Run all cells."""
    for late in ("torch._dynamo", "trainers.engine.training.loop"):  # once, for all forks
        importlib.import_module(late)
    folder = Path(sys.argv[1])
    child = multiprocessing.get_context("fork").Process(target=beginnings, args=(folder,))  # this one is still to fork
    child.start()
    child.join()
    assert child.exitcode == 0, child.exitcode
    cells: dict[str, dict[str, Any]] = {name: {} for name in methods()}
    pairs = [(method, family) for method in cells for family in shapes()]
    for method, family in pairs:
        cells[method][family] = forked(folder, method, family) if everywhere(method, family) else {}
    for method, family in pairs:
        cells[method][family] |= alone(folder, method, family)
    (folder / "cells.json").write_text(json.dumps(cells))


if __name__ == "__main__":
    main()
