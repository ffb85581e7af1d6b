"""`python -m quiver.reference [PAGE]`: the page docs/reference.md, made of what the code itself says.

Operations, formats, algorithms and run settings are dataclasses with docstrings, recipes are Luigi tasks with described
parameters; a text below a field is its meaning. Nothing of the page is written by hand.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import sys
import textwrap
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from datakit.op import Label, Op
from datakit.registry import INTERNAL, OPS
from datakit.verifiers.registry import VERIFIERS
from quiver import inventory
from schemas.canonical import plain
from schemas.errors import QuiverError
from schemas.process import terminal
from schemas.schema import Column
from trainers import config, registry
from trainers.algorithm import Algorithm

_HEAD = """# Reference

Made by `make docs` from the code itself; a test fails where this page is older than the code. `quiver ops`,
`quiver formats`, `quiver algorithms` and `quiver recipes` print the lists, `quiver ops label.length` one part.
"""
_EXAMPLES: dict[Any, Any] = {str: "column", int: 1, float: 1.0, bool: True}


def page() -> str:
    """docs/reference.md: operations, formats, algorithms, recipes and settings, as they are defined."""
    parts = [
        _HEAD,
        "## Operations\n",
        *(operation(kind) for kind in OPS.values()),
        "## Verifiers\n\nThe kinds of `label.verify`; what has no field there goes into its `settings`.\n",
        *(_dataclass(kind, f"### {name}\n") for name, kind in VERIFIERS.items()),
        "## Formats\n\n`docs/formats.md` says more about each.\n",
        _table(
            ("format", "row kind", "keys of a record"), [(n, k, f"`{about}`") for n, k, about in inventory.formats()]
        ),
        "## Algorithms\n",
        *(_algorithm(algorithm) for algorithm in registry.algorithms().values()),
        "## Recipes\n",
        *_recipes(),
        "## Run settings\n\nOf `python -m trainers.run CONFIG.json`; `docs/config.md` shows them in one file.\n",
        *(_dataclass(kind, f"### {title}\n") for title, kind in run_settings().items()),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def operation(kind: type[Op]) -> str:
    """One operation: what it does, what it reads and adds, its settings."""
    made = example(kind)
    lines = [f"### {kind.name}\n", f"{prose(kind)}\n", f"{facts(kind, made)}\n"]
    if isinstance(made, Label):
        added = [(column.name, kind_of(column.type), column.meaning) for column in made.adds]
        lines.append(_table(("column added", "type", "meaning"), added))
    lines.append(_settings(kind))
    return "\n".join(lines)


def facts(kind: type[Op], made: Op | None) -> str:
    """Shape, version, what it needs and what an example of it reads, as a sentence."""
    shape = next(shape for name, shape, _ in inventory.operations() if name == kind.name)
    parts = [f"{shape}, version {kind.version}"]
    parts += [f"needs {', '.join(kind.needs)}"] if kind.needs else []
    if made is not None and made.takes.columns:
        parts.append(f"reads {_columns(made.takes.columns)}")
    parts += ["run by recipes, by no command alone"] if kind.name.partition(".")[0] in INTERNAL else []
    return "; ".join(parts) + "."


def run_settings() -> dict[str, type]:
    """The parts of a training run, and the dataclasses inside them by the key that they stand under."""
    parts = {
        "What is learnt": config.Learning,
        "How it is executed": config.Execution,
        "Where things lie": config.Paths,
    }
    listed: dict[str, type] = dict(parts)
    for part in parts.values():
        listed |= _inside(part)
    return listed


def _inside(kind: type, above: str = "") -> dict[str, type]:
    kinds: dict[str, type] = {}
    for name, hint in get_type_hints(kind).items():
        for part in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                kinds |= {f"`{above}{name}`": part, **_inside(part, f"{above}{name}.")}
    return kinds


def _algorithm(algorithm: Algorithm) -> str:
    columns = [(column.name, kind_of(column.type), column.meaning) for column in algorithm.rows.columns]
    return "\n".join(
        [
            f"### {algorithm.name}\n",
            f"{terminal.sentence(inspect.getdoc(inspect.getmodule(algorithm.loss)))}.\n",
            _table(("column of its rows", "type", "meaning"), columns),
            f"Reports `loss`{''.join(f', `{name}`' for name in algorithm.metrics)}.\n",
            *(f"`{name}` is this with {inventory.spelled(preset)}.\n" for name, preset in algorithm.presets.items()),
            _dataclass(algorithm.settings, ""),
        ]
    )


def _recipes() -> Iterator[str]:
    import luigi

    from pipelines import recipes

    for name, _, about in inventory.recipes():
        task = getattr(recipes, name)
        assert issubclass(task, luigi.Task), name
        parameters = [
            (flag.replace("_", "-"), _default(task, flag, parameter), _meaning(parameter))
            for flag, parameter in task.get_params()
        ]
        yield f"### {name}\n\n{about}.\n"
        yield _table(("flag", "default", "meaning"), [(f"--{flag}", *rest) for flag, *rest in parameters])


def _meaning(parameter: Any) -> str:
    """A flag's description, and its choices in an order that stays (Luigi writes them in that of a set)."""
    about = (parameter.description or "").split("Choices:")[0].strip()
    choices = getattr(parameter, "_choices", ())
    return f"{about} ({', '.join(sorted(map(str, choices)))})" if choices else about


