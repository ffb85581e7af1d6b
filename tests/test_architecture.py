"""The house's own rules, held by tests: registries, ceilings, names, docstrings, the README's tree.

Everything is read from the sources.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources import FILES, MODULES, ROOT, TESTS, TREES, imports
from tests.tail import LONGEST

LOCAL = {".git", ".venv", ".setup.lock", ".hypothesis", "__pycache__", "build", "dist", "quiver-data"}


def test_every_file_is_used() -> None:
    """Imported, or started as a program of its own by a file that names it, or by a person whom the README tells."""
    used = {name for path in FILES for name, _ in imports(path)}
    text = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
    text += (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace(':main"', '"')
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    idle = [
        module
        for module, path in MODULES.items()
        if path.name != "__init__.py"
        and module not in used
        and f"python -m {module.removesuffix('.__main__')} " not in shown
        and not any(f'"{name}"' in text for name in (module, path.name))
    ]
    assert not idle, f"nothing imports or starts {idle}"


# Registries


def reexports(folder: Path) -> dict[str, set[str]]:
    """For a registry's `__init__.py`: module -> names re-exported as `from ... import Y as Y`."""
    exported: dict[str, set[str]] = {}
    for node in TREES[folder / "__init__.py"].body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            stem = (node.module or "").rpartition(".")[2]
            assert all(alias.asname == alias.name for alias in node.names), f"{folder.name}: write `import Y as Y`"
            exported.setdefault(stem, set()).update(alias.name for alias in node.names)
    return exported


def named_classes(path: Path) -> Iterator[tuple[str, str]]:
    """(`name`, class) of the classes in a file whose body says `name = "family.file"`."""
    for kind in TREES[path].body:
        for line in kind.body if isinstance(kind, ast.ClassDef) else []:
            target = line.target if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [None])[0]
            value = getattr(line, "value", None)
            if isinstance(target, ast.Name) and target.id == "name" and isinstance(value, ast.Constant):
                yield value.value, kind.name


def test_every_operation_is_a_file_and_every_file_an_operation() -> None:
    from datakit.registry import FAMILIES, INTERNAL, OPS

    written = {}
    for family in (*FAMILIES, *INTERNAL):
        folder = ROOT / "datakit" / family
        for path in sorted(folder.glob("*.py")):
            for name, kind in named_classes(path):
                assert name == f"{family}.{path.stem}", f"{kind} in {family}/{path.name} calls itself {name}"
                assert kind in reexports(folder).get(path.stem, set()), f"{family}/__init__.py lacks {kind}"
                written[name] = kind
    assert written == {name: kind.__name__ for name, kind in OPS.items()}


def test_no_operation_stands_beside_the_registry() -> None:
    """Whatever class of ours calls itself family.file is in OPS; but for chains, which run several of these as one."""
    from datakit.registry import OPS

    beside = [
        f"{path.relative_to(ROOT)}: {kind} is {name}"
        for path in FILES
        for name, kind in named_classes(path)
        if isinstance(name, str) and "." in name and name not in OPS and not name.startswith("chain.")
    ]
    assert not beside, "\n".join(beside)


def test_every_algorithm_is_a_file_and_every_file_an_algorithm() -> None:
    from trainers.registry import algorithms

    folder = ROOT / "trainers" / "algorithms"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files == set(algorithms()) == set(reexports(folder))


def test_every_recipe_is_a_file_and_every_file_a_recipe() -> None:
    folder = ROOT / "pipelines" / "recipes"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    exported = reexports(folder)
    assert files == set(exported)
    for stem, names in exported.items():
        classes = {node.name for node in TREES[folder / f"{stem}.py"].body if isinstance(node, ast.ClassDef)}
        assert names <= classes, f"{stem}.py defines {classes}, re-exported are {names}"


# Ceilings and names


def test_no_file_is_too_long() -> None:
    from datakit.registry import FAMILIES, INTERNAL

    def ceiling(path: Path) -> int:
        parts = path.relative_to(ROOT).parts
        operation = parts[0] == "datakit" and parts[1] in (*FAMILIES, *INTERNAL) and any(named_classes(path))
        return 150 if operation or parts[:2] == ("trainers", "algorithms") else 400

    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES + TESTS}
    long = [f"{p.relative_to(ROOT)}: {n} lines, ceiling {ceiling(p)}" for p, n in lengths.items() if n > ceiling(p)]
    assert not long, "\n".join(long)


def test_no_function_is_too_long() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in FILES + TESTS
        for node in ast.walk(TREES[path])
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not long, "\n".join(long)


def test_no_file_is_a_landfill() -> None:
    landfills = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [str(p) for p in FILES + TESTS if p.stem in landfills or landfills & set(p.relative_to(ROOT).parts)]


def test_nothing_is_left_unfinished() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    lines = ((path, n, line) for path in FILES for n, line in enumerate(path.read_text("utf-8").splitlines(), 1))
    left = [f"{path.relative_to(ROOT)}:{n} {line.strip()}" for path, n, line in lines if marks.search(line)]
    assert not left, "\n".join(left)


