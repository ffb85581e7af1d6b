"""Names that tell nothing, and names that were given up for the field's own."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.sources import FILES, MODULES, ROOT, TESTS, TREES, within


def names_given(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a file gives to a variable, parameter, attribute, function, class or import, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
            yield (node.id if isinstance(node, ast.Name) else node.attr), node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname, node.lineno) for alias in node.names if alias.asname)
        elif isinstance(node, (ast.stmt, ast.ExceptHandler, ast.pattern)) and (name := getattr(node, "name", None)):
            yield name, node.lineno


def test_no_name_tells_nothing() -> None:
    """`found` is the field of an error, and given there alone."""
    empty = {"told", "held", "said", "found", "hear", "tidy", "spoken"}
    examples = {path: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "docs").rglob("*.py")}
    given = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path, tree in {**{path: TREES[path] for path in FILES + TESTS}, **examples}.items()
        for name, line in names_given(tree)
        if name in empty and not (name == "found" and path == ROOT / "schemas" / "errors.py")
    ]
    assert not given, "\n".join(given)


OLD_NAMES = {
    "": "Said hear Tally Outcome VOCABULARIES Spoken Presence Verdict Evidence standing_at Found Ground TaskSource "
    "Goal Verb Kept Labelled fewest_ranks cut_faults decisive circumstance Skeleton mean_of Places story READS",
    "trainers": "Pair Cut Feed Case together beat leads shares choices",
    "pipelines": "foreign Source",
    "schemas": "speaking",
}
"""Names that were given up for the field's own, by the package in which they meant something else."""


def test_no_name_that_was_given_up_comes_back() -> None:
    back = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for module, path in MODULES.items()
        for name, line in names_given(TREES[path])
        if any(
            name in names.split() and (not package or within(module, package)) for package, names in OLD_NAMES.items()
        )
    ]
    assert not back, "\n".join(back)