def _default(task: Any, name: str, parameter: Any) -> str:
    family = task.get_task_family()
    if not parameter.has_task_value(family, name):
        return "needed"
    return f"`{parameter.serialize(parameter.task_value(family, name))}`"


def _dataclass(kind: type, head: str) -> str:
    return "\n".join(part for part in (head, f"{prose(kind)}\n" if kind.__doc__ else "", _settings(kind)) if part)


def settings(kind: type) -> list[tuple[str, str, str, str]]:
    """The fields of a dataclass: name, type in the words of JSON, default, meaning."""
    hints, meanings = get_type_hints(kind), _meanings(kind)
    return [
        (field.name, words(hints[field.name]), _default_of(field), meanings.get(field.name, ""))
        for field in dataclasses.fields(kind)
        if field.init
    ]


def _settings(kind: type) -> str:
    rows = settings(kind)
    known = 4 if any(meaning for *_, meaning in rows) else 3
    return _table(("setting", "type", "default", "meaning")[:known], [row[:known] for row in rows]) if rows else ""


def _default_of(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{json.dumps(plain(field.default), default=str)}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{json.dumps(plain(field.default_factory()), default=str)}`"
    return "needed"


def words(hint: Any) -> str:
    """A type in the words of JSON."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(words, args)))
    if origin is Literal:
        return " / ".join(map(str, args))
    if origin is tuple:
        return f"list of {words(args[0])}" if args else "list"
    if origin is not None:
        return "object"
    if dataclasses.is_dataclass(hint):
        return "object"
    names = {str: "text", int: "whole number", float: "number", bool: "true / false", type(None): "null"}
    return names.get(hint, "any" if hint is Any else str(getattr(hint, "__name__", hint)))


def _meanings(kind: type) -> dict[str, str]:
    """The texts that stand below the fields of a dataclass and of its bases."""
    meanings = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                text = below.value if isinstance(below, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    meanings[line.target.id] = " ".join(text.value.split())
    return meanings


def example(kind: type[Op]) -> Op | None:
    """The operation with its defaults, and the first value that comes to mind where it has none."""
    hints = get_type_hints(kind)
    given = {
        field.name: _value(hints[field.name])
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    try:
        return kind(**given)
    except QuiverError:
        return None


def _value(hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    if get_origin(hint) is tuple:
        inside = get_args(hint)
        return tuple(map(_value, inside[:1] if inside[-1] is ... else inside))
    return _EXAMPLES.get(hint)


def prose(kind: type) -> str:
    """The docstring of a class; indented blocks stay what they are."""
    return inspect.getdoc(kind) or ""


def _columns(columns: Sequence[Column]) -> str:
    return ", ".join(f"`{column.name}`" for column in columns)


def kind_of(kind: pa.DataType) -> str:
    """An Arrow type in a word or two."""
    if pa.types.is_list(kind):
        return f"list of {kind_of(kind.value_type)}"
    return "struct" if pa.types.is_struct(kind) else str(kind)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())