def test_every_public_name_is_documented() -> None:
    bare = []
    for module, path in MODULES.items():
        if not ast.get_docstring(TREES[path]):
            bare.append(f"{module}: no module docstring")
        for node in TREES[path].body:
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                bare.append(f"{module}.{node.name}")
            contract = isinstance(node, ast.ClassDef) and all("Protocol" in ast.unparse(b) for b in node.bases)
            for method in node.body if contract else []:
                public = isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
                if public and not method.decorator_list and not ast.get_docstring(method):
                    bare.append(f"{module}.{node.name}.{method.name}")
    assert not bare, "\n".join(bare)


def test_no_docstring_is_filler() -> None:
    """At most four words tell nothing that the name and its types do not."""
    short = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {text}"
        for path in FILES
        for node in ast.walk(TREES[path])
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and (text := ast.get_docstring(node)) is not None
        and len(text.split()) <= 4
    ]
    assert not short, "\n".join(short)


def test_type_comments_of_the_future_stand_in_every_file() -> None:
    """But for what runs before the working folder is closed to imports: `__future__` is a module too."""
    line, first = "from __future__ import annotations", ("trainers/__init__.py", "trainers/doors.py")
    files = [path for path in FILES if path.relative_to(ROOT).as_posix() not in first]
    assert not [str(path) for path in files if TREES[path].body[1:] and line not in path.read_text("utf-8")]


# README, addresses, dependencies


def readme_tree() -> set[str]:
    """Paths named by the README's tree; a line is `<indent>name   clause`, two spaces of indent per level."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("<!-- tree -->")[1].split("```")[1]
    listed, above = set(), [""]
    for line in block.splitlines()[1:]:
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, clause = line.strip().partition(" ")
        assert clause.strip(), f"the README's tree says nothing about {name}"
        above = [*above[: depth + 1], above[depth] + name]
        listed.add(above[-1])
    return listed


def disk_tree() -> set[str]:
    """Files and folders two levels deep (three under docs), `__init__.py` and what git ignores left out."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    known = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    files = [Path(name) for name in known.stdout.splitlines() if (ROOT / name).exists()]
    files = files or [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    listed = set()
    for path in files:
        if LOCAL & set(path.parts) or any(part.endswith((".egg-info", "_cache")) for part in path.parts):
            continue
        depth = 3 if path.parts[0] == "docs" else 2
        listed |= {"/".join(path.parts[: n + 1]) + "/" for n in range(min(depth, len(path.parts) - 1))}
        if len(path.parts) <= 2 and path.name not in ("__init__.py", "py.typed"):
            listed.add(path.as_posix())
    return listed


def test_the_longest_tests_are_there() -> None:
    gone = [name for name in LONGEST.split() if not (ROOT / "tests" / name).is_file()]
    assert not gone and len(LONGEST.split()) > 10


def test_the_readme_shows_the_tree_on_disk() -> None:
    shown, there = readme_tree(), disk_tree()
    assert shown == there, f"README only: {sorted(shown - there)}; disk only: {sorted(there - shown)}"


NOT_BUILT = {"trainers/engine/weights/families/gemma.py"}
"""Files of additions that docs/design.md walks through on paper."""


def test_the_design_names_files_that_are_there() -> None:
    """Those in backticks, whole or from some folder on."""
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    named = {
        path
        for stem, inner, end in re.findall(r"`([\w/]*)(?:\{([\w,]+)\})?([\w/]*\.py)`", page)
        for path in (f"{stem}{one}{end}" for one in inner.split(","))
    }
    there = [f"/{path.relative_to(ROOT).as_posix()}" for path in FILES]
    gone = {path for path in named if not any(one.endswith(f"/{path}") for one in there)}
    assert "trainers/engine/training/optim.py" in named and gone == NOT_BUILT


def test_a_package_that_lists_its_files_lists_them_all() -> None:
    lists = {}
    for path in FILES:
        listed = set(re.findall(r"\b(\w+\.py) ", ast.get_docstring(TREES[path]) or ""))
        if path.name == "__init__.py" and listed:
            lists[path.parent.name] = {one.name for one in path.parent.glob("[!_]*.py")} ^ listed
    assert {"serve", "launch"} <= lists.keys() and not any(lists.values()), lists


def test_every_address_is_of_a_known_kind() -> None:
    known = {"www.apache.org", "keepachangelog.com", "semver.org", "arxiv.org", "github.com", "doi.org"}
    known |= {"download.pytorch.org"}
    made_up = re.compile(r"[0-9.]+|(.*\.)?example\.(com|org|net)|.*\.(example|invalid|test|internal)")
    address = re.compile(r"\bhttps?://(?:[^/@\s\"']*@)?([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)")
    texts = [ROOT / name for name in disk_tree() if not name.endswith("/")] + FILES + TESTS
    texts += sorted((ROOT / "docs").rglob("*.md")) + sorted((ROOT / "notebooks").glob("*.ipynb"))
    foreign = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in dict.fromkeys(texts)
        for host in address.findall(path.read_text("utf-8", errors="replace"))
        if host not in known and not made_up.fullmatch(host)
    ]
    assert not foreign, "\n".join(foreign)


def test_tested_versions_lie_in_the_declared_ranges() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    if sys.version_info < (3, 11):
        pytest.skip("the constraints hold from Python 3.11 on")
    installed = {one.name.lower(): one.version for one in importlib.metadata.distributions()}
    other = {name: installed.get(name, "none") for name in pins if installed.get(name) != pins[name]}
    assert not other, f"installed {other} differ from constraints.txt"
