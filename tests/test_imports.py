"""Who may import whom, and when: floors, rooms, circles, libraries; what an import loads.

Everything but the last tests is read from the sources; imports inside functions count.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Set
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from tests.sources import FILES, MODULES, PACKAGES, ROOT, TESTS, TREES, imports, within

ENGINE = tuple(name for name in MODULES if within(name, "trainers.engine"))
LEARNING = ("torch", "megatron", "luigi", "transformer_engine", "tensorrt_llm")
RULES = [
    # who, never imports, though these may
    (
        ("schemas",),
        ("datakit", "trainers", "pipelines", "numpy", "transformers", *LEARNING),
        (),
    ),
    (("schemas",), ("polars", "pandas", "duckdb"), ("schemas.frames",)),
    (("quiver",), ("torch", "megatron", "transformer_engine", "trainers.engine"), ()),
    (("datakit",), ("trainers", "pipelines", *LEARNING), ()),
    (("trainers",), ("datakit", "pipelines", "luigi"), ()),
    (("trainers",), ("megatron", "transformer_engine"), ENGINE),
    (("trainers.algorithms",), ("trainers.engine", "trainers.run", "pyarrow.parquet", "fsspec"), ()),
    (("trainers.engine",), ("trainers.algorithms",), ()),
    (("pipelines",), ("megatron", "transformer_engine"), ()),
    (PACKAGES, ("tests", "notebooks", "pytest", "unittest"), ()),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{'+'.join(rule[0])}-not-{rule[1][0]}")
def test_no_floor_is_skipped(rule: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]) -> None:
    who, never, exempt = rule
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for module, path in MODULES.items()
        if within(module, *who) and module not in exempt
        for name, line in imports(path)
        if within(name, *never)
    ]
    assert not broken, "\n".join(broken)


LOSSES = tuple(f"trainers.{name}" for name in ("algorithm", "arithmetic", "preference", "distillation", "policy"))


def test_an_algorithm_stands_on_the_contract_and_on_what_losses_share_alone() -> None:
    """Not on another algorithm, nor on anything of the engine; type checkers may see torch."""
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for module, path in MODULES.items()
        if within(module, "trainers.algorithms") and path.name != "__init__.py"
        for name, line in imports(path)
        if within(name, *PACKAGES) and not within(name, "schemas", *LOSSES)
    ]
    assert not broken, "\n".join(broken)


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    heavy = {
        "schemas": ("polars", "pandas", "duckdb"),
        "quiver": ("luigi", "pipelines", "polars", "duckdb"),
        "datakit": ("polars", "duckdb", "transformers", "tokenizers"),
        "pipelines": ("polars", "torch", "duckdb", "transformers", "tokenizers"),
    }
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name} when it is imported itself"
        for module, path in MODULES.items()
        for name, line in imports(path, at_import=True)
        if within(name, *heavy.get(module.split(".")[0], ()))
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.slow  # `make check` asks it too
def test_import_linter_agrees() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@cache
def edges() -> dict[str, set[str]]:
    """What every module imports of ours: at the top, inside functions, and for type checkers alone."""
    return {
        module: {name for name, _ in imports(path, for_types=True)} & MODULES.keys() for module, path in MODULES.items()
    }


def circle(imported: Mapping[str, Set[str]]) -> list[str]:
    """The first circle in `imported`; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        done.add(name)
        return next((loop for other in sorted(imported[name]) if (loop := visit(other, (*trail, name)))), [])

    return next((loop for name in sorted(imported) if (loop := visit(name, ()))), [])


def room_of(module: str) -> str:
    """The folder that a module lies in."""
    return module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]


def test_circles_are_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b", "d"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]


def test_there_is_no_circle_of_modules() -> None:
    """An import inside a function, or for type checkers alone, counts as one at the top."""
    assert not circle({module: names - {module} for module, names in edges().items()})


