"""The project's own sources, parsed: its modules, and what each imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("schemas", "datakit", "trainers", "pipelines", "quiver")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


class Trees(dict[Path, ast.Module]):
    """Every file that is asked for, parsed once: what collects tests asks for none."""

    def __missing__(self, path: Path) -> ast.Module:
        self[path] = ast.parse(path.read_text(encoding="utf-8"))
        return self[path]


TREES = Trees()


def imports(path: Path, *, at_import: bool = False, for_types: bool = False) -> Iterator[tuple[str, int]]:
    """Absolute names a file imports, with lines; `at_import`: only what runs when it is imported itself; `for_types`:
    those that only type checkers see as well.
    """
    for name, line, inside, typed in _imports(path):
        if (inside and at_import) or (typed and not for_types):
            continue
        yield name, line


@cache
def _imports(path: Path) -> list[tuple[str, int, bool, bool]]:
    """Names with lines, whether each is imported inside a function, and whether for type checkers alone."""
    listed: list[tuple[str, int, bool, bool]] = []
    waiting: list[tuple[ast.AST, bool, bool]] = [(TREES[path], False, False)]
    while waiting:
        node, inside, typed = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += [(each, inside, typed) for each in node.orelse]
            waiting += [(each, inside, True) for each in node.body]
            continue
        if isinstance(node, ast.Import):
            listed += [(alias.name, node.lineno, inside, typed) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            listed += [(name if name in MODULES else base, node.lineno, inside, typed) for name in names]
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        waiting += [(each, inside, typed) for each in ast.iter_child_nodes(node) if not isinstance(each, ast.expr)]
    return listed


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)
