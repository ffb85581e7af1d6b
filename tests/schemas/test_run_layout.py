"""The folder of a training is spelt in one module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from schemas import run_layout
from tests.sources import FILES, ROOT, TREES

FILE_NAMES = (run_layout.METRICS, run_layout.LAUNCHER_LOG, run_layout.SLURM_LOG)
FOLDERS = (run_layout.SAVES, run_layout.ROLLOUTS, run_layout.TENSORBOARD)


def spells(text: str) -> bool:
    """Whether a text is a piece of a path into such a folder."""
    inside = any(name in text for name in FILE_NAMES) or any(f"/{name}" in text for name in FOLDERS)
    return inside or text == run_layout.RUN_END or f"{run_layout.RUN_END}/" in text


def texts(path: Path) -> Iterator[ast.Constant]:
    """The texts in a file that are no docstrings."""
    apart = {id(node.value) for node in ast.walk(TREES[path]) if isinstance(node, ast.Expr)}
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
            yield node


def test_no_other_file_spells_what_lies_in_the_folder_of_a_training() -> None:
    spelt = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.value!r}"
        for path in FILES
        if path.name != "run_layout.py"
        for node in texts(path)
        if spells(str(node.value))
    ]
    assert not spelt, "\n".join(spelt)
    assert spells(".run/saves") and spells("/rollouts/step=") and not spells("python -m trainers.run CONFIG.json")


def test_the_folder_stands_beside_the_checkpoint() -> None:
    assert run_layout.run_folder_of("data/policy-12345678/") == "data/policy-12345678.run"