def test_there_is_no_circle_of_rooms() -> None:
    """Folders side by side depend on each other one way. A folder and those inside it are one thing seen from outside:
    what lies directly in it is the contract that those inside fill in, or the door that opens them.
    """
    rooms: dict[str, set[str]] = {room_of(module): set() for module in MODULES}
    for module, names in edges().items():
        here = room_of(module)
        rooms[here] |= {there for there in map(room_of, names) if not within(there, here) and not within(here, there)}
    assert not circle(rooms)


MODULE_NAMES = {"megatron": "megatron-core", "yaml": "pyyaml"}
"""Modules whose distribution has another name, where that begins otherwise than the module's."""


def tops(path: Path, **options: bool) -> set[str]:
    """Libraries from outside that a file imports."""
    names = {name.split(".")[0] for name, _ in imports(path, **options)}
    return {MODULE_NAMES.get(name, name) for name in names - set(PACKAGES) - set(sys.stdlib_module_names)}


def answered(path: Path) -> set[str]:
    """Libraries that a file imports inside a `try` that says what to do where they are not installed."""
    tries = (node for node in ast.walk(TREES[path]) if isinstance(node, ast.Try))
    caught = (one for one in tries if any("Import" in ast.unparse(h.type or h) for h in one.handlers))
    lines = {n for one in caught for n in range(one.lineno, one.handlers[0].lineno)}
    return {name.split(".")[0] for name, line in imports(path) if line in lines}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    """A library is a dependency, or it is optional: imported where it is used only, and either part of an extra or
    missed with an error of ours. No list of names stands here, so that a backend or a tracker is one file.
    """
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: Iterable[str]) -> set[str]:
        return {match[0] for text in requirements if (match := re.match("[a-z0-9-]+", text))}

    declared = names(project["dependencies"])
    extras = {name.replace("-", "_") for name in names(chain(*project["optional-dependencies"].values()))}
    undeclared, eager = [], []
    for path in FILES:
        optional = tops(path) - declared
        undeclared += [
            (path.name, name)
            for name in optional - answered(path)
            if not any(extra == name or extra.startswith(f"{name}_") for extra in extras)
        ]
        eager += [(path.name, name) for name in tops(path, at_import=True) - declared]
    assert not undeclared, f"neither a dependency, nor of an extra, nor missed with an error: {undeclared}"
    assert not eager, f"optional, and imported at the top: {eager}"
    unused = declared - set().union(*map(tops, FILES))
    assert unused <= {"psutil", "jinja2"}, f"never imported: {unused}"  # Luigi's time limits; chat templates


def test_every_module_of_pipelines_is_imported_by_a_test() -> None:
    """By name, or through a package that hands its names on: a registry's list, `pipelines.run`."""
    used, waiting = set[str](), {name for path in TESTS for name, _ in imports(path, for_types=True)} & MODULES.keys()
    while waiting:
        used |= waiting
        lists = (name for name in waiting if MODULES[name].name == "__init__.py")
        waiting = {other for name in lists for other in edges()[name]} - used
    idle = {name for name in MODULES if within(name, "pipelines")} - used
    assert {name for name in idle if MODULES[name].name != "__init__.py"} == set()


# What an import loads


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("package", ["schemas", "datakit", "pipelines", "quiver.console"])
def test_an_import_is_light(package: str) -> None:
    heavy = {"torch", "megatron", "polars", "duckdb", "transformers", "tokenizers", "pandas", "matplotlib"}
    assert not heavy & loaded_by(f"import {package}")


def test_what_algorithms_are_is_known_without_torch() -> None:
    loaded = loaded_by("from trainers import registry; assert registry.algorithms()")
    assert not {"torch", "megatron", "luigi"} & loaded


def test_every_file_can_be_imported() -> None:
    names = [name for name in MODULES if not name.endswith("__main__")]
    assert "torch" in loaded_by("import importlib\n" + "\n".join(f"importlib.import_module({n!r})" for n in names))


def test_every_package_says_that_it_is_typed() -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^"\*" = \[.*"py\.typed"', settings, re.MULTILINE), "a wheel holds the marks"
    assert [name for name in PACKAGES if not (ROOT / name / "py.typed").is_file()] == []
