"""What there is, by name and in one line each: operations, formats, algorithms, recipes; without Luigi or torch.

A recipe is a Luigi task, so what is said of it here is read from its source.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.process import terminal

VERBS = {
    "label": "Label",
    "filter": "Filter",
    "blend": "Blend",
    "template": "Template",
    "tokenize": "Tokenize",
    "measure": "Measure",
}
"""The command that runs an operation of a family by its name."""

_STAGES = ("stages", "evaluation", "curation", "models", "images")

Lines = Sequence[tuple[str, str, str]]
"""Name, kind, and what it is in a sentence."""


def operations() -> Lines:
    """Every operation, the shape it has, and the first sentence about it."""
    from datakit import op
    from datakit.registry import OPS

    shapes = (op.Read, op.Label, op.Keep, op.Expand, op.Gather, op.GatherAll, op.Blend)
    return [
        (
            name,
            next(shape.__name__ for shape in shapes if issubclass(kind, shape)),
            terminal.sentence(inspect.getdoc(kind)),
        )
        for name, kind in OPS.items()
    ]


def formats() -> Lines:
    """Every format, the row kind it becomes, and the keys of a record."""
    from datakit.formats.forms import FORMS

    return [(name, form.schema.name, form.meaning) for name, form in FORMS.items()]


def exports() -> Lines:
    """Every format that rows are exported in, the format that reads it again, and a line's keys."""
    from datakit.formats.exports import EXPORTS

    return [(name, form.back, form.meaning) for name, form in EXPORTS.items()]


def algorithms() -> Lines:
    """Every algorithm, the rows it learns from, and the first sentence of its file; behind each its presets."""
    from trainers import registry

    lines: list[tuple[str, str, str]] = []
    for name, algorithm in registry.algorithms().items():
        lines.append((name, algorithm.rows.name, terminal.sentence(inspect.getdoc(inspect.getmodule(algorithm.loss)))))
        lines += [
            (one, algorithm.rows.name, f"{name} with {spelled(algorithm.presets[one])}") for one in algorithm.presets
        ]
    return lines


def spelled(preset: Mapping[str, Any]) -> str:
    """The settings that a preset stands for: `beta 0.1, average_log_probs true`."""
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in preset.items()}
    return ", ".join(f"{name} {value}" for name, value in values.items())


def recipes() -> Lines:
    """Every recipe, its file, and the first sentence of that file."""
    return [*_re_exported("recipes")]


def suites() -> Lines:
    """Every suite, the value that it is, and the first sentence of its file."""
    return [(file, name, about) for name, file, about in _re_exported("suites")]


def _re_exported(folder: str) -> Iterator[tuple[str, str, str]]:
    """Name, file and the first sentence of the file of all that a folder of pipelines/ re-exports, read as text."""
    room = _pipelines() / folder
    for node in ast.parse((room / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            file = room / f"{(node.module or '').rpartition('.')[2]}.py"
            about = terminal.sentence(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))))
            yield from ((alias.name, file.stem, about) for alias in node.names)


def stages() -> Lines:
    """Every command of one stage, the file that it stands in, and the first sentence about it."""
    listed = []
    for name in _STAGES:
        tree = ast.parse((_pipelines() / f"commands/{name}.py").read_text(encoding="utf-8"))
        kinds = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.decorator_list]
        listed += [
            (kind.name, name, terminal.sentence(ast.get_docstring(kind)))
            for kind in kinds
            if kind.name[0] != "_" and kind.name != "StageCommand"
        ]
    return listed


def _pipelines() -> Path:
    package = importlib.util.find_spec("pipelines")
    assert package is not None and package.submodule_search_locations is not None
    return Path(package.submodule_search_locations[0])


def table(lines: Lines) -> Iterator[str]:
    """The lines in columns, the last column wrapped at the terminal's width."""
    yield from terminal.table(lines)
